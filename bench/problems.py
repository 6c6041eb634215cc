"""What is computed in the benchmark: sizes, patterns, inputs, and how much arithmetic that is."""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Problem:
    n: int
    heads: int = 12
    head_dim: int = 64
    batch: int = 1
    segments: tuple[int, ...] = (2048, 4096, 8192)
    rates: tuple[int, ...] = (1, 2, 4)
    causal: bool = False
    dtype: str = "float32"
    preset: str = "longnet"

    @property
    def patterns(self) -> list[tuple[int, int]]:
        return list(zip(self.segments, self.rates))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.heads, self.n, self.head_dim

    def offset(self, head: int, rate: int) -> int:
        return head % rate if self.preset == "longnet" else head // math.ceil(self.heads / rate)

    @property
    def tail_rule(self) -> str:
        return "mask" if self.preset == "longnet" else "zero_pad"

    def __str__(self) -> str:
        patterns = f"segments {','.join(map(str, self.segments))}, rates {','.join(map(str, self.rates))}"
        options = "".join([", causal" if self.causal else "", f", {self.preset}" if self.preset != "longnet" else ""])
        return f"n = {self.n:,}, {self.heads} heads x {self.head_dim}, {self.dtype}, {patterns}{options}"


def dense(problem: Problem) -> Problem:
    """Dense attention of the same size: one segment, every token."""
    return Problem(problem.n, problem.heads, problem.head_dim, problem.batch, (problem.n,), (1,), problem.causal,
                   problem.dtype)


def counted_flops(problem: Problem) -> float:
    """Multiplications and additions of the score and output products; a pair of query and key counts once per pattern
    that holds it, padding does not count."""
    pairs = 0
    for head in range(problem.heads):
        for w, r in problem.patterns:
            full, rest = divmod(problem.n, w)
            for times, length in ((full, w), (1, rest)):
                kept = len(range(problem.offset(head, r), length, r))
                pairs += times * (kept * (kept + 1) // 2 if problem.causal else kept * kept)
    return 4.0 * problem.batch * problem.head_dim * pairs


# Rows of a random block that long tensors repeat; a prime, so that no segment or rate meets the same numbers again.
BLOCK_ROWS = 100_003


def random_tensor(shape, dtype: str, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.empty(shape, dtype=getattr(torch, dtype))
    rows = tensor.view(-1, shape[-1])
    block = torch.randn((min(len(rows), BLOCK_ROWS), shape[-1]), generator=generator).to(tensor.dtype)
    for start in range(0, len(rows), len(block)):
        part = rows[start:start + len(block)]
        part.copy_(block[:len(part)])
    return tensor


def inputs(problem: Problem) -> list[torch.Tensor]:
    """Query, key and value, contiguous, (batch, heads, n, head_dim)."""
    return [random_tensor(problem.shape, problem.dtype, seed) for seed in (1, 2, 3)]
