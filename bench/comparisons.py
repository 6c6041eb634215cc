"""This library beside a PyTorch competitor, on the same memory: the rows that are ratios of times."""
from __future__ import annotations

from dataclasses import dataclass, replace

from bench import Bench
from competitors import TITLES, library_pass, rival_pass
from problems import Problem, counted_flops, inputs
from timing import interleaved, ratios, spread


@dataclass(frozen=True)
class Comparison:
    id: str
    group: str  # what --rows selects
    work: str
    problem: Problem
    quick: Problem  # the same in small
    rival: str = "composition"
    target: float | None = None
    most_rounds: int = 100


def _small(problem: Problem) -> Problem:
    return replace(problem, n=problem.n // 16, heads=4, segments=tuple(w // 16 for w in problem.segments))


def _comparison(id, group, work, problem, rival, target, **more):
    return Comparison(id, group, work, problem, more.pop("quick", None) or _small(problem), rival, target, **more)


SHORT, LONG = Problem(8192), Problem(32768)
SLIDE = Problem(10_000, 16, 48, segments=(1024, 5792, 32768, 185363, 1048576), rates=(1, 2, 4, 8, 16),
                preset="torchscale")
SMALL_SLIDE = replace(SLIDE, n=1001, heads=8, segments=(128, 602, 4096), rates=(1, 2, 4))

COMPARISONS = [
    _comparison("f32-8k", "f32", "f32, n = 8,192", SHORT, "composition", 1.5),
    _comparison("f32-32k", "f32", "f32, n = 32,768", LONG, "composition", 1.8),
    _comparison("causal-32k", "causal", "f32 causal, n = 32,768", replace(LONG, causal=True), "composition", 2.5),
    _comparison("bf16-8k", "bf16", "bf16, n = 8,192", replace(SHORT, dtype="bfloat16"), "composition", 2.2),
    _comparison("bf16-32k", "bf16", "bf16, n = 32,768", replace(LONG, dtype="bfloat16"), "composition", 2.5),
    _comparison("f16-8k", "f16", "f16, n = 8,192", replace(SHORT, dtype="float16"), "composition", 1.5),
    _comparison("f16-32k", "f16", "f16, n = 32,768", replace(LONG, dtype="float16"), "composition", 1.5),
    _comparison("dense-32k", "dense", "f32 against dense attention, n = 32,768", LONG, "dense", 13.0, most_rounds=2),
    _comparison("slide", "slide", "the slide encoder's shape, n = 10,000, f32", SLIDE, "torchscale", 2.0,
                quick=SMALL_SLIDE),
    _comparison("mask", "mask", "f32 against an n x n mask, n = 2,048",
                Problem(2048, segments=(512, 1024, 2048)), "mask", None),
]
GROUPS = list(dict.fromkeys(comparison.group for comparison in COMPARISONS))


def _competitor(bench: Bench, name: str, seconds, problem: Problem, checked: dict) -> dict:
    flops = counted_flops(problem)
    return {"name": name, "title": TITLES[name], "seconds": spread(seconds), "all_seconds": seconds,
            "counted_flops": flops, "flops_per_second": flops / spread(seconds)["median"], "check": checked}


def _add_fraction_of_peak(bench: Bench, comparison: Comparison, seconds, peaks: list[float]) -> None:
    rate = [counted_flops(comparison.quick if bench.quick else comparison.problem) / s for s in seconds]
    bench.add({"id": f"peak-{comparison.id}", "work": f"counted flops to the multiply-add peak, {comparison.work}",
               "figure": spread([100 * a / b for a, b in zip(rate, peaks)]), "unit": "%", "target": 95.0,
               "sense": "at least"})


def _compare(bench: Bench, comparison: Comparison) -> None:
    problem = comparison.quick if bench.quick else comparison.problem
    bench.say(f"{comparison.work}: {problem}")
    tensors = inputs(problem)
    ours = library_pass(bench.context, problem, tensors)
    rival, rival_problem = rival_pass(comparison.rival, problem, tensors)
    checks = [bench.check(TITLES["library"], problem, tensors, ours()),
              bench.check(TITLES[comparison.rival], rival_problem, tensors, rival())]
    start = len(bench.peaks.rounds)
    bench.peaks.measure()
    rounds = min(bench.repeats, comparison.most_rounds)
    seconds = interleaved({"library": ours, comparison.rival: rival}, rounds, bench.peaks.measure)
    competitors = [_competitor(bench, name, seconds[name], its_problem, checked) for name, its_problem, checked in
                   (("library", problem, checks[0]), (comparison.rival, rival_problem, checks[1]))]
    bench.add({"id": comparison.id, "work": comparison.work, "problem": str(problem),
               "figure": spread(ratios(seconds[comparison.rival], seconds["library"])), "unit": "x faster",
               "target": comparison.target, "sense": "at least", "competitors": competitors})
    if comparison.group == "f32":
        _add_fraction_of_peak(bench, comparison, seconds["library"], bench.peaks.beside("f32", start))


def measure(bench: Bench, group: str) -> None:
    for comparison in COMPARISONS:
        if comparison.group != group:
            continue
        if group == "bf16" and not bench.peaks.has_bf16():
            bench.say(f"{comparison.work}: left out, this CPU has no bf16 products")
        else:
            _compare(bench, comparison)
