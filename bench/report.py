"""Tables in Markdown from results.json, and the README's speed section.

report.py [RESULTS]                  prints the tables
report.py --write-readme [RESULTS]   writes the section of README.md between the markers, and docs/cost_per_token.png

RESULTS is the folder that run.py wrote (build/bench)."""
from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"
MIB = 1 << 20


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def seconds(value: float) -> str:
    return f"{number(value)} s" if value >= 1 else f"{number(1e3 * value)} ms"


def markdown(heading: list[str], rows: list[list[str]]) -> str:
    right = [all(not row[i] or row[i][0] in "0123456789≥≤-" for row in rows) and i > 0 for i in range(len(heading))]
    lines = [heading, ["---:" if is_right else "---" for is_right in right], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def machine(results: dict) -> str:
    about, peaks = results["machine"], results["peaks"]
    bf16 = f", {peaks['bf16']['median'] / 1e9:.0f} GF/s in bf16 products" if "bf16" in peaks else ""
    return (f"{about['cpu']} ({about['architecture']}), {about['threads']} threads, kernels for "
            f"{about['instruction_set']}; PyTorch {about['torch']}, {about['system']}, {about['date']}"
            f"{', commit ' + about['commit'] if about['commit'] else ''}. Measured beside it: "
            f"{peaks['f32']['median'] / 1e9:.0f} GF/s in f32 multiply-adds "
            f"({peaks['f32']['low'] / 1e9:.0f} to {peaks['f32']['high'] / 1e9:.0f} over {peaks['rounds']} rounds)"
            f"{bf16}, {peaks['read']['median'] / 1e9:.0f} GB/s from memory.")


def targets(results: dict) -> str:
    rows = []
    for row in results["rows"]:
        figure, unit = row["figure"], row["unit"]
        sign = {"at least": "≥", "at most": "≤"}.get(row["sense"])
        goal = "" if row.get("target") is None else f"{sign} {row['target']:g} {unit}"
        met = {True: "yes", False: "no", None: ""}[row.get("met")]
        rows.append([row["work"], f"{number(figure['median'])} {unit}",
                     f"{number(figure['low'])} to {number(figure['high'])}", goal, met])
    return markdown(["work", "measured", "spread", "target", "met"], rows)


def times(results: dict) -> str:
    rows = []
    for row in results["rows"]:
        for entry in row.get("competitors", []):
            peak = results["peaks"]["f32"]["median"]
            rows.append([row["work"], entry["title"], seconds(entry["seconds"]["median"]),
                         f"{seconds(entry['seconds']['low'])} to {seconds(entry['seconds']['high'])}",
                         f"{entry['flops_per_second'] / 1e9:.0f}", f"{100 * entry['flops_per_second'] / peak:.0f} %",
                         f"{entry['check']['worst']:.2f}" if "check" in entry else "-"])
    return markdown(["work", "who", "median", "spread", "counted GF/s", "of the f32 peak", "error / allowed"], rows)


def implementations(results: dict) -> str:
    table = results["implementations"]
    standard = next(entry for entry in table if entry["name"] == "standard")
    rows = []
    for entry in table:
        size = f"O(1): {entry['workspace'] / MIB:.1f} MiB, {number(entry['workspace'] / standard['workspace'])}x"
        rows.append([entry["name"], size, f"{number(entry['speed']['median'])}x", "100%"])
    return markdown(["implementation", "memory beyond inputs and output", "speed", "quality"], rows)


def memory(results: dict) -> str:
    rows = [[entry["name"], f"{entry['n']:,}", str(entry["heads"]), f"{entry['growth'] / MIB:,.1f}",
             f"{entry['workspace'] / MIB:,.1f}" if "workspace" in entry else ""] for entry in results["memory"]]
    return markdown(["who", "tokens", "heads", "MiB measured", "MiB by da_attention_workspace"], rows)


def tokens(results: dict) -> str:
    rows = [[entry["name"], f"{entry['n']:,}", number(entry["nanoseconds"]["median"]),
             f"{number(entry['nanoseconds']['low'])} to {number(entry['nanoseconds']['high'])}"]
            for entry in results["tokens"]]
    return markdown(["who", "tokens", "ns a token", "spread"], rows)


def notes(results: dict) -> str:
    return "".join(f"- {row['work']}: {row['note']}.\n" for row in results["rows"] if "note" in row)


def table(results: dict) -> str:
    """All tables that the results hold."""
    parts = [machine(results)]
    if results["quick"]:
        parts.append("QUICK: reduced sizes, whatever the rows say. The results are checked, the times mean nothing.")
    parts += [targets(results), notes(results)]
    for title, write, needs in (("Times", times, "rows"), ("Implementations", implementations, "implementations"),
                                ("Memory", memory, "memory"), ("Cost per token", tokens, "tokens")):
        if results.get(needs):
            parts.append(f"### {title}\n\n{write(results)}")
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def readme_section(results: dict) -> str:
    return f"""{BEGIN}
{textwrap.fill(machine(results), 120)}

Medians of interleaved rounds in one process, every result first compared with the definition; the spread is from the
slowest to the fastest round. "PyTorch" is the composition of PyTorch's own CPU kernels ([bench](bench/)) unless the row
says otherwise. `make bench` repeats it; [docs/benchmark.md](docs/benchmark.md) says what each row means.

{targets(results)}
The implementations beside each other (f32, n = 8,192, 12 heads x 64):

{implementations(results)}
![Cost per token against the number of tokens](docs/cost_per_token.png)
{END}"""


def write_readme(folder: Path, results: dict) -> None:
    missing = [name for name in ("rows", "implementations", "memory", "tokens") if not results.get(name)]
    if results["quick"] or results["wrong"] or missing:
        sys.exit(f"report: {folder} holds no complete run with right results; run make bench")
    readme = ROOT / "README.md"
    text, found = re.subn(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: readme_section(results),
                          readme.read_text(), flags=re.DOTALL)
    if found != 1:
        sys.exit(f"report: README.md has no lines {BEGIN} and {END}")
    readme.write_text(text)
    shutil.copyfile(folder / "cost_per_token.png", ROOT / "docs" / "cost_per_token.png")


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--write-readme"]
    folder = Path(arguments[0]) if arguments else ROOT / "build" / "bench"
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        sys.exit(__doc__)
    if not (folder / "results.json").is_file():
        sys.exit(f"report: {folder / 'results.json'} is missing; run make bench")
    results = json.loads((folder / "results.json").read_text())
    if "--write-readme" in sys.argv:
        write_readme(folder, results)
    else:
        print(table(results))


if __name__ == "__main__":
    main()
