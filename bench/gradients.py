"""Forward and backward pass together, beside PyTorch's.

Autograd goes through the composition of PyTorch's flash kernels, but takes the weights that mix the patterns as constants,
since the kernels' logsumexp is no output that it differentiates: it leaves out a part of the gradient that this library
computes. Each side is checked against its own definition. Beside it, dense attention's rate: flops a second, each side by
the pairs of its own problem."""
from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from bench import Bench
from competitors import TITLES
from library import Attention
from problems import Problem, counted_flops, dense, inputs, random_tensor
from timing import interleaved, ratios, spread
from torch_composition import longnet_attention
from torch_mask import composed_attention, log_counts, masked_attention

SHORT, LONG = Problem(8192), Problem(32768)
SMALL = Problem(512, 4, segments=(128, 256, 512))


@dataclass(frozen=True)
class Work:
    id: str
    title: str
    problem: Problem
    target: float


WORKS = [
    Work("backward-8k", "f32, n = 8,192", SHORT, 1.6),
    Work("backward-32k", "f32, n = 32,768", LONG, 1.6),
    Work("backward-causal-32k", "f32 causal, n = 32,768", replace(LONG, causal=True), 1.6),
    Work("backward-bf16-8k", "bf16, n = 8,192", replace(SHORT, dtype="bfloat16"), 2.0),
    Work("backward-bf16-32k", "bf16, n = 32,768", replace(LONG, dtype="bfloat16"), 2.0),
]
BACKWARD = 2.5  # products of the backward pass to those of the forward pass
PEAK_TARGET = 75.0  # f32
MOST_ROUNDS = 5
SEED = 4  # of grad_out; inputs() has taken the first ones
NAMES = ("query", "key", "value")


def _grad_out(problem: Problem) -> torch.Tensor:
    return random_tensor(problem.shape, problem.dtype, SEED)


class Pair:
    """The two passes of the library on tensors of its own."""

    def __init__(self, bench: Bench, problem: Problem, tensors):
        attention = Attention(bench.context, "improved", problem.segments, problem.rates, causal=problem.causal)
        out = torch.zeros_like(tensors[0])
        lse = torch.zeros(*problem.shape[:3], 1, dtype=torch.float64)
        self.gradients = [torch.zeros_like(x) for x in tensors]
        self.forward = attention.forward(*tensors, out, lse)
        self.backward = attention.backward(*tensors, out, lse, _grad_out(problem), self.gradients)

    def both(self):
        self.forward()
        return self.backward()


def autograd_pass(problem: Problem, attention, dtype=None):
    """Both passes of a function of query, key and value, by autograd; in another data type if it is given."""
    leaves, grad_out = [x.to(dtype).requires_grad_() for x in inputs(problem)], _grad_out(problem).to(dtype)
    return lambda: torch.autograd.grad(attention(*leaves), leaves, grad_out)


def _composition(problem: Problem):
    return lambda q, k, v: longnet_attention(q, k, v, problem.segments, problem.rates, problem.causal)


def _dense(problem: Problem):
    return lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=problem.causal)


def _check(bench: Bench, title: str, problem: Problem, gradients, definition) -> dict:
    """All gradients of a small problem against those of its definition, an n x n mask, by float64 autograd: at most four
    times as far off as the same autograd in the problem's data type."""
    worst = 0.0
    exact, usual = (autograd_pass(problem, definition, dtype)() for dtype in (torch.float64, None))
    for name, ours, right, theirs in zip(NAMES, gradients, exact, usual):
        error, allowed = (float((x.double() - right).abs().max()) for x in (ours, theirs))
        passed = error <= 4 * allowed
        worst = max(worst, error / (4 * allowed))
        if not passed:
            bench.wrong.append(f"{title}, gradient of {name}, {problem}: largest error {error:.2g}, usual {allowed:.2g}")
        bench.say(f"  {title}, gradient of {name}, {problem}: largest error {error:.2g}, of {problem.dtype} autograd "
                  f"{allowed:.2g}: {'right' if passed else 'WRONG'}")
    return {"worst": worst, "passed": worst <= 1}


