"""Layers of LongNet: MAGNETO's transformer (arXiv:2210.06423) with dilated attention.

Names of modules and parameters are those of the head-group packages: norm1, self_attn, norm2, linear1, norm3, linear2
in the encoder; norm1, self_attn, norm2, multihead_attn, norm3, linear1, norm4, linear2 in the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .core.base import BaseMultiheadDilatedAttention
from .core.config import Device
from .core.factory import create_multihead_dilated_attention

Activation = Union[str, Callable[[Tensor], Tensor]]
Lengths = Union[Tensor, Sequence[int], None]


def activation_of(activation: Activation) -> Callable[[Tensor], Tensor]:
    """A function by its name, "relu" or "gelu", or the function that is given."""
    if callable(activation):
        return activation
    if activation not in ("relu", "gelu"):
        raise ValueError(f"activation is {activation!r}; allowed: 'relu', 'gelu', a function of a tensor")
    return F.relu if activation == "relu" else F.gelu


class _FeedForward(nn.Module):
    """What both layers share: the feed-forward block with MAGNETO's norm within, and how attention modules are made."""

    linear1: nn.Linear
    linear2: nn.Linear

    def _start(self, dropout: float, activation: Activation, gamma_init: float, layer_norm_eps: float) -> None:
        self.activation = activation_of(activation)
        self.dropout = nn.Dropout(dropout)
        self.gamma_init, self.layer_norm_eps = gamma_init, layer_norm_eps

    def _attention(
        self, d_model: int, nhead: int, segment_lengths: Sequence[int], dilation_rates: Sequence[int], **options: Any
    ) -> BaseMultiheadDilatedAttention:
        return create_multihead_dilated_attention(
            options.pop("implementation", "auto"),
            d_model,
            nhead,
            segment_lengths,
            dilation_rates,
            gamma_init=self.gamma_init,
            layer_norm_eps=self.layer_norm_eps,
            **options,
        )

    def reset_parameters(self) -> None:
        """The feed-forward block's as MAGNETO draws them, see MultiheadDilatedAttention for the attention's."""
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_normal_(linear.weight, gain=self.gamma_init)
            nn.init.zeros_(linear.bias)

    def _feed_forward(self, x: Tensor, norm: nn.LayerNorm, inner_norm: nn.LayerNorm) -> Tensor:
        x = self.dropout(self.activation(self.linear1(norm(x))))
        result: Tensor = self.dropout(self.linear2(inner_norm(x)))
        return result


class DilatedTransformerEncoderLayer(_FeedForward):
    """x + attention(norm(x)), then x + feed-forward(norm(x)), each with MAGNETO's second norm within.

    d_model, nhead: embed_dim and num_heads of the attention. dropout: of the blocks' outputs, of the activations and of
    attention weights. gamma_init: gain of MAGNETO's initialisation. options: `implementation`, and whatever
    create_multihead_dilated_attention takes (position, kv_heads, preset, ...)."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        segment_lengths: Sequence[int],
        dilation_rates: Sequence[int],
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        gamma_init: float = 1.0,
        device: Device = None,
        dtype: Optional[torch.dtype] = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self._start(dropout, activation, gamma_init, layer_norm_eps)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.norm1 = nn.LayerNorm(d_model, layer_norm_eps, **made)
        self.self_attn = self._attention(
            d_model, nhead, segment_lengths, dilation_rates, dropout=dropout, **made, **options
        )
        self.norm2 = nn.LayerNorm(d_model, layer_norm_eps, **made)
        self.linear1 = nn.Linear(d_model, dim_feedforward, **made)
        self.norm3 = nn.LayerNorm(dim_feedforward, layer_norm_eps, **made)
        self.linear2 = nn.Linear(dim_feedforward, d_model, **made)
        self.reset_parameters()

    def forward(self, src: Tensor, is_causal: bool = False, key_lengths: Lengths = None) -> Tensor:
        """(batch, n, d_model), like src. key_lengths: numbers of tokens of the sequences, None: all."""
        x: Tensor = src + self.dropout(self.self_attn(self.norm1(src), is_causal=is_causal, key_lengths=key_lengths))
        return x + self._feed_forward(x, self.norm2, self.norm3)


class DilatedTransformerDecoderLayer(_FeedForward):
    """As the encoder's layer, with attention to `memory`, of the same length, in between.

    self_attn_layer_norm: False leaves out the self-attention's second norm (checkpoints of DarcStar's package lack it).
    The other arguments: see DilatedTransformerEncoderLayer."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        segment_lengths: Sequence[int],
        dilation_rates: Sequence[int],
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        gamma_init: float = 1.0,
        device: Device = None,
        dtype: Optional[torch.dtype] = None,
        *,
        self_attn_layer_norm: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        self._start(dropout, activation, gamma_init, layer_norm_eps)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.norm1 = nn.LayerNorm(d_model, layer_norm_eps, **made)
        self.self_attn = self._attention(
            d_model,
            nhead,
            segment_lengths,
            dilation_rates,
            dropout=dropout,
            layer_norm=self_attn_layer_norm,
            **made,
            **options,
        )
        self.norm2 = nn.LayerNorm(d_model, layer_norm_eps, **made)
        self.multihead_attn = self._attention(
            d_model, nhead, segment_lengths, dilation_rates, dropout=dropout, **made, **options
        )
        self.norm3 = nn.LayerNorm(d_model, layer_norm_eps, **made)
        self.linear1 = nn.Linear(d_model, dim_feedforward, **made)
        self.norm4 = nn.LayerNorm(dim_feedforward, layer_norm_eps, **made)
        self.linear2 = nn.Linear(dim_feedforward, d_model, **made)
        self.reset_parameters()

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
        key_lengths: Lengths = None,
    ) -> Tensor:
        """(batch, n, d_model), like tgt. With memory_is_causal, token i reads memory up to place i."""
        x: Tensor = tgt + self.dropout(
            self.self_attn(self.norm1(tgt), is_causal=tgt_is_causal, key_lengths=key_lengths)
        )
        x = x + self.dropout(
            self.multihead_attn(self.norm2(x), memory, memory, is_causal=memory_is_causal, key_lengths=key_lengths)
        )
        return x + self._feed_forward(x, self.norm3, self.norm4)
