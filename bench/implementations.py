"""The guide's performance table as measured here: speed and memory of each implementation relative to `standard`."""
from __future__ import annotations

from bench import Bench
from comparisons import SHORT
from competitors import library_pass
from library import LibraryError
from memory import growth, workspace
from problems import Problem, counted_flops, inputs
from timing import interleaved, ratios, spread

QUICK = Problem(512, 4, segments=(128, 256, 512))
MOST_ROUNDS = 3


def _available(bench: Bench, problem: Problem, tensors) -> dict:
    passes = {}
    for name in bench.library.implementations():
        if name == "block_sparse":  # leaves out tiles by default: bench/sparse.py measures it
            continue
        try:
            passes[name] = library_pass(bench.context, problem, tensors, name)
        except LibraryError as error:
            bench.say(f"  {name}: left out: {error}")
    return passes


def measure(bench: Bench) -> None:
    problem = QUICK if bench.quick else SHORT
    bench.say(f"implementations: {problem}")
    tensors = inputs(problem)
    passes = _available(bench, problem, tensors)
    checks = {name: bench.check(name, problem, tensors, call()) for name, call in passes.items()}
    seconds = interleaved(passes, min(bench.repeats, MOST_ROUNDS))
    table = []
    for name in passes:
        speed = spread(ratios(seconds["standard"], seconds[name]))
        table.append({"name": name, "seconds": spread(seconds[name]), "speed": speed,
                      "flops_per_second": counted_flops(problem) / spread(seconds[name])["median"],
                      "workspace": workspace(bench, name, problem), "growth": growth(bench, name, problem),
                      "check": checks[name]})
    bench.figures["implementations"] = table
    improved = next(entry for entry in table if entry["name"] == "improved")
    bench.add({"id": "standard", "work": "improved to standard, f32, n = 8,192", "figure": improved["speed"],
               "unit": "x faster", "target": 5.0, "sense": "at least"})
