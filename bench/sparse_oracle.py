"""What attention allows: for each head and block of queries the tiles that hold most of the softmax, by exact masses. No choice that
keeps as many tiles in each row keeps more."""
from __future__ import annotations

import math

import numpy as np
import torch

from sparse_models import Model

SCORES_AT_A_TIME = 1 << 24


def _add_by_tile(total: torch.Tensor, values: torch.Tensor, rows: torch.Tensor, keys: torch.Tensor, block: int) -> None:
    """Adds values (rows, keys), which stand at these ascending places of the sequence, to the sums over tiles."""
    (its_rows, row_starts), (its_keys, key_starts) = (np.unique(places.numpy() // block, return_index=True) for places in (rows, keys))
    sums = np.add.reduceat(np.add.reduceat(values.numpy(), key_starts, axis=1), row_starts, axis=0)
    total[its_rows[:, None], its_keys] += torch.from_numpy(sums)


def _segment(model: Model, q, k, lse, places: torch.Tensor, block: int, mass, pairs) -> None:
    """Of the tokens that one pattern keeps of one segment."""
    step = max(1, SCORES_AT_A_TIME // len(places))
    for rows in places.split(step):
        keys = places[:torch.searchsorted(places, rows[-1], right=True)] if model.causal else places
        weights = (q[rows] @ k[keys].T / math.sqrt(q.shape[1]) - lse[rows, None]).exp_()
        if model.causal:
            seen = (rows[:, None] >= keys).float()
            weights *= seen
            _add_by_tile(pairs, seen, rows, keys, block)
        else:
            pairs += torch.outer(*(torch.bincount(places // block, minlength=len(pairs)) for places in (rows, keys)))
        _add_by_tile(mass, weights, rows, keys, block)


def _masses(model: Model, head: int, q, k, lse, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one head, q and k (n, head_dim), lse (n): the softmax's sum in each tile, (blocks, blocks), and its number of pairs."""
    blocks = math.ceil(model.n / block)
    mass, pairs = torch.zeros(blocks, blocks), torch.zeros(blocks, blocks)
    for w, r in zip(model.segments, model.rates):
        for start in range(0, model.n, w):
            places = torch.arange(start + model.offset(head, r), min(start + w, model.n), r)
            if len(places):
                _segment(model, q, k, lse, places, block, mass, pairs)
    return mass, pairs


def ranks(model: Model, q: torch.Tensor, k: torch.Tensor, lse: torch.Tensor, block: int) -> torch.Tensor:
    """(1, heads, blocks, blocks) of q and k (1, heads, n, head_dim) and the logsumexp (1, heads, n, 1): the place of a tile among
    those of its row that have pairs, by falling mass, as a fraction in [0, 1); 1 for those without pairs. What is below a ratio is
    to be kept for it."""
    found = []
    for head in range(q.shape[1]):
        mass, pairs = _masses(model, head, q[0, head], k[0, head], lse[0, head, :, 0], block)
        order = mass.masked_fill(pairs == 0, -1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        found.append((order / (pairs > 0).sum(1, keepdim=True).clamp(min=1)).masked_fill(pairs == 0, 1.0))
    return torch.stack(found)[None]
