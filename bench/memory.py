"""Memory beyond inputs, outputs and logsumexp: what the library says, and what a process grows by."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import machine
from bench import Bench
from library import Attention
from problems import Problem

# Twelve heads, and two where twelve would not fit 24 GiB.
PROBLEMS = [Problem(8192), Problem(32768), Problem(131072), Problem(1_048_576, heads=2), Problem(4_194_304, heads=2)]
RIVALS = {"composition": PROBLEMS[:4], "standard": PROBLEMS[:1], "dense": PROBLEMS[:1],
          "mask": [Problem(2048, segments=(512, 1024, 2048))]}
QUICK = [Problem(1024, 4, segments=(128, 256, 512)), Problem(8192, 4, segments=(128, 256, 512))]
QUICK_RIVALS = {"composition": QUICK, "standard": QUICK[:1], "dense": QUICK[:1], "mask": QUICK[:1]}
MIB = 1 << 20


def growth(bench: Bench, name: str, problem: Problem) -> int:
    program = Path(__file__).with_name("memory_of_pass.py")
    patterns = [",".join(map(str, values)) for values in (problem.segments, problem.rates)]
    found = subprocess.run([sys.executable, str(program), str(bench.build), str(bench.threads), name, str(problem.n),
                            str(problem.heads), *patterns], capture_output=True, text=True)
    if found.returncode != 0:
        raise RuntimeError(f"{program.name}, {name}: {found.stderr}")
    return int(found.stdout)


def workspace(bench: Bench, name: str, problem: Problem) -> int:
    return Attention(bench.context, name, problem.segments, problem.rates).workspace(problem)


def _point(bench: Bench, name: str, problem: Problem) -> dict:
    point = {"name": name, "n": problem.n, "heads": problem.heads, "growth": growth(bench, name, problem)}
    if name in bench.library.implementations():
        point["workspace"] = workspace(bench, name, problem)
    says = f", the library says {point['workspace'] / MIB:.1f} MiB" if "workspace" in point else ""
    bench.say(f"  {name}, n = {problem.n:,}, {problem.heads} heads: {point['growth'] / MIB:.1f} MiB{says}")
    return point


def measure(bench: Bench) -> None:
    problems, rivals = (QUICK, QUICK_RIVALS) if bench.quick else (PROBLEMS, RIVALS)
    bench.say("memory of a forward pass beyond inputs and output")
    room = 0.9 * machine.available_memory()
    problems = [p for p in problems if 16 * p.heads * p.head_dim * p.n < room]
    points = [_point(bench, "improved", problem) for problem in problems]
    allowed = 32 + 4 * bench.threads
    sizes = [max(p["growth"], p["workspace"]) / MIB for p in points]
    longest = problems[-1]
    bench.add({"id": "memory", "work": f"memory beyond inputs and output, up to {longest.n:,} tokens",
               "figure": {"median": max(sizes), "low": min(sizes), "high": max(sizes)}, "unit": "MiB",
               "target": allowed, "sense": "at most",
               "note": f"the largest of all lengths; allowed: 32 MiB + 4 MiB a thread, {bench.threads} threads"})
    points += [_point(bench, name, problem) for name, its in rivals.items() for problem in its
               if problem.n <= longest.n]
    bench.figures["memory"] = points
