"""Results against the definition in float64 (tests/reference), on sampled queries, with the bound of each query."""
from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from problems import Problem

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "book"))
from exact import CONFIDENCE, exact_row, keys_of  # noqa: E402

UNIT = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}


@dataclass
class Check:
    queries: int
    largest_error: float
    worst: float  # largest error over what rounding allows
    passed: bool

    def as_dict(self) -> dict:
        return asdict(self)


def sampled_queries(problem: Problem, count: int) -> list[tuple[int, int, int]]:
    """(batch, head, position): both ends, both sides of segment edges, and positions drawn at random."""
    random = np.random.default_rng(4)
    edges = {0, problem.n - 1}
    for w in problem.segments:
        edges.update(p for p in (w - 1, w, problem.n // w * w - 1, problem.n // w * w) if 0 <= p < problem.n)
    positions = sorted(edges) + random.integers(0, problem.n, max(0, count - len(edges))).tolist()
    return [(int(random.integers(problem.batch)), i % problem.heads, p) for i, p in enumerate(positions)]


def exact(problem: Problem, q, k, v, batch: int, head: int, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Output of one query, and how far rounding may move each element.

    exact_row bounds what f32 sums do. Two more terms, with u the rounding of the data type, w_j the weights:
    - kernels for half types round each weight before they multiply it with its value: 6 sqrt(sum (w_j v_j)^2) u, since
      these roundings are independent;
    - compositions round each pattern's output, its weight in the mixture, their product, and each sum over P patterns:
      (P + 2) u times the sum of the patterns' shares of the output, in magnitude.
    """
    shares, count, zeros = [], Counter(), 0
    for w, r in problem.patterns:
        seen = keys_of(i, problem.n, w, r, problem.offset(head, r), problem.causal, problem.tail_rule)
        if seen is not None:
            shares.append(np.arange(seen[0].start, seen[0].stop, seen[0].step))
            count.update(seen[0])
            zeros += seen[1]
    keys = np.array(sorted(count), np.int64)
    counts = np.array([count[j] for j in keys], np.float64)
    key_rows, value_rows = (x[batch, head, torch.from_numpy(keys)].double().numpy() for x in (k, v))
    if zeros:  # as one more key, of score 0 and value 0
        counts = np.append(counts, zeros)
        key_rows, value_rows = (np.vstack([x, np.zeros(problem.head_dim)]) for x in (key_rows, value_rows))
    row = exact_row(q[batch, head, i].double().numpy(), np.arange(len(counts)), counts, key_rows, value_rows,
                    "float32")
    unit = UNIT[problem.dtype]
    weighted = row.weights[:, None] * value_rows
    once = (row.weights / counts)[:, None] * value_rows
    share = sum(np.abs(once[np.searchsorted(keys, part)].sum(0)) for part in shares)
    bound = row.out_bound + unit * (np.abs(row.out) + (len(problem.segments) + 2) * share)
    if problem.dtype != "float32":
        bound += CONFIDENCE * unit * np.sqrt((weighted**2).sum(0))
    return row.out, bound


def check(problem: Problem, q, k, v, out, count: int = 48) -> Check:
    queries = sampled_queries(problem, count)
    largest = worst = 0.0
    for batch, head, i in queries:
        wanted, bound = exact(problem, q, k, v, batch, head, i)
        error = np.abs(out[batch, head, i].double().numpy() - wanted)
        error[np.isnan(error)] = np.inf
        largest, worst = max(largest, float(error.max())), max(worst, float((error / bound).max()))
    return Check(len(queries), largest, worst, worst <= 1)
