"""Most memory that one forward pass adds to a process of its own, in bytes: what the kernel counts as resident, inputs
and output apart.   memory_of_pass.py BUILD THREADS COMPETITOR N HEADS SEGMENTS RATES"""
from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import replace
from pathlib import Path

import torch

from competitors import library_pass, rival_pass
from library import Context, Library
from problems import Problem, inputs


def resident(field: str) -> int:
    return int(re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text()).group(1)) * 1024


def growth(call) -> int:
    ctypes.CDLL(None).malloc_trim(0)  # what earlier passes freed goes back first
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins at what is resident now
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def prepared(build: Path, threads: int, name: str, problem: Problem):
    """The pass, and how many bytes of result it adds that are no extra memory."""
    tensors = inputs(problem)
    # One small pass each, so that programs and tables that are loaded once do not count.
    small = replace(problem, n=64, segments=(64,), rates=(1,))
    torch.set_num_threads(threads)
    if name in ("composition", "dense", "mask"):
        rival_pass(name, small, inputs(small))[0]()
        return rival_pass(name, problem, tensors)[0], tensors[0].nbytes
    context = Context(Library(build / "lib" / "libdilated_attention.so"), threads)
    return library_pass(context, problem, tensors, name), 0


def main() -> None:
    build, threads, name, n, heads, segments, rates = sys.argv[1:]
    patterns = {"segments": tuple(map(int, segments.split(","))), "rates": tuple(map(int, rates.split(",")))}
    call, result = prepared(Path(build), int(threads), name, Problem(int(n), int(heads), **patterns))
    print(growth(call) - result)


if __name__ == "__main__":
    main()