def _checks(bench: Bench, problem: Problem) -> dict[str, dict]:
    def exact(q, k, v):
        return masked_attention(q, k, v, log_counts(problem).to(q.dtype))

    def mixed_by_constants(q, k, v):
        return composed_attention(q, k, v, problem)

    ours = Pair(bench, problem, inputs(problem)).both()
    theirs = autograd_pass(problem, _composition(problem))()
    return {"library": _check(bench, TITLES["library"], problem, ours, exact),
            "composition": _check(bench, TITLES["composition"], problem, theirs, mixed_by_constants)}


def _competitor(name: str, title: str, seconds, problem: Problem, checked: dict | None) -> dict:
    flops = (1 + BACKWARD) * counted_flops(problem)
    found = {"name": name, "title": title, "seconds": spread(seconds), "all_seconds": seconds, "counted_flops": flops,
             "flops_per_second": flops / spread(seconds)["median"]}
    return found if checked is None else {**found, "check": checked}


def _add_rows(bench: Bench, work: Work, problem: Problem, rival: Problem, seconds, checks) -> None:
    ours = _competitor("library", TITLES["library"], seconds["library"], problem, checks["library"])
    theirs = _competitor("composition", TITLES["composition"], seconds["composition"], problem, checks["composition"])
    its = _competitor("dense", f"{TITLES['dense']}, n = {rival.n:,}", seconds["dense"], rival, None)
    bench.add({"id": work.id, "work": f"forward and backward pass, {work.title}", "problem": str(problem),
               "figure": spread(ratios(seconds["composition"], seconds["library"])), "unit": "x faster",
               "target": work.target, "sense": "at least", "competitors": [ours, theirs]})
    rates = [[c["counted_flops"] / s for s in c["all_seconds"]] for c in (ours, its)]
    bench.add({"id": f"dense-{work.id}", "work": f"forward and backward pass in counted flops a second, to dense "
               f"attention's, {work.title}", "problem": str(problem), "figure": spread(ratios(*rates)),
               "unit": "x faster", "sense": "at least", "competitors": [ours, its]})


def _small(problem: Problem) -> Problem:
    return replace(SMALL, causal=problem.causal, dtype=problem.dtype)


def _compare(bench: Bench, work: Work, checks: dict[str, dict]) -> None:
    problem = _small(work.problem) if bench.quick else work.problem
    bench.say(f"forward and backward pass, {work.title}: {problem}")
    rival = dense(problem if bench.quick else replace(problem, n=SHORT.n))
    pair = Pair(bench, problem, inputs(problem))
    calls = {"library": pair.both, "backward": pair.backward,
             "composition": autograd_pass(problem, _composition(problem)), "dense": autograd_pass(rival, _dense(rival))}
    for call in calls.values():
        call()
    start = len(bench.peaks.rounds)
    bench.peaks.measure()
    seconds = interleaved(calls, min(bench.repeats, MOST_ROUNDS), bench.peaks.measure)
    _add_rows(bench, work, problem, rival, seconds, checks)
    if problem.dtype == "float32":
        peaks = bench.peaks.beside("f32", start)
        flops = BACKWARD * counted_flops(problem)
        bench.add({"id": f"peak-{work.id}", "work": f"backward pass in counted flops, to the multiply-add peak, "
                   f"{work.title}", "figure": spread([100 * flops / s / p for s, p in zip(seconds["backward"], peaks)]),
                   "unit": "%", "target": PEAK_TARGET, "sense": "at least"})


def measure(bench: Bench) -> None:
    checks = {problem: _checks(bench, problem) for problem in dict.fromkeys(_small(work.problem) for work in WORKS)}
    for work in WORKS:
        _compare(bench, work, checks[_small(work.problem)])
