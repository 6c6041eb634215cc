"""Rotary encodings of query and key, by the formulas of include/dilated_attention_nn.h."""

from __future__ import annotations

import math
from typing import Optional

import torch
from torch import Tensor


def rotate(
    x: Tensor,
    *,
    xpos: bool = False,
    inverse_scale: bool = False,
    layout: str = "adjacent",
    base: float = 10000.0,
    scale_base: float = 512.0,
    positions: Optional[Tensor] = None,
) -> Tensor:
    """x (batch, n, heads, head_dim), every pair of channels turned by its position times its frequency.

    RoFormer, arXiv:2104.09864, eq. 34; with `xpos` also multiplied by s, or 1 / s with `inverse_scale` (the key),
    arXiv:2212.10554. Angles are computed in double and used in f32, or f64 for f64.
    positions: of x's tokens, and behind them the length of the whole sequence (ranks.positions_and_length); None: x is
    the whole sequence."""
    n, head_dim = x.shape[1], x.shape[-1]
    pair = torch.arange(head_dim // 2, dtype=torch.float64, device=x.device)
    if positions is None:
        position = torch.arange(n, dtype=torch.float64, device=x.device)[:, None]
    else:
        position = positions[:n, None].to(torch.float64)
    angle = position * base ** (-2.0 * pair / head_dim)
    cosine, sine = angle.cos(), angle.sin()
    if xpos:
        middle = math.ceil(n / 2) if positions is None else (positions[n] + 1) // 2
        power = (position - middle) / scale_base
        scale = ((2 * pair + 0.4 * head_dim) / (1.4 * head_dim)) ** (-power if inverse_scale else power)
        cosine, sine = cosine * scale, sine * scale
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    cosine, sine = cosine.to(kind)[:, None], sine.to(kind)[:, None]
    if layout == "adjacent":
        first, second = x[..., 0::2].to(kind), x[..., 1::2].to(kind)
        turned = torch.stack((first * cosine - second * sine, second * cosine + first * sine), -1).flatten(-2)
    else:
        first, second = (half.to(kind) for half in x.chunk(2, -1))
        turned = torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)
    return turned.to(x.dtype)
