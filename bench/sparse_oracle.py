"""What attention allows: for each head and block of queries the tiles that hold most of the softmax, from exact masses. No
choice that keeps as many tiles in each row keeps more."""
from __future__ import annotations

import math

import torch

from sparse_models import Model

SCORES_AT_A_TIME = 1 << 24


def _counts(model: Model, head: int, rows: torch.Tensor, keys: torch.Tensor) -> torch.Tensor | None:
    """How often each of these queries sees each key; None: once each."""
    if not model.causal and model.segments == (model.n,) and model.rates == (1,):
        return None
    count = torch.zeros(len(rows), len(keys))
    for w, r in zip(model.segments, model.rates):
        offset = model.offset(head, r)
        count += ((rows // w)[:, None] == keys // w) & (rows % w % r == offset)[:, None] & (keys % w % r == offset)
    return count * (rows[:, None] >= keys) if model.causal else count


def _by_tile(x: torch.Tensor, block: int) -> torch.Tensor:
    """Sums over tiles of a matrix (rows, n); the last tile may be shorter."""
    pad = torch.nn.functional.pad(x, (0, -x.shape[1] % block, 0, -x.shape[0] % block))
    return pad.unflatten(0, (-1, block)).unflatten(2, (-1, block)).sum((1, 3))


def _masses(model: Model, head: int, q: torch.Tensor, k: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one head, q and k (n, head_dim): the softmax's sum in each tile, (blocks, blocks), and whether it has a pair."""
    blocks, keys = math.ceil(model.n / block), torch.arange(model.n)
    mass, some = torch.zeros(blocks, blocks), torch.ones(blocks, blocks, dtype=torch.bool)
    step = max(1, SCORES_AT_A_TIME // (model.n * block))
    for first in range(0, blocks, step):
        rows = torch.arange(first * block, min((first + step) * block, model.n))
        scores = q[rows] @ k.T / math.sqrt(q.shape[1])
        count = _counts(model, head, rows, keys)
        if count is not None:
            scores += count.log()
            some[first:first + step] = _by_tile(count, block) > 0
        mass[first:first + step] = _by_tile(torch.softmax(scores, 1).nan_to_num(0), block)
    return mass, some


def ranks(model: Model, q: torch.Tensor, k: torch.Tensor, block: int) -> torch.Tensor:
    """(1, heads, blocks, blocks) of q and k (1, heads, n, head_dim): the place of a tile among those of its row that have pairs,
    by falling mass, as a fraction in [0, 1); 1 for those without pairs. What is below a ratio is to be kept for it."""
    found = []
    for head in range(q.shape[1]):
        mass, some = _masses(model, head, q[0, head], k[0, head], block)
        order = mass.masked_fill(~some, -1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        found.append((order / some.sum(1, keepdim=True).clamp(min=1)).masked_fill(~some, 1.0))
    return torch.stack(found)[None]
