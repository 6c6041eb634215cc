"""Prints the largest difference between what several processes computed of a part and what one did. What rounding allows is
for check.py to say, of both."""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

STRETCH = 4096  # tokens at a time


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", type=Path, help="folder with out, lse, out_ranks and lse_ranks")
    part = parser.parse_args().part
    for name in ("out", "lse"):
        one, several = (np.load(part / f"{name}{suffix}.npy", mmap_mode="r") for suffix in ("", "_ranks"))
        difference = max(float(np.abs(one[:, at:at + STRETCH].astype(np.float64) - several[:, at:at + STRETCH]).max())
                         for at in range(0, one.shape[1], STRETCH))
        print(f"  largest difference to one process, {name}: {difference:.1e}, over {one.shape[1]:,} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
