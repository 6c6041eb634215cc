"""What every part of the benchmark shares: settings, the library, the peaks, and what has been found so far."""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import machine
import reference
from library import Context, Library


@dataclass
class Bench:
    build: Path
    quick: bool
    repeats: int
    threads: int
    library: Library = None
    context: Context = None
    peaks: machine.Peaks = None
    rows: list[dict] = field(default_factory=list)     # of the table of targets
    figures: dict[str, list] = field(default_factory=dict)  # further figures: tokens, memory, implementations
    wrong: list[str] = field(default_factory=list)     # results that differ from the definition

    def __post_init__(self):
        self.library = Library(self.build / "lib" / "libdilated_attention.so")
        self.context = Context(self.library, self.threads)
        self.peaks = machine.Peaks(self.build / "bin" / "bench-peaks", self.threads)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def check(self, title: str, problem, tensors, out) -> dict:
        """Compares a result with the definition; a wrong one is remembered and makes the run fail."""
        found = reference.check(problem, *tensors, out)
        if not found.passed:
            self.wrong.append(f"{title}, {problem}: largest error {found.largest_error:.2g}, {found.worst:.3g} times "
                              f"what is allowed")
        self.say(f"  {title}: {found.queries} queries against f64: largest error {found.largest_error:.2g}, "
                 f"{found.worst:.2g} of what is allowed: {'right' if found.passed else 'WRONG'}")
        return found.as_dict()

    def add(self, row: dict) -> None:
        """A row of the table of targets: id, work, figure (median, low, high), unit, target and, with it, sense
        ("at least" or "at most"). `met` is about the median."""
        median, target = row["figure"]["median"], row.get("target")
        if target is not None:
            row["met"] = median >= target if row["sense"] == "at least" else median <= target
        self.rows.append(row)
        figure = row["figure"]
        goal = "" if target is None else f"; target: {row['sense']} {target:g}: {'met' if row['met'] else 'not met'}"
        self.say(f"  {row['work']}: {median:.3g} {row['unit']} ({figure['low']:.3g}..{figure['high']:.3g}){goal}")
