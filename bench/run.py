"""The benchmark: `make bench`, `make bench-quick`, or   build/venv/bin/python bench/run.py --help"""
from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

import torch

import comparisons
import gradients
import implementations
import machine
import memory
import plots
import python_overhead
import report
import small
import threads
import tokens
from bench import Bench

# In this order; memory in processes of its own, before this one has grown.
PARTS = {
    "memory": memory.measure,
    **{group: partial(comparisons.measure, group=group) for group in comparisons.GROUPS},
    "backward": gradients.measure,
    "threads": threads.measure,
    "small": small.measure,
    "python": python_overhead.measure,
    "implementations": implementations.measure,
    "tokens": tokens.measure,
}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measures this library beside PyTorch in one run, results checked, and writes results.json, "
                    "table.md and plots. Exit status 1 if a result is wrong.")
    parser.add_argument("--rows", default=",".join(PARTS), help="of " + ",".join(PARTS) + " (all)")
    parser.add_argument("--repeats", type=int, help="rounds (7; with --quick 2)")
    parser.add_argument("--quick", action="store_true", help="sizes that take seconds; everything is still checked")
    parser.add_argument("--threads", type=int, default=machine.cores(), help="of all competitors (one per core)")
    parser.add_argument("--build", type=Path, default=machine.ROOT / "build", help="the library's build folder (build)")
    parser.add_argument("--out", type=Path, help="folder of the results (BUILD/bench; with --quick BUILD/bench-quick)")
    chosen = parser.parse_args()
    chosen.rows = chosen.rows.split(",")
    unknown = [row for row in chosen.rows if row not in PARTS]
    if unknown:
        parser.error(f"--rows: there is no {', '.join(unknown)}; there are {', '.join(PARTS)}")
    chosen.repeats = chosen.repeats or (2 if chosen.quick else 7)
    chosen.build = chosen.build.resolve()
    chosen.out = chosen.out or chosen.build / ("bench-quick" if chosen.quick else "bench")
    return chosen


def write(bench: Bench, minutes: float, folder: Path) -> dict:
    results = {"machine": machine.describe(bench.context, bench.threads), "quick": bench.quick,
               "repeats": bench.repeats, "minutes": minutes, "peaks": bench.peaks.summary(), "rows": bench.rows,
               **bench.figures, "wrong": bench.wrong}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "table.md").write_text(report.table(results))
    return results


def main() -> int:
    chosen = options()
    started = time.monotonic()
    torch.set_num_threads(chosen.threads)
    bench = Bench(chosen.build, chosen.quick, chosen.repeats, chosen.threads)
    for part, measure in PARTS.items():
        if part in chosen.rows:
            measure(bench)
            bench.peaks.measure()
            results = write(bench, (time.monotonic() - started) / 60, chosen.out)  # also what an interrupted run found
    plots.draw(results, chosen.out)
    print(f"\n{report.table(results)}\nwritten to {chosen.out}, in {results['minutes']:.1f} minutes")
    for wrong in bench.wrong:
        print(f"WRONG: {wrong}", file=sys.stderr)
    return 1 if bench.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
