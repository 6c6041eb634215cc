"""Forward and backward pass together, beside PyTorch's for dense attention.

PyTorch cannot be made to differentiate the composition of its flash kernels (the mixture's gradient flows into each
kernel's logsumexp, which is no output that autograd knows). So arithmetic is compared: flops a second, each side by the
pairs of its own problem."""
from __future__ import annotations

from dataclasses import replace

import torch

from bench import Bench
from competitors import TITLES
from library import Attention
from problems import Problem, counted_flops, dense, inputs, random_tensor
from timing import interleaved, ratios, spread
from torch_mask import log_counts, masked_attention

SHORT, LONG = Problem(8192), Problem(32768)
SMALL = Problem(512, 4, segments=(128, 256, 512))
WORKS = [("backward-8k", "f32, n = 8,192", SHORT), ("backward-32k", "f32, n = 32,768", LONG),
         ("backward-causal-32k", "f32 causal, n = 32,768", replace(LONG, causal=True))]
BACKWARD = 2.5  # products of the backward pass to those of the forward pass
RIVAL = "dense"
MOST_ROUNDS = 3
SEED = 4  # of grad_out; inputs() has taken the first ones


class Pair:
    """The two passes of the library on tensors of its own."""

    def __init__(self, bench: Bench, problem: Problem, tensors, grad_out):
        attention = Attention(bench.context, "improved", problem.segments, problem.rates, causal=problem.causal)
        out = torch.zeros_like(tensors[0])
        lse = torch.zeros(*problem.shape[:3], 1, dtype=torch.float64)
        self.gradients = [torch.zeros_like(x) for x in tensors]
        self.forward = attention.forward(*tensors, out, lse)
        self.backward = attention.backward(*tensors, out, lse, grad_out, self.gradients)

    def both(self):
        self.forward()
        return self.backward()


def _dense_pass(problem: Problem):
    leaves = [x.requires_grad_() for x in inputs(problem)]
    grad_out = random_tensor(problem.shape, problem.dtype, SEED)

    def run():
        out = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=problem.causal)
        return torch.autograd.grad(out, leaves, grad_out)
    return run


def _by_autograd(problem: Problem, tensors, grad_out, dtype):
    leaves = [x.to(dtype).requires_grad_() for x in tensors]
    mask = log_counts(problem).to(dtype)
    if problem.causal:
        mask = mask.masked_fill(torch.ones(problem.n, problem.n).triu(1) > 0, -torch.inf)
    return torch.autograd.grad(masked_attention(*leaves, mask), leaves, grad_out.to(dtype))


def _check(bench: Bench, problem: Problem) -> dict:
    """All gradients of a small problem against float64 autograd through an n x n mask: at most four times as far off as
    the same autograd in f32."""
    worst = 0.0
    tensors = inputs(problem)
    grad_out = random_tensor(problem.shape, problem.dtype, SEED)
    exact, usual = (_by_autograd(problem, tensors, grad_out, dtype) for dtype in (torch.float64, torch.float32))
    for name, ours, right, theirs in zip(("query", "key", "value"), Pair(bench, problem, tensors, grad_out).both(),
                                         exact, usual):
        error, allowed = (float((x.double() - right).abs().max()) for x in (ours, theirs))
        passed = error <= 4 * allowed
        worst = max(worst, error / (4 * allowed))
        if not passed:
            bench.wrong.append(f"gradient of {name}, {problem}: largest error {error:.2g}, autograd's {allowed:.2g}")
        bench.say(f"  gradient of {name}, {problem}: largest error {error:.2g}, of f32 autograd {allowed:.2g}: "
                  f"{'right' if passed else 'WRONG'}")
    return {"worst": worst, "passed": worst <= 1}


def _compare(bench: Bench, id: str, work: str, problem: Problem, checked: dict) -> None:
    rival_problem = dense(SMALL if bench.quick else replace(SHORT, causal=problem.causal))
    bench.say(f"backward, {work}: {problem}")
    tensors = inputs(problem)
    pair = Pair(bench, problem, tensors, random_tensor(problem.shape, problem.dtype, SEED))
    calls = {"library": pair.both, "backward": pair.backward, RIVAL: _dense_pass(rival_problem)}
    for call in calls.values():
        call()
    start = len(bench.peaks.rounds)
    bench.peaks.measure()
    seconds = interleaved(calls, min(bench.repeats, MOST_ROUNDS), bench.peaks.measure)
    flops, rival_flops = ((1 + BACKWARD) * counted_flops(p) for p in (problem, rival_problem))
    rates = [flops / s for s in seconds["library"]], [rival_flops / s for s in seconds[RIVAL]]
    competitors = [{"name": name, "title": title, "seconds": spread(seconds[name]), "all_seconds": seconds[name],
                    "counted_flops": its_flops, "flops_per_second": its_flops / spread(seconds[name])["median"]}
                   for name, title, its_flops in (("library", TITLES["library"], flops),
                                                  (RIVAL, f"{TITLES['dense']}, n = {rival_problem.n:,}", rival_flops))]
    competitors[0]["check"] = checked
    bench.add({"id": id, "work": f"forward and backward pass in counted flops a second, to dense attention's, {work}",
               "problem": str(problem), "figure": spread(ratios(*rates)), "unit": "x faster", "target": 1.6,
               "sense": "at least", "competitors": competitors})
    peaks = [p["f32"] for p in bench.peaks.rounds[start:]]
    around = [(before + after) / 2 for before, after in zip(peaks, peaks[1:])]
    fractions = [100 * BACKWARD * counted_flops(problem) / s / peak for s, peak in zip(seconds["backward"], around)]
    bench.add({"id": f"peak-{id}", "work": f"backward pass in counted flops, to the multiply-add peak, {work}",
               "figure": spread(fractions), "unit": "%", "target": 75.0, "sense": "at least"})


def measure(bench: Bench) -> None:
    checks = {causal: _check(bench, replace(SMALL, causal=causal)) for causal in (False, True)}
    for id, work, problem in WORKS:
        causal = problem.causal
        _compare(bench, id, work, replace(SMALL, causal=causal) if bench.quick else problem, checks[causal])
