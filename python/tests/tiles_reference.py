"""Attention over tiles by its definition, in PyTorch's float64, differentiable by PyTorch. Not collected by pytest."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Optional

import numpy as np
import torch
from dilated_attention_reference import head_offset, keys_of
from torch import Tensor


def pattern_counts(
    n: int,
    heads: int,
    segment_lengths: Any,
    dilation_rates: Any,
    *,
    is_causal: bool = False,
    window: Optional[int] = None,
    preset: str = "longnet",
    overlap: str = "count",
) -> tuple[np.ndarray, np.ndarray]:
    """By head, how many patterns let query i see key j, (heads, n, n), and zero keys it meets, (heads, n)."""
    rule, tail = ("block", "zero_pad") if preset == "torchscale" else ("mod", "mask")
    count, zeros = np.zeros((heads, n, n), int), np.zeros((heads, n), int)
    patterns = list(zip(segment_lengths, dilation_rates))
    groups = np.array_split(np.arange(heads), len(patterns)) if preset == "head_groups" else None
    for h in range(heads):
        for p, (w, r) in enumerate(patterns):
            if groups is not None and h not in groups[p]:
                continue
            off = p % r if groups is not None else head_offset(h, heads, r, rule)
            for i in range(n):
                found = keys_of(i, n, w, r, off, is_causal, tail)
                if found is not None:
                    for j, times in Counter(found[0]).items():
                        count[h, i, j] += times
                    zeros[h, i] += found[1]
    if overlap == "once":
        count = np.minimum(count, 1)
    if window is not None:
        count *= np.arange(n)[:, None] - np.arange(n) <= window
    return count, zeros


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segment_lengths: Any,
    dilation_rates: Any,
    kept: np.ndarray,
    block_size: int,
    *,
    key_lengths: Any = None,
    preset: str = "longnet",
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """out (batch, n, heads, head_dim) and lse (batch, n, heads); kept: bool, (blocks, blocks) at the end."""
    q, k, v = (x.double() for x in (q, k, v))
    batch, n, heads, head_dim = q.shape
    count, zeros = pattern_counts(n, heads, segment_lengths, dilation_rates, preset=preset, **options)
    kept = np.asarray(kept).reshape((1,) * (4 - np.ndim(kept)) + np.shape(kept))
    pairs = kept.repeat(block_size, -1).repeat(block_size, -2)[..., :n, :n]
    c = torch.from_numpy(np.broadcast_to(count * pairs, (batch, heads, n, n)).astype(float))
    if key_lengths is not None:
        c = c * (torch.arange(n) < torch.as_tensor(key_lengths)[:, None])[:, None, None]
    k, v = (x.repeat_interleave(heads // x.shape[2], 2) for x in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(head_dim)
    weights = c * torch.where(c > 0, scores, 0.0).exp()
    total = weights.sum(-1) + torch.from_numpy(zeros.astype(float))
    out = torch.einsum("bhqk,bkhd->bqhd", weights / total.clamp_min(1e-300)[..., None], v)
    groups = len(segment_lengths) if preset == "head_groups" else 1
    return out / groups, torch.where(total > 0, total.clamp_min(1e-300).log(), -math.inf).transpose(1, 2)
