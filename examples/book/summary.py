"""Prints what the demo found, from the files that its steps left in FOLDER."""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

WIDTH = 24


def read(part: Path, name: str) -> dict:
    return json.loads((part / f"{name}.json").read_text())


def binary(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"


def reason(explanation: dict) -> str:
    """The rules that met their condition but were passed over, and the one that decided."""
    lines = []
    for rule in explanation["rules"]:
        if rule["holds"]:
            lines.append(f"{rule['condition']} ({rule['facts']}) -> {rule['implementation']}: {rule['outcome']}")
        if rule["chosen"]:
            break
    return "\n            ".join(lines)


def figures(part: Path, prepared: dict) -> dict[str, str]:
    run, measured, check = (read(part, name) for name in ("run", "measured", "check"))
    cost = read(part, "explanation")["cost"]
    n = prepared["shape"][1]
    return {
        "": prepared["title"],
        "tokens": f"{n:,}",
        "data type": prepared["dtype"],
        "chosen by auto": run["implementation"],
        "instruction set, threads": f"{run['instruction_set']}, {run['threads']}",
        "time": f"{run['seconds']:.2f} s",
        "tokens a second": f"{n / run['seconds']:,.0f}",
        "arithmetic": f"{run['counted_gflops_per_second']:,.0f} Gflop/s",
        "less work than dense": f"{cost['dense_pairs'] / cost['counted_pairs']:,.0f} times",
        "inputs and outputs": binary(cost["tensor_bytes"]),
        "memory beyond them": binary(run["workspace_bytes"]),
        "  as measured": binary(measured["peak_own_bytes"]),
        "rows compared": f"{check['rows']:,}",
        "largest difference, out": f"{check['largest_out_difference']:.1e}",
        "largest difference, lse": f"{check['largest_lse_difference']:.1e}",
        "of what rounding allows": f"{100 * max(check['out']['share_of_bound'], check['lse']['share_of_bound']):.0f} %",
        "weight beyond 512 tokens": f"{100 * check['weight_beyond_512_tokens']:.0f} %",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    prepared = json.loads((folder / "prepared.json").read_text())
    columns = [figures(folder / name, part) for name, part in prepared["parts"].items()]
    for label in columns[0]:
        print(f"  {label:<27}" + "".join(f"{column[label]:>{WIDTH}}" for column in columns))
    book = folder / "book"
    print(f"\n  why       {reason(read(book, 'explanation'))}")
    check = read(book, "check")
    if check["words"]:
        print(f"\n  what some words attend to most, in head {check['shown_head']}:")
    for shown in check["words"]:
        print(f"    {shown['word']} ({shown['verse']}): {', '.join(shown['sees'])}")
    if prepared["note"]:
        print(f"\n  disk      {prepared['note']}")
    print(f"\n  picture   {folder / 'pattern.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
