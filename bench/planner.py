"""How far the planner's estimates are from measured times. Each round calibrates anew, in a context of its own, and times
the pass right afterwards, so that a machine that changes its speed between rounds changes no ratio."""
from __future__ import annotations

from bench import Bench
from comparisons import COMPARISONS
from competitors import library_pass
from library import Context
from problems import inputs
from timing import once, spread

LIMIT = 20.0  # per cent


def _offs(bench: Bench, problem) -> list[float]:
    run = library_pass(bench.context, problem, inputs(problem))
    run()
    offs = []
    for _ in range(bench.repeats):
        estimated = Context(bench.library, bench.threads).estimate("improved", problem)
        offs.append(100 * (estimated / once(run) - 1))
    return offs


def measure(bench: Bench) -> None:
    medians = []
    for comparison in COMPARISONS:
        problem = comparison.quick if bench.quick else comparison.problem
        if comparison.group in ("dense", "mask") or comparison.group == "bf16" and not bench.peaks.has_bf16():
            continue
        bench.say(f"estimate of {comparison.work}: {problem}")
        off = spread(_offs(bench, problem))
        medians.append(off["median"])
        bench.add({"id": f"estimate-{comparison.id}", "work": f"planner's estimate off by, {comparison.work}",
                   "figure": off, "unit": "%", "sense": "at most"})
    worst = max(medians, key=abs)
    bench.add({"id": "estimate", "work": "planner's estimates: farthest off",
               "figure": {"median": abs(worst), "low": min(map(abs, medians)), "high": abs(worst)}, "unit": "%",
               "target": LIMIT, "sense": "at most"})
