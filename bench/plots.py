"""Plots of results.json: time, throughput against the peak, memory, cost per token.   plots.py RESULTS_FOLDER"""
from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FuncFormatter, NullFormatter  # noqa: E402

from report import number  # noqa: E402

OURS, COMPOSITION, OTHER = "#1b6ca8", "#d9822b", "#7a7a7a"
COLOURS = {"library": OURS, "improved": OURS, "composition": COMPOSITION, "torchscale": COMPOSITION,
           "autograd": COMPOSITION, "dense": OTHER, "mask": "#a3416b", "standard": "#58a55c"}
TITLES = {"library": "this library", "improved": "improved (this library)", "standard": "standard (this library)",
          "composition": "PyTorch composition", "torchscale": "PyTorch composition",
          "autograd": "PyTorch composition", "dense": "PyTorch dense attention",
          "mask": "PyTorch, n x n mask"}
MIB = 1 << 20


def plain(value: float, _=None) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def tokens_text(n: float, _=None) -> str:
    for size, unit in ((1 << 20, "M"), (1 << 10, "K")):
        if n >= size:
            return f"{n / size:g}{unit}"
    return f"{n:g}"


def log_axis(axis, formatter) -> None:
    axis.set_major_formatter(FuncFormatter(formatter))
    axis.set_minor_formatter(NullFormatter())


def legend_of(ax, names, **options) -> None:
    """One entry for each title, in the order of first use."""
    first = {}
    for name in names:
        first.setdefault(TITLES[name], COLOURS[name])
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in first.values()]
    ax.legend(handles, list(first), frameon=False, **options)


def subtitle(results: dict) -> str:
    about = results["machine"]
    quick = "QUICK: reduced sizes, times mean nothing; " if results["quick"] else ""
    return f"{quick}{about['cpu']}, {about['threads']} threads, {about['instruction_set']}; PyTorch {about['torch']}"


