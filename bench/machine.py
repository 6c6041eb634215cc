"""The machine: what it is, and what it can do at most."""
from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import time
from pathlib import Path

import torch

from library import Context

ROOT = Path(__file__).resolve().parents[1]


def cores() -> int:
    return len(os.sched_getaffinity(0))


def available_memory() -> int:
    return int(re.search(r"MemAvailable: *(\d+)", Path("/proc/meminfo").read_text()).group(1)) * 1024


def cpu_name() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1) if found else platform.machine()


def commit() -> str:
    """Of the sources; "+" where they have been changed since; "" outside a repository."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--match="]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def describe(context: Context, threads: int) -> dict:
    memory = int(re.search(r"MemTotal: *(\d+)", Path("/proc/meminfo").read_text()).group(1)) * 1024
    return {"cpu": cpu_name(), "architecture": platform.machine(), "threads": threads, "memory": memory,
            "system": f"{platform.system()} {platform.release()}", "instruction_set": context.isa,
            "library": context.library.version, "commit": commit(), "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d")}


class Peaks:
    """Multiply-add and bandwidth peaks, measured again after every round: machines change their speed."""

    def __init__(self, program: Path, threads: int):
        self.command = [str(program), str(threads)]
        self.rounds: list[dict] = []
        self.measure()

    def measure(self) -> None:
        time.sleep(0.02)  # see timing.PAUSE
        self.rounds.append(json.loads(subprocess.run(self.command, capture_output=True, check=True).stdout))

    def has_bf16(self) -> bool:
        return "bf16" in self.rounds[0]

    def beside(self, name: str, start: int) -> list[float]:
        """What was measured before and after each round since `start`, averaged."""
        found = [round[name] for round in self.rounds[start:]]
        return [(before + after) / 2 for before, after in zip(found, found[1:])]

    def median(self, name: str, start: int = 0) -> float:
        return statistics.median(round[name] for round in self.rounds[start:])

    def summary(self) -> dict:
        names = [name for name in ("f32", "bf16", "read") if name in self.rounds[0]]
        return {**{name: {"median": self.median(name), "low": min(r[name] for r in self.rounds),
                          "high": max(r[name] for r in self.rounds)} for name in names},
                **{name: value for name, value in self.rounds[0].items() if name.endswith("_unit")},
                "rounds": len(self.rounds)}
