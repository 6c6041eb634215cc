"""Tables and plot of bench/sparse.py's results.json.   sparse_report.py [--write-docs] [RESULTS]"""
from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from plots import subtitle  # noqa: E402
from report import machine, markdown, number, seconds  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- quality: begin -->", "<!-- quality: end -->"
PLOT = "block_sparse.png"
COLOURS = {"oracle": "#222222", "content": "#1b6ca8", "local_window": "#d9822b", "global_local": "#58a55c", "dilated_sparse": "#a3416b",
           "axial": "#8c6bb1", "random": "#9a9a9a", "hybrid": "#b8860b", "profile": "#17a2a2"}


def _setting(row: dict) -> str:
    return f"keep {100 * row['target']:g}% of the mass" if row["target"] < 1 else f"{100 * row['ratio']:g}% of the tiles"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _faster(figure: dict) -> str:
    return f"{figure['median']:.2f}x ({figure['low']:.2f} to {figure['high']:.2f})"


def quality(model: dict) -> str:
    rows = [[row["pattern"], _setting(row), _percent(row["tiles"]), _percent(row["pairs"]), _percent(row["mass"]),
             _percent(row["worst_mass"]), f"{row['error']:.3f}", "-" if row["end"] is None else f"{row['end']:.4f}", _faster(row["faster"])] for row in model["rows"]]
    head = ["pattern", "asked for", "tiles", "pairs", "mass kept", "worst layer", "output error", model["measure"], "to improved"]
    return (f"**{model['title']}**, {model['layers']} layers, tiles of {model['block']} tokens; {model['measure']} without tiles "
            f"{model['end']:.4f}.\n\n{markdown(head, rows)}")


def speed(found: dict) -> str:
    rows = []
    for row in found["rows"]:
        for entry in row["competitors"]:
            time = entry["seconds"]
            rows.append([row["setting"], _percent(row["mass"]), entry["title"], seconds(time["median"]),
                         f"{seconds(time['low'])} to {seconds(time['high'])}", f"{entry['faster']['median']:.2f}x"])
    rates = "; ".join(f"{row['setting']}: {number(row['efficiency']['median'])}% of `improved`'s rate on the pairs "
                      f"computed, choosing {row['choosing']['median']:.1f}% of the time" for row in found["rows"])
    return (f"**{found['title']}**, tiles of {found['block']}.\n\n"
            f"{markdown(['tiles chosen by', 'mass kept', 'who', 'median', 'spread', 'its time to choosing block_sparse'], rows)}\n{rates}.\n")


def tables(results: dict) -> str:
    parts = [machine(results) + f" {results['minutes']:.0f} minutes in all."]
    parts += [quality(model) for model in results["models"]]
    if "speed" in results:
        parts.append(speed(results["speed"]))
    return "\n\n".join(parts)


def _curve(ax, model: dict, across, name: str) -> None:
    for pattern in dict.fromkeys(row["pattern"] for row in model["rows"]):
        points = sorted((across(row), 100 * row["mass"]) for row in model["rows"] if row["pattern"] == pattern)
        ax.plot(*zip(*points), "o--" if pattern == "oracle" else "o-", ms=4, lw=1.6, color=COLOURS[pattern], label=pattern)
    ax.axhline(99, color="#bbbbbb", lw=0.8)
    ax.axhline(95, color="#bbbbbb", lw=0.8, ls=":")
    ax.set_xlabel(name)
    ax.set_ylim(0, 102)
    ax.spines[["top", "right"]].set_visible(False)


def draw(results: dict, path: Path) -> None:
    """For each model: attention kept against the part of the pairs computed, and against the time to `improved`'s."""
    models = [model for model in results["models"] if model["rows"]]
    if not models:
        return
    figure, axes = plt.subplots(len(models), 2, figsize=(11, 3.6 * len(models)), squeeze=False)
    for (left, right), model in zip(axes, models):
        _curve(left, model, lambda row: 100 * row["pairs"], "% of the pairs computed")
        _curve(right, model, lambda row: row["faster"]["median"], "times faster than improved (the oracle's search not counted)")
        right.set_xscale("log")
        right.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        right.xaxis.set_minor_formatter(lambda value, _: "")
        left.set_ylabel("% of the attention kept")
        left.set_title(model["title"], loc="left", fontsize=10, fontweight="bold")
    axes[0][0].legend(frameon=False, fontsize=8, ncols=2, loc="lower right")
    figure.suptitle(subtitle(results), fontsize=9, color="#555555", x=0.02, ha="left")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def write(results: dict, folder: Path, root: Path | None) -> None:
    (folder / "table.md").write_text(tables(results))
    draw(results, folder / PLOT)
    print(f"\n{tables(results)}\nwritten to {folder}")
    if root is not None:
        page = root / "docs" / "block-sparse-quality.md"
        text = page.read_text()
        if BEGIN not in text or END not in text:
            raise SystemExit(f"{page} lacks the lines {BEGIN} and {END}, between which the tables go")
        body = f"{BEGIN}\n{tables(results)}\n{END}"
        page.write_text(re.sub(re.escape(BEGIN) + ".*" + re.escape(END), lambda _: body, text, flags=re.DOTALL))
        if (folder / PLOT).exists():
            shutil.copy(folder / PLOT, root / "docs" / PLOT)


if __name__ == "__main__":
    arguments = [x for x in sys.argv[1:] if x != "--write-docs"]
    where = Path(arguments[0]) if arguments else ROOT / "build" / "bench-sparse"
    write(json.loads((where / "results.json").read_text()), where, ROOT if "--write-docs" in sys.argv else None)
