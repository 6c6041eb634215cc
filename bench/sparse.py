"""Block-sparse attention on real models: `make bench-sparse`, or   build/venv/bin/python bench/sparse.py --help"""
from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

import machine
import sparse_models
import sparse_report
from bench import Bench
from sparse_quality import CONTENT, FIXED, ORACLE, PROFILE, Measured, Setting, measure
from sparse_speed import measure_speed

BLOCK = 64
RATIOS = (0.05, 0.1, 0.2, 0.4)  # of content, and of the oracle
FIXED_RATIOS = (0.05, 0.2)      # of the patterns that look at no data
TARGETS = (0.9, 0.95, 0.99)
SPEED_BLOCK, SPEED_LAYER = 128, 1  # FlexAttention's own block; a layer whose attention is sparser than others'
PARTS = ("minilm", "interpolated", "longnet", "long", "speed")


def settings(quick: bool) -> list[Setting]:
    ratios, fixed, targets = (RATIOS[2:3], FIXED_RATIOS[1:], TARGETS[1:2]) if quick else (RATIOS, FIXED_RATIOS, TARGETS)
    return ([Setting(pattern, ratio) for pattern in (ORACLE, CONTENT) for ratio in ratios]
            + [Setting(pattern, target=target) for pattern in (CONTENT, PROFILE) for target in targets]
            + [Setting(pattern, ratio) for pattern in FIXED for ratio in fixed])


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Attention kept, error, end measure and time of block_sparse on the layers of MiniLM and of a LongNet model that "
                    "this trains (once: it takes a quarter of an hour), and its speed beside PyTorch's. Writes results.json, "
                    "table.md and block_sparse.png. Exit status 1 if something could not be measured, or two results differ.")
    parser.add_argument("--rows", default=",".join(PARTS), help="of " + ",".join(PARTS) + " (all)")
    parser.add_argument("--repeats", type=int, help="rounds of each time (3; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="sizes that take seconds; times and qualities mean nothing")
    parser.add_argument("--block", type=int, default=BLOCK, help=f"block size of the tiles ({BLOCK})")
    parser.add_argument("--threads", type=int, default=machine.cores(), help="of all competitors (one per core)")
    parser.add_argument("--build", type=Path, default=machine.ROOT / "build", help="the library's build folder (build)")
    parser.add_argument("--out", type=Path, help="folder of the results (BUILD/bench-sparse; with --quick BUILD/bench-sparse-quick)")
    parser.add_argument("--write-docs", action="store_true", help="put tables and plot into docs/, too")
    chosen = parser.parse_args()
    chosen.rows = chosen.rows.split(",")
    unknown = [row for row in chosen.rows if row not in PARTS]
    if unknown:
        parser.error(f"--rows: there is no {', '.join(unknown)}; there are {', '.join(PARTS)}")
    chosen.repeats = chosen.repeats or (1 if chosen.quick else 3)
    chosen.build = chosen.build.resolve()
    chosen.out = chosen.out or chosen.build / ("bench-sparse-quick" if chosen.quick else "bench-sparse")
    return chosen


def models(chosen: argparse.Namespace):
    """Of each part that is asked for: the model, made when it is its turn, and what is measured on it."""
    grid = settings(chosen.quick)
    short, long = (1024, 2048) if chosen.quick else (8192, 32768)
    if "minilm" in chosen.rows:
        yield sparse_models.minilm(short, interpolated=False), grid, chosen.repeats
    if "interpolated" in chosen.rows:
        yield sparse_models.minilm(short, interpolated=True), grid, chosen.repeats
    if "longnet" in chosen.rows:
        training = sparse_models.QUICK_TRAINING if chosen.quick else sparse_models.TRAINING
        checkpoint = sparse_models.train(chosen.build, chosen.out, training)
        yield sparse_models.longnet(checkpoint, training, training["sequence"]), grid, chosen.repeats
    if "long" in chosen.rows:
        few = [Setting(CONTENT, ratio) for ratio in RATIOS[1:]] + [Setting(CONTENT, target=0.95)]
        yield sparse_models.minilm(long, interpolated=True), few, 1


def main() -> int:
    chosen = options()
    started = time.monotonic()
    torch.set_num_threads(chosen.threads)
    bench = Bench(chosen.build, chosen.quick, chosen.repeats, chosen.threads)
    results = {"machine": machine.describe(bench.context, bench.threads), "quick": bench.quick, "models": []}
    chosen.out.mkdir(parents=True, exist_ok=True)

    def write() -> None:  # after each part: also what an interrupted run found
        results.update(peaks=bench.peaks.summary(), wrong=bench.wrong, minutes=(time.monotonic() - started) / 60)
        (chosen.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")

    for model, its_settings, rounds in models(chosen):
        results["models"].append(measure(bench, model, its_settings, chosen.block, rounds))
        bench.peaks.measure()
        write()
    if "speed" in chosen.rows:
        model = sparse_models.minilm(1024 if chosen.quick else 32768, interpolated=True)
        bench.say(f"speed: {model.title}")
        kept = [Setting(CONTENT, ratio) for ratio in ((0.2,) if chosen.quick else (0.05, 0.2))]
        results["speed"] = measure_speed(bench, Measured(bench, model, SPEED_BLOCK), SPEED_LAYER, kept, chosen.repeats)
        write()
    sparse_report.write(results, chosen.out, machine.ROOT if chosen.write_docs else None)
    for wrong in bench.wrong:
        print(f"WRONG: {wrong}", file=sys.stderr)
    return 1 if bench.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
