"""Small work: one head of 256 tokens, this library's call beside PyTorch's kernel's, calling itself subtracted."""
from __future__ import annotations

import time
from ctypes import c_int, c_void_p

import torch

from bench import Bench
from competitors import library_pass
from problems import Problem, inputs
from timing import PAUSE, ratios, spread

PROBLEM = Problem(256, 1, segments=(256,), rates=(1,))  # one segment, every token: what PyTorch's kernel computes
WARM, CALLS = 30, 300


def _library_overhead(bench: Bench):
    """A call by ctypes with as many arguments as the forward pass, into a function that reads the first alone."""
    function = bench.library.c["da_context_threads"]  # an object of its own: its signature is changed here only
    function.restype, function.argtypes = c_int, [c_void_p] * 7
    arguments = (bench.context.handle, *[None] * 6)
    return lambda: function(*arguments)


def _each(call, warm: int, calls: int) -> float:
    """Seconds a call, of many in a row."""
    time.sleep(PAUSE)
    for _ in range(warm):
        call()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def measure(bench: Bench) -> None:
    bench.say(f"small work: {PROBLEM}")
    tensors = q, k, v = inputs(PROBLEM)
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    same_size = torch.ops.aten.is_same_size.default  # does next to nothing
    calls = {"library": library_pass(bench.context, PROBLEM, tensors), "library call": _library_overhead(bench),
             "kernel": lambda: flash(q, k, v), "kernel call": lambda: same_size(q, k)}
    checks = [bench.check("this library", PROBLEM, tensors, calls["library"]()),
              bench.check("PyTorch's kernel", PROBLEM, tensors, calls["kernel"]()[0])]
    warm, count = (3, 30) if bench.quick else (WARM, CALLS)
    found = {name: [] for name in calls}
    for _ in range(bench.repeats):
        for name, call in calls.items():
            found[name].append(_each(call, warm, count))
    ours, theirs = ([a - b for a, b in zip(found[name], found[f"{name} call"])] for name in ("library", "kernel"))
    bench.add({"id": "small", "work": "one head of 256 tokens, a call to PyTorch's kernel", "problem": str(PROBLEM),
               "figure": spread(ratios(theirs, ours)), "unit": "x faster", "target": 1.0, "sense": "at least",
               "note": f"microseconds, calling apart: {1e6 * spread(ours)['median']:.0f} to "
                       f"{1e6 * spread(theirs)['median']:.0f}; calling: "
                       f"{1e6 * spread(found['library call'])['median']:.1f} and "
                       f"{1e6 * spread(found['kernel call'])['median']:.1f}",
               "checks": checks})
