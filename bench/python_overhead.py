"""What calling from Python costs: one head of 256 tokens by the Python package's function, less the extension's call alone.

The latter gets tensors whose views were made once. Calls of both kinds take turns, so that the machine's changes of speed meet them alike,
and of each the fastest tenth counts: a call is much shorter than the time for which another process takes a core away.
"""
from __future__ import annotations

import sys
import time
from statistics import median, quantiles

import torch

from bench import Bench
from problems import Problem, inputs
from timing import PAUSE, spread

PROBLEM = Problem(256, 1, segments=(256,), rates=(1,))
WARM, CALLS = 30, 400
TARGET = 30  # microseconds


def _package(bench: Bench):
    """The Python package of the build folder."""
    sys.path.insert(0, str(bench.build / "python"))
    import dilated_attention_pytorch
    return dilated_attention_pytorch


def _calls(package, query, key, value) -> dict:
    """Functions without arguments, by name. They compute the same."""
    from dilated_attention_pytorch import _config, _torch_ops
    segments, rates = list(PROBLEM.segments), list(PROBLEM.rates)
    config = _config.encode(_config.normal_options(segments, rates))
    out, lse = torch.empty_like(query), torch.empty(query.shape[:3])
    handle = _config.handle(config, 0.0, torch.get_num_threads())
    views = [_torch_ops._view(x) for x in (query, key, value, out, lse)]
    leaf = query.clone().requires_grad_()
    arrays = [x.numpy() for x in (query, key, value)]

    def core(_keep=(query, key, value, lse)):  # views are addresses only
        handle.forward(*views, None, None)
        return out
    return {"core": core, "tensors": lambda: package.dilated_attention(query, key, value, segments, rates),
            "tensors with gradients": lambda: package.dilated_attention(leaf, key, value, segments, rates),
            "arrays": lambda: package.dilated_attention(*arrays, segments, rates)}


def _fast(calls: dict, count: int) -> dict:
    """Seconds within which a tenth of each call's repetitions were done, of `count` in turns."""
    time.sleep(PAUSE)
    found = {name: [] for name in calls}
    for _ in range(count):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - start)
    return {name: quantiles(times, n=10)[0] for name, times in found.items()}


def measure(bench: Bench) -> None:
    bench.say(f"calling from Python: {PROBLEM}")
    tensors = inputs(PROBLEM)  # (batch, heads, n, head_dim)
    package = _package(bench)
    package.set_num_threads(bench.threads)
    calls = _calls(package, *(x.transpose(1, 2).contiguous() for x in tensors))
    checks = [bench.check(name, PROBLEM, tensors, torch.as_tensor(call()).detach().transpose(1, 2))
              for name, call in calls.items()]
    _fast(calls, WARM)
    rounds = [_fast(calls, 40 if bench.quick else CALLS) for _ in range(bench.repeats)]
    for name in list(calls)[1:]:
        overheads = [1e6 * (one[name] - one["core"]) for one in rounds]
        bench.add({"id": f"python-{name.replace(' ', '-')}", "work": f"a Python call more than a C call: {name}",
                   "problem": str(PROBLEM), "figure": spread(overheads), "unit": "us", "target": TARGET,
                   "sense": "at most", "note": f"the C call: {1e6 * median(one['core'] for one in rounds):.0f} us",
                   "checks": checks})