def finish(figure, ax, title: str, results: dict, path: Path) -> None:
    ax.set_title(f"{title}\n", loc="left", fontsize=13, fontweight="bold")
    ax.text(0, 1.02, subtitle(results), transform=ax.transAxes, fontsize=9, color="#555555")
    ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def bars(ax, results: dict, value, text) -> list[str]:
    """Pairs of horizontal bars, one pair a row of the table of times; returns the names drawn."""
    rows = [row for row in results["rows"] if "competitors" in row]
    names = []
    for i, row in enumerate(rows):
        for j, entry in enumerate(row["competitors"]):
            middle, low, high = value(entry)
            place = i + 0.38 * (j - 0.5)
            ax.barh(place, middle, 0.34, color=COLOURS[entry["name"]],
                    xerr=[[max(0.0, middle - low)], [max(0.0, high - middle)]], error_kw={"lw": 1, "ecolor": "#333333"})
            ax.annotate(text(row, entry), (max(middle, high), place), xytext=(5, 0), textcoords="offset points",
                        va="center", fontsize=8.5)
            names.append(entry["name"])
    ax.set_yticks(range(len(rows)), [row["work"] for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    return names


def draw_time(results: dict, folder: Path) -> None:
    def value(entry):
        return [1e3 * entry["seconds"][key] for key in ("median", "low", "high")]

    def text(row, entry):
        faster = f"   ({row['figure']['median']:.2f} x faster)" if entry["name"] == "library" else ""
        return f"{number(value(entry)[0])} ms{faster}"

    figure, ax = plt.subplots(figsize=(10, 6.5))
    ax.set_xscale("log")
    names = bars(ax, results, value, text)
    left, right = ax.get_xlim()
    ax.set_xlim(left, right * 4)
    log_axis(ax.xaxis, plain)
    ax.set_xlabel("milliseconds a forward pass (log axis); bars: median, lines: fastest to slowest round")
    legend_of(ax, names, loc="upper center", bbox_to_anchor=(0.4, -0.1), ncols=4)
    finish(figure, ax, "Time of a forward pass", results, folder / "time.png")


def draw_throughput(results: dict, folder: Path) -> None:
    def value(entry):
        seconds = entry["seconds"]
        return [entry["counted_flops"] / seconds[key] / 1e9 for key in ("median", "high", "low")]

    figure, ax = plt.subplots(figsize=(10, 6.5))
    names = bars(ax, results, value, lambda row, entry: f"{value(entry)[0]:.0f}")
    for name, title, style in (("f32", "f32 peak", "-"), ("bf16", "bf16 peak", "--")):
        if name in results["peaks"]:
            peak = results["peaks"][name]["median"] / 1e9
            ax.axvline(peak, color="#222222", ls=style, lw=1.2, zorder=3)
            ax.annotate(f"{title}\n{peak:.0f}", (peak, -1.4), xytext=(4, 0), textcoords="offset points", fontsize=8.5,
                        va="top")
    ax.set_xlim(0, ax.get_xlim()[1] * 1.12)
    ax.set_ylim(len([r for r in results["rows"] if "competitors" in r]) - 0.4, -1.4)
    ax.set_xlabel("GF/s, counted: a pair of query and key once per pattern that holds it; what several patterns\n"
                  "share is computed once by this library, so that more than the peak is possible")
    legend_of(ax, names, loc="upper center", bbox_to_anchor=(0.4, -0.14), ncols=4)
    finish(figure, ax, "Throughput against the machine's multiply-add peak", results, folder / "throughput.png")


def draw_memory(results: dict, folder: Path) -> None:
    figure, ax = plt.subplots(figsize=(9, 5.5))
    points = results["memory"]
    names = list(dict.fromkeys(point["name"] for point in points))
    for name in names:
        for heads in dict.fromkeys(point["heads"] for point in points if point["name"] == name):
            its = [p for p in points if p["name"] == name and p["heads"] == heads]
            ax.plot([p["n"] for p in its], [max(p["growth"] / MIB, 0.1) for p in its], "o-" if heads > 2 else "s--",
                    color=COLOURS[name], ms=6, label=f"{TITLES[name]}, {heads} heads")
    allowed = 32 + 4 * results["machine"]["threads"]
    ax.axhline(allowed, color="#b00020", lw=1, ls=":")
    ax.annotate(f"allowed: {allowed} MiB", (1, allowed), xycoords=("axes fraction", "data"), xytext=(-4, 4),
                textcoords="offset points", ha="right", fontsize=9, color="#b00020")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    log_axis(ax.xaxis, tokens_text)
    log_axis(ax.yaxis, plain)
    ax.grid(alpha=0.25)
    ax.set_xlabel("tokens (log axis)")
    ax.set_ylabel("MiB beyond inputs and output, as the process grows")
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    finish(figure, ax, "Memory of a forward pass", results, folder / "memory.png")


def _dense_beyond(points: list[dict], last: int) -> tuple[list[float], list[float]]:
    """Dense attention where it was not measured: its cost per token grows as n."""
    end = points[-1]
    lengths = [end["n"]]
    while lengths[-1] < last:
        lengths.append(lengths[-1] * 2)
    return lengths, [end["nanoseconds"]["median"] * n / end["n"] / 1e3 for n in lengths]


def draw_tokens(results: dict, folder: Path) -> None:
    figure, ax = plt.subplots(figsize=(9, 5.5))
    points = results["tokens"]
    for name in ("dense", "composition", "library"):
        its = [point for point in points if point["name"] == name]
        middle = [p["nanoseconds"]["median"] / 1e3 for p in its]
        below = [m - p["nanoseconds"]["low"] / 1e3 for m, p in zip(middle, its)]
        above = [p["nanoseconds"]["high"] / 1e3 - m for m, p in zip(middle, its)]
        ax.errorbar([p["n"] for p in its], middle, [below, above], fmt="o-", color=COLOURS[name], ms=6, lw=2,
                    capsize=3, label=TITLES[name])
        if name == "dense":
            ax.plot(*_dense_beyond(its, max(p["n"] for p in points)), ls=":", color=COLOURS[name], lw=2,
                    label="dense attention, extrapolated (grows as n)")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(sorted({p["n"] for p in points if p["name"] == "library"}))
    log_axis(ax.xaxis, tokens_text)
    log_axis(ax.yaxis, plain)
    ax.grid(alpha=0.25)
    ax.set_xlabel("tokens in the sequence (log axis)")
    ax.set_ylabel("microseconds a token (log axis)")
    ax.legend(frameon=False, loc="upper left")
    finish(figure, ax, "Cost per token against the length of the sequence, 8 heads x 64, f16", results,
           folder / "cost_per_token.png")


def draw(results: dict, folder: Path) -> None:
    """Those plots that the results have figures for."""
    if any("competitors" in row for row in results["rows"]):
        draw_time(results, folder)
        draw_throughput(results, folder)
    if "memory" in results:
        draw_memory(results, folder)
    if "tokens" in results:
        draw_tokens(results, folder)


if __name__ == "__main__":
    draw(json.loads((Path(sys.argv[1]) / "results.json").read_text()), Path(sys.argv[1]))
