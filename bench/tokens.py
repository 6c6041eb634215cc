"""Cost per token from 8,192 to 4,194,304 tokens, beside the PyTorch composition and dense attention where they end."""
from __future__ import annotations

import time
from dataclasses import replace

import torch

import machine
from bench import Bench
from competitors import TITLES, library_pass, rival_pass
from problems import Problem, inputs
from timing import PAUSE, once, spread

# Eight heads in f16, so that the longest fits 24 GiB and the shortest is work for more than a few threads.
BASE = Problem(4_194_304, heads=8, dtype="float16")
LENGTHS = [8192, 32768, 131072, 524288, 4194304]
RIVALS = {"composition": [8192, 32768, 131072], "dense": [8192, 16384, 32768]}
QUICK = Problem(16384, heads=2, segments=(128, 256, 512), dtype="float16")
QUICK_LENGTHS = [512, 2048, 16384]
QUICK_RIVALS = {"composition": [512, 2048], "dense": [512, 1024, 2048]}
ROUNDS = 2
LEAST_SECONDS = 0.5  # of a short length: as many passes as that takes


def _lengths(bench: Bench) -> list[int]:
    """Those whose query, key, value and output fit the memory with a tenth to spare."""
    room = 0.9 * machine.available_memory()
    lengths = QUICK_LENGTHS if bench.quick else LENGTHS
    row_bytes = BASE.heads * BASE.head_dim * getattr(torch, BASE.dtype).itemsize
    fitting = [n for n in lengths if 4 * row_bytes * n < room]
    if len(fitting) < len(lengths):
        bench.say(f"  memory ends at {fitting[-1]:,} tokens")
    return fitting


def _heads_of(tensors, problem: Problem):
    """The beginning of each tensor's memory as a dense tensor of a shorter problem: all lengths share memory."""
    return [x.view(-1)[:problem.heads * problem.n * problem.head_dim].view(problem.shape) for x in tensors]


def _seconds(call, least: float) -> float:
    time.sleep(PAUSE)
    passes, total = 0, 0.0
    while passes == 0 or total < least:
        total += once(call)
        passes += 1
    return total / passes


def _passes(bench: Bench, base: Problem, lengths: list[int]):
    """A checked pass of each length."""
    tensors = inputs(replace(base, n=lengths[-1]))
    out = tensors[0].new_zeros(tensors[0].shape)
    passes, checks = {}, {}
    for n in lengths:
        problem = replace(base, n=n)
        *parts, its_out = _heads_of([*tensors, out], problem)
        passes[n] = library_pass(bench.context, problem, parts, out=its_out)
        checks[n] = bench.check(f"{TITLES['library']}, n = {n:,}", problem, parts, passes[n]())
    return passes, checks


def _library(bench: Bench, base: Problem, lengths: list[int], least: float) -> list[dict]:
    """Nanoseconds a token of each length, and the ratio to the shortest, which is measured before and after each: the
    longest take a minute, in which a machine may change its speed."""
    passes, checks = _passes(bench, base, lengths)
    costs, relative = {n: [] for n in lengths}, {n: [] for n in lengths[1:]}

    def measured(n: int) -> float:
        costs[n].append(1e9 * _seconds(passes[n], least) / n)
        return costs[n][-1]

    for _ in range(min(bench.repeats, ROUNDS)):
        before = measured(lengths[0])
        for n in lengths[1:]:
            cost, after = measured(n), measured(lengths[0])
            relative[n].append(cost / ((before + after) / 2))
            before = after
    return [{"name": "library", "n": n, "nanoseconds": spread(costs[n]), "rounds": costs[n], "check": checks[n],
             **({"to_shortest": spread(relative[n])} if n in relative else {})} for n in lengths]


def _rival(bench: Bench, base: Problem, name: str, lengths: list[int], least: float) -> list[dict]:
    points = []
    for n in lengths:
        problem = replace(base, n=n)
        tensors = inputs(problem)
        call, solved = rival_pass(name, problem, tensors)
        checked = bench.check(f"{TITLES[name]}, n = {n:,}", solved, tensors, call())
        cost = 1e9 * _seconds(call, least) / n
        points.append({"name": name, "n": n, "nanoseconds": spread([cost]), "rounds": [cost], "check": checked})
    return points


def _distance(ratio: float) -> float:
    return max(ratio, 1 / ratio)


def measure(bench: Bench) -> None:
    base, rivals = (QUICK, QUICK_RIVALS) if bench.quick else (BASE, RIVALS)
    least = 0.02 if bench.quick else LEAST_SECONDS
    lengths = _lengths(bench)
    bench.say(f"cost per token, {lengths[0]:,} to {lengths[-1]:,} tokens: {replace(base, n=lengths[-1])}")
    points = _library(bench, base, lengths, least)
    compared = [point for point in points if "to_shortest" in point]
    farthest = max(compared, key=lambda point: _distance(point["to_shortest"]["median"]))
    ratio = farthest["to_shortest"]
    if ratio["median"] < 1:
        ratio = {"median": 1 / ratio["median"], "low": 1 / ratio["high"], "high": 1 / ratio["low"]}
    bench.add({"id": "tokens", "work": f"cost per token, {lengths[0]:,} to {lengths[-1]:,} tokens: farthest apart",
               "figure": ratio, "unit": "x", "target": 1.1, "sense": "at most",
               "note": f"{base.heads} heads x {base.head_dim}, {base.dtype}; of all lengths, {farthest['n']:,} tokens is the "
                       f"farthest from {lengths[0]:,}"})
    for name, its_lengths in rivals.items():
        points += _rival(bench, base, name, its_lengths, least)
    bench.figures["tokens"] = points
