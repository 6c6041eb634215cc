"""One thread to all: the same pass by a context of one thread and by one of as many as there are cores."""
from __future__ import annotations

from bench import Bench
from comparisons import SHORT
from competitors import TITLES, library_pass
from library import Context
from problems import Problem, inputs
from timing import interleaved, ratios, spread

QUICK = Problem(512, 4, segments=(128, 256, 512))


def measure(bench: Bench) -> None:
    problem = QUICK if bench.quick else SHORT
    bench.say(f"1 to {bench.threads} threads: {problem}")
    if bench.threads == 1:
        bench.say("  left out: one thread is all there is")
        return
    tensors = inputs(problem)
    calls = {"one": library_pass(Context(bench.library, 1), problem, tensors),
             "all": library_pass(bench.context, problem, tensors)}
    results = {name: call() for name, call in calls.items()}
    bench.check(f"{TITLES['library']}, 1 thread", problem, tensors, results["one"])
    if not results["one"].equal(results["all"]):
        bench.wrong.append(f"1 and {bench.threads} threads, {problem}: results differ")
    seconds = interleaved(calls, bench.repeats)
    bench.add({"id": "threads", "work": f"1 to {bench.threads} threads, f32, n = 8,192",
               "figure": spread(ratios(seconds["one"], seconds["all"])), "unit": "x faster",
               "target": 0.95 * bench.threads, "sense": "at least"})
