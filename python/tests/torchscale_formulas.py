"""torchscale's dilated attention and encoder written down from its formulas, in the data type of its arguments.

Not collected by pytest; imported by test files beside it. Segments are filled to whole ones and to multiples of the
rate with zero tokens, block i of the heads keeps residue i, each pattern is an attention of its own over all its
tokens, zero ones included, and outputs are mixed by the softmax of the logsumexps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _attention(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> tuple[Tensor, Tensor]:
    """(batch, heads, n, head_dim), a few queries at a time."""
    outs, lses = [], []
    for start in range(0, q.shape[2], 256):
        scores = q[:, :, start : start + 256] @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if is_causal:
            row = torch.arange(start, start + scores.shape[2])[:, None]
            scores = scores.masked_fill(torch.arange(k.shape[2]) > row, -math.inf)
        lse = scores.logsumexp(-1, keepdim=True)
        outs.append((scores - lse).exp() @ v)
        lses.append(lse)
    return torch.cat(outs, 2), torch.cat(lses, 2)


def _pattern(q: Tensor, k: Tensor, v: Tensor, w: int, r: int, is_causal: bool) -> tuple[Tensor, Tensor]:
    """Output (batch, n, heads, head_dim) and logsumexp, -infinity where nothing is kept; heads any number."""
    batch, n, heads, d = q.shape
    w = min(w, n)
    segments, kept = math.ceil(n / w), math.ceil(w / r)
    per_block = math.ceil(heads / r)
    out = q.new_zeros(batch, segments, kept * r, heads, d)
    lse = q.new_full((batch, segments, kept * r, heads, 1), -math.inf)

    def filled(x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, 0, 0, segments * w - n)).reshape(batch, segments, w, heads, d)
        return F.pad(x, (0, 0, 0, 0, 0, kept * r - w))

    for offset in range(math.ceil(heads / per_block)):
        block = slice(offset * per_block, (offset + 1) * per_block)
        q_, k_, v_ = (filled(x)[:, :, offset::r, block].flatten(0, 1).transpose(1, 2) for x in (q, k, v))
        o, s = _attention(q_, k_, v_, is_causal)
        out[:, :, offset::r, block] = o.transpose(1, 2).unflatten(0, (batch, segments))
        lse[:, :, offset::r, block] = s.transpose(1, 2).unflatten(0, (batch, segments))
    return (out[:, :, :w].flatten(1, 2)[:, :n], lse[:, :, :w].flatten(1, 2)[:, :n])


def dilated(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segment_length: Sequence[int],
    dilated_ratio: Sequence[int],
    is_causal: bool = False,
    detach_mixing: bool = False,
) -> Tensor:
    """(batch, n, heads, head_dim)."""
    outs, lses = zip(*(_pattern(q, k, v, w, r, is_causal) for w, r in zip(segment_length, dilated_ratio)))
    stacked = torch.stack(lses)
    shares = (stacked.detach() if detach_mixing else stacked).softmax(0).nan_to_num(0)
    return torch.stack([o * share for o, share in zip(outs, shares)]).sum(0)


def xpos(x: Tensor, offset: int, downscale: bool, scale_base: float = 512) -> Tensor:
    """(batch, n, heads, head_dim) at positions offset to offset + n."""
    n, d = x.shape[1], x.shape[3]
    length = n + offset
    zeta = (torch.arange(0, d, 2, dtype=x.dtype) + 0.4 * d) / (1.4 * d)
    power = torch.arange((-length) // 2, length + (-length) // 2, dtype=x.dtype) / scale_base
    size = zeta ** power[:, None]
    frequency = 1.0 / 10000 ** (torch.arange(d // 2, dtype=x.dtype) / (d // 2))
    angle = torch.arange(length, dtype=x.dtype)[:, None] * frequency
    size = 1 / size if downscale else size
    turn = torch.polar(torch.ones_like(angle), angle)[-n:, None] * size[-n:, None]
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)


def module(
    weights: dict[str, Tensor],
    x: Tensor,
    heads: int,
    segment_length: Sequence[int],
    dilated_ratio: Sequence[int],
    *,
    is_causal: bool = False,
    use_xpos: bool = False,
    detach_mixing: bool = False,
) -> Tensor:
    """torchscale's DilatedAttention with the weights of a state_dict."""
    q, k, v = (
        F.linear(x, weights[f"{p}_proj.weight"], weights[f"{p}_proj.bias"]).unflatten(-1, (heads, -1)) for p in "qkv"
    )
    if use_xpos:
        q, k = xpos(q, 0, False), xpos(k, 0, True)
    y = dilated(q, k, v, segment_length, dilated_ratio, is_causal, detach_mixing).flatten(2)
    if "inner_attn_ln.weight" in weights:
        y = F.layer_norm(y, y.shape[-1:], weights["inner_attn_ln.weight"], weights["inner_attn_ln.bias"])
    return F.linear(y, weights["out_proj.weight"], weights["out_proj.bias"])


class EncoderLayer(nn.Module):
    """torchscale's EncoderLayer with subln, around any attention with its interface."""

    def __init__(self, attention: nn.Module, embed_dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.self_attn = attention
        self.self_attn_layer_norm = nn.LayerNorm(embed_dim)
        self.fc1, self.fc2 = nn.Linear(embed_dim, ffn_dim), nn.Linear(ffn_dim, embed_dim)
        self.ffn_layernorm = nn.LayerNorm(ffn_dim)
        self.final_layer_norm = nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.self_attn_layer_norm(x)
        x = x + self.self_attn(y, y, y)[0]
        return x + self.fc2(self.ffn_layernorm(F.gelu(self.fc1(self.final_layer_norm(x)))))


class FormulaAttention(nn.Module):
    """`module` as an nn.Module that holds the weights of another attention."""

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        self.holder: Any = [like]

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, None]:
        like = self.holder[0]
        weights = {name: value.double() for name, value in like.state_dict().items()}
        return module(weights, query, like.num_heads, like.args.segment_length, like.args.dilated_ratio), None
