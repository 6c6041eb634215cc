"""One row of dilated attention in float64, straight from the definition, and how far rounding may move it."""
from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "reference"))
from dilated_attention_reference import head_offset, keys_of  # noqa: E402

UNIT = {"float32": 2.0**-24, "float16": 2.0**-11}  # rounding of the data type
CONFIDENCE = 6.0  # a bound on a random walk of N roundings, 6 sqrt(N) u, is exceeded once in 10^7


@dataclass
class Row:
    """What query i of one head sees, and what comes of it."""
    keys: np.ndarray     # positions, ascending
    weights: np.ndarray  # of each key in the softmax; they sum to 1
    out: np.ndarray
    lse: float
    out_bound: np.ndarray  # largest difference that rounding explains, for each element of out
    lse_bound: float


def keys_and_counts(i: int, n: int, patterns: list[tuple[int, int]], head: int, heads: int):
    """Keys that query i sees and by how many patterns each, as the reference's definition has it (preset longnet)."""
    count = Counter()
    for w, r in patterns:
        seen = keys_of(i, n, w, r, head_offset(head, heads, r, "mod"), False, "mask")
        if seen is not None:
            count.update(seen[0])
    keys = np.array(sorted(count), np.int64)
    return keys, np.array([count[j] for j in keys], np.float64)


def exact_row(query: np.ndarray, keys: np.ndarray, counts: np.ndarray, key_rows: np.ndarray, value_rows: np.ndarray,
              stored: str) -> Row:
    """query (head_dim,), key_rows and value_rows (len(keys), head_dim), in float64; stored: data type of outputs."""
    head_dim = len(query)
    if len(keys) == 0:
        return Row(keys, np.empty(0), np.zeros(head_dim), -np.inf, np.zeros(head_dim), 0.0)
    scale = 1 / np.sqrt(head_dim)
    scores = key_rows @ query * scale
    top = scores.max()
    p = counts * np.exp(scores - top)
    weights = p / p.sum()
    out, lse = weights @ value_rows, top + np.log(p.sum())
    # Sums are kept in float32 whatever narrower type is stored. With u its rounding:
    # - a score is a sum of head_dim products, scaled: off by at most (head_dim + 2) u sum |q_c k_c| scale;
    # - its exponential adds 3 u |score - top| for the argument (subtraction, change to base 2) and 8 u of its own;
    # - weights that are off by such factors move the output by their products with |v - out|;
    # - adding up N weights, and N weighted values, is N roundings, of which as many go up as down: 6 sqrt(N) u;
    # - a final division, and rounding to the stored type.
    u = UNIT["float32"]
    factor = ((head_dim + 2) * scale * (np.abs(key_rows) @ np.abs(query)) + 3 * np.abs(scores - top) + 8) * u
    summing = (CONFIDENCE * np.sqrt(len(keys)) + 2) * u
    out_bound = ((weights * factor) @ np.abs(value_rows - out) + summing * (weights @ np.abs(value_rows) + np.abs(out))
                 + UNIT[stored] * np.abs(out) + np.finfo(stored).smallest_subnormal)
    lse_bound = weights @ factor + summing + 2 * u * (abs(top) + abs(lse))
    return Row(keys, weights, out, lse, out_bound, float(lse_bound))
