"""Instructions of a forward pass, counted by callgrind for fixed work on one thread: the same number on every run of
one build, however busy the machine. Valgrind hides AVX-512 from programs, so these are the AVX2 kernels at most.

instructions.py [BUILD]"""
from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def instructions(program: Path, case: str) -> tuple[dict, int]:
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts"
        command = ["valgrind", "--tool=callgrind", "--toggle-collect=da_attention_forward",
                   f"--callgrind-out-file={counts}", "--quiet", str(program), case]
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(found.stdout), int(re.search(r"^totals: (\d+)", counts.read_text(), re.MULTILINE).group(1))


def main() -> None:
    build = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "build").resolve()
    program = build / "bin" / "bench-fixed-work"
    if shutil.which("valgrind") is None:
        sys.exit("instructions: valgrind is not installed (tools/setup ci installs it)")
    cases = subprocess.run([program], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    print(f"{'instructions of one pass':<26} {'kernels':<10} {'instructions':>15} {'multiply-adds an instruction':>30}")
    for case in cases:
        work, count = instructions(program, case)
        print(f"{case:<26} {work['instruction_set']:<10} {count:>15,} {work['multiply_adds'] / count:>30.2f}")


if __name__ == "__main__":
    main()
