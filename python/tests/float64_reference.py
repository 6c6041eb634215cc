"""The float64 definition (tests/reference) for tests of the Python package, with the bounds of tests/tolerances.md.

Not collected by pytest; imported by test files beside it.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "reference"))
from dilated_attention_gradient import head_passes

UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
TINIEST = {torch.float64: 2.0**-1022, torch.float32: 2.0**-126, torch.float16: 2.0**-24, torch.bfloat16: 2.0**-126}


@dataclass
class Exact:
    """Results in float64, and for each element how far a result of the data type may be from it."""

    out: np.ndarray
    lse: np.ndarray
    grads: list[np.ndarray]
    out_bound: np.ndarray
    lse_bound: np.ndarray
    grad_bounds: list[np.ndarray]


def exact(
    query: Any,
    key: Any,
    value: Any,
    segment_lengths: Any,
    dilation_rates: Any,
    grad_out: Any = None,
    grad_lse: Any = None,
    *,
    dtype: torch.dtype,
    scale: float | None = None,
    key_lengths: Any = None,
    rounded_weights: bool = False,
    seed_of_dropout: int = 0,
    **options: Any,
) -> Exact:
    """The definition's results, and tests/tolerances.md's bounds of them.

    Composing adds one item to those: each pattern's output, and its share of a gradient, is stored in the data type
    before they are mixed, at most u_t of the sum of the magnitudes. rounded_weights: the kernel rounds weights, and
    what multiplies keys and queries in the backward pass, to the data type.
    """
    q, k, v = (x.detach().double().numpy() for x in (query, key, value))
    _, n, heads, head_dim = q.shape
    go = np.zeros_like(q) if grad_out is None else grad_out.double().numpy()
    gl = np.zeros(q.shape[:3]) if grad_lse is None else grad_lse.double().numpy()
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    padding = None if key_lengths is None else [[j >= length for j in range(n)] for length in key_lengths]
    u_t, tiny = UNIT[dtype], TINIEST[dtype]
    u = UNIT[torch.float64] if dtype == torch.float64 else UNIT[torch.float32]
    u_w = u_t if rounded_weights and dtype in (torch.float16, torch.bfloat16) else 0.0
    shapes = (q.shape, k.shape, v.shape)
    result = Exact(
        np.zeros(q.shape),
        np.zeros(q.shape[:3]),
        [np.zeros(s) for s in shapes],
        np.zeros(q.shape),
        np.zeros(q.shape[:3]),
        [np.zeros(s) for s in shapes],
    )
    for b, h, kv, qh, kh, vh, one in head_passes(
        q,
        k,
        v,
        segment_lengths,
        dilation_rates,
        go,
        gl,
        scale=scale,
        key_padding=padding,
        seed=seed_of_dropout,
        **options,
    ):
        g, dl = go[b, :, h], gl[b, :, h]
        seen = one.c > 0
        sizes = np.where(seen, np.abs(scale) * (np.abs(qh) @ np.abs(kh).T), 0)
        steps = (head_dim + 8) * (u + 2.0**-53)
        terms = seen.sum(1) + one.zeros
        summing = (2 * np.sqrt(terms) + 8) * (u + 2.0**-53)
        largest = np.maximum(sizes.max(1, initial=0), np.where(np.isinf(one.lse), 0, np.abs(one.lse)))
        higher = np.exp(2 * steps * largest)
        mean_score = (one.p * sizes).sum(1)
        mean_value = (one.p * one.m) @ np.abs(vh)
        spread = np.stack(
            [(one.p * sizes * np.abs(one.m * vh[:, c] - one.out[:, [c]])).sum(1) for c in range(head_dim)], 1
        ).max(1)
        lse_error = higher * (steps * mean_score + summing) + 4 * u * (
            np.where(np.isinf(one.lse), 0, np.abs(one.lse)) + largest
        )
        out_error = (higher * (steps * spread + (summing + u_t + u_w) * mean_value.max(1)))[:, None]
        result.out[b, :, h], result.lse[b, :, h] = one.out, one.lse
        result.out_bound[b, :, h] = out_error + u_t * np.abs(one.out) + tiny
        result.lse_bound[b, :, h] = lse_error
        # gradients: errors of p (relative), of dp and d, of the sums
        dp_size = one.m * (np.abs(g) @ np.abs(vh).T)
        d_size = (np.abs(g) * np.abs(one.out)).sum(1)
        g_size = np.abs(g).sum(1)
        p_error = np.where(seen, steps * sizes + (lse_error + 8 * u)[:, None], 0) * higher[:, None]
        d_error = steps * (d_size + np.abs(dl)) + g_size * (out_error[:, 0] + tiny) + u_t * d_size
        through_lse = u_t * np.abs(dl)  # stored among the outputs that the kernels are given
        ds_error = np.abs(one.ds) * (p_error + u_w + u_t) + one.p * (steps * dp_size + (d_error + through_lse)[:, None])
        pm, pm_error = one.p * one.m, one.p * one.m * (p_error + u_w + u_t)
        count = (2 * math.sqrt(n * heads) + 8) * (u + 2.0**-53)
        ds = np.abs(one.ds)
        parts = (
            (0, h, ds @ np.abs(kh), ds_error @ np.abs(kh), scale * one.ds @ kh),
            (1, kv, ds.T @ np.abs(qh), ds_error.T @ np.abs(qh), scale * one.ds.T @ qh),
            (2, kv, pm.T @ np.abs(g), pm_error.T @ np.abs(g), pm.T @ g),
        )
        for which, head, magnitude, error, gradient in parts:
            factor = 1.0 if which == 2 else abs(scale)
            result.grads[which][b, :, head] += gradient
            result.grad_bounds[which][b, :, head] += factor * (error + (count + 2 * u_t) * magnitude) + tiny
    return result


def assert_within(name: str, found: Any, expected: np.ndarray, bound: np.ndarray) -> None:
    """Every element within its bound; infinities and exact zeros of bound 0 must be equal."""
    found = found.detach().double().numpy() if isinstance(found, torch.Tensor) else np.asarray(found, np.float64)
    assert found.shape == expected.shape, f"{name}: shape {found.shape}, expected {expected.shape}"
    same = found == expected
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0, np.abs(found - expected))
    wrong = ~same & ~(error <= bound)
    if wrong.any():
        place = np.unravel_index(
            np.argmax(np.where(wrong, np.where(np.isnan(error), np.inf, error / (bound + 1e-300)), 0)), error.shape
        )
        raise AssertionError(
            f"{name}{list(map(int, place))}: {found[place]!r}, expected {expected[place]!r} "
            f"within {bound[place]:.3g}; {int(wrong.sum())} of {wrong.size} elements are off"
        )
