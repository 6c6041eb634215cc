"""Interleaved repeats, medians, spread."""
from __future__ import annotations

import statistics
import time
from typing import Callable

# Each side has threads of its own, which wait actively for a few milliseconds after a pass; they are asleep by then.
PAUSE = 0.02


def once(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(calls: dict[str, Callable[[], object]], rounds: int,
                after_round: Callable[[], object] | None = None) -> dict[str, list[float]]:
    """Seconds of each call in each round; every second round goes backwards. All are to be warm."""
    seconds = {name: [] for name in calls}
    for number in range(rounds):
        for name in list(calls)[::-1 if number % 2 else 1]:
            time.sleep(PAUSE)
            seconds[name].append(once(calls[name]))
        if after_round is not None:
            after_round()
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratios(numerators: list[float], denominators: list[float]) -> list[float]:
    """Round by round, so that a machine that changes its speed between rounds changes no ratio."""
    return [a / b for a, b in zip(numerators, denominators)]
