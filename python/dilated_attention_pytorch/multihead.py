"""Multihead modules: projections and norms around an attention module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import functional
from .attention import (
    WITHOUT_EFFECT,
    WITHOUT_EFFECT_ON_SPARSE,
    BlockSparseDilatedAttention,
    KernelAttention,
    drop_old_options,
)
from .core.base import BaseMultiheadDilatedAttention
from .core.config import Device, DilatedAttentionConfig, MultiheadConfig, sparse_options
from .core.factory import _MULTIHEAD_FIELDS
from .core.registry import require_available
from .masks import key_lengths_of

# Attention weights of all queries are given unasked up to this many numbers.
MOST_WEIGHTS = 1 << 26


class MultiheadDilatedAttention(BaseMultiheadDilatedAttention):
    """Multihead dilated attention around the implementation "standard".

    embed_dim, num_heads, bias, layer_norm, layer_norm_eps, gamma_init: see MultiheadConfig.
    dilation_rates, segment_lengths, dropout: see DilatedAttentionConfig. op: of xFormers; has no effect here.
    options: the other fields of both."""

    implementation = "standard"
    without_effect = WITHOUT_EFFECT  # options of other packages

    @staticmethod
    def own_names(options: dict[str, Any]) -> dict[str, Any]:
        """The options by the names of the configurations."""
        return options

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dilation_rates: Sequence[int],
        segment_lengths: Sequence[int],
        dropout: float = 0.0,
        bias: bool = True,
        layer_norm: bool = True,
        layer_norm_eps: float = 1e-5,
        gamma_init: float = 1.0,
        device: Device = None,
        dtype: Optional[torch.dtype] = None,
        op: Any = None,
        **options: Any,
    ) -> None:
        options = self.own_names({"op": op, **options})
        options = drop_old_options(options, type(self).__name__, self.without_effect)
        around = {name: options.pop(name) for name in list(options) if name in _MULTIHEAD_FIELDS}
        self._start(
            MultiheadConfig(
                embed_dim, num_heads, bias, layer_norm, layer_norm_eps, gamma_init, device, dtype, **around
            ),
            DilatedAttentionConfig(
                segment_lengths,
                dilation_rates,
                dropout,
                device=device,
                dtype=dtype,
                implementation=self.implementation,
                **options,
            ),
        )

    @classmethod
    def from_config(
        cls, multihead_config: MultiheadConfig, attention_config: DilatedAttentionConfig
    ) -> MultiheadDilatedAttention:
        made = cls.__new__(cls)
        made._start(multihead_config, attention_config)
        return made

    def _start(self, multihead_config: MultiheadConfig, attention_config: DilatedAttentionConfig) -> None:
        require_available(self.implementation, attention_config.process_group)
        BaseMultiheadDilatedAttention.__init__(self, multihead_config, attention_config)

    def forward(
        self,
        query: Tensor,
        key: Optional[Tensor] = None,
        value: Optional[Tensor] = None,
        key_padding_mask: Optional[Tensor] = None,
        need_weights: bool = False,
        attn_mask: Optional[Tensor] = None,
        is_causal: bool = False,
        average_attn_weights: bool = True,
        *,
        key_lengths: Union[Tensor, Sequence[int], None] = None,
        weight_queries: Union[Tensor, Sequence[int], None] = None,
    ) -> Union[Tensor, tuple[Tensor, Optional[Tensor]]]:
        """The module's output, (batch, n, embed_dim), of query, key and value of that shape.

        key: None: query. value: None: key. All three have the same length.
        key_padding_mask: (batch, n), True (or -inf) where a key is padding, at the end of a sequence; or key_lengths.
        attn_mask: an (n, n) mask that says causal or a window (see masks.py); others are refused.
        is_causal: key j is seen by query i only if j <= i.
        need_weights: return (output, weights): attention weights of weight_queries (positions; None: all queries, if
            n is not too large) on all keys, (batch, queries, n) averaged over heads, or (batch, heads, queries, n) with
            average_attn_weights=False. Dropout and gradients do not reach them.

        ValueError: shapes, masks and values that are not allowed."""
        key = query if key is None else key
        value = key if value is None else value
        batch, n = self._check_inputs(query, key, value)
        divided = self.attention.config.group_name() != ""
        if key_padding_mask is not None and not divided:
            if key_lengths is not None:
                raise ValueError("key_padding_mask and key_lengths are both given; allowed: one of them")
            key_lengths = key_lengths_of(key_padding_mask, batch, n)
        if need_weights and divided:
            raise ValueError("need_weights is True, and the tokens are divided among ranks; allowed: False")
        if weight_queries is not None and not need_weights:
            raise ValueError("weight_queries is given without need_weights=True; allowed: both, or neither")
        heads = self.split_heads(*self.project(query, key, value))
        call: dict[str, Any] = {"is_causal": is_causal}
        if attn_mask is not None:
            call["attention_mask"] = attn_mask
        if key_lengths is not None:
            call["key_lengths"] = key_lengths
        if key_padding_mask is not None and divided:
            call["key_padding_mask"] = key_padding_mask
        output = self.merge_heads(self.attention(*heads, **call))
        if not need_weights:
            return output
        with torch.no_grad():
            weights = self._weights(heads, call, weight_queries)
        return output, (weights.mean(1) if average_attn_weights else weights)

    def _check_inputs(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[int, int]:
        for name, x in (("query", query), ("key", key), ("value", value)):
            if not isinstance(x, Tensor):
                raise TypeError(f"{name} is a {type(x).__name__}; allowed: tensors")
            if x.dim() != 3 or x.shape[2] != self.embed_dim:
                raise ValueError(
                    f"{name} has the shape {tuple(x.shape)}; allowed: (batch, n, embed_dim), here (batch, n, "
                    f"{self.embed_dim})"
                )
            if x.shape[:2] != query.shape[:2]:
                raise ValueError(
                    f"{name} has the shape {tuple(x.shape)}, query {tuple(query.shape)}; allowed: the same batch "
                    "and length, since a query's place in the sequence says which keys it sees"
                )
        return query.shape[0], query.shape[1]

    def _weights(
        self, heads: tuple[Tensor, Tensor, Tensor], call: dict[str, Any], queries: Union[Tensor, Sequence[int], None]
    ) -> Tensor:
        """Attention weights (batch, heads, queries, n), from the logsumexp of one more pass without dropout."""
        if not isinstance(self.attention, KernelAttention):
            raise ValueError(
                f"need_weights=True with {type(self.attention).__name__}; allowed: built-in implementations"
            )
        from . import weights

        q, k, v = heads
        batch, n, count, _ = q.shape
        if queries is None:
            if batch * count * n * n > MOST_WEIGHTS:
                raise ValueError(
                    f"need_weights=True for all {n} queries would return {batch * count * n * n:,} weights; "
                    f"allowed: up to {MOST_WEIGHTS:,}, or weight_queries=[...]"
                )
            queries = range(n)
        arguments = self.attention.call_arguments(batch, n, **call)
        if isinstance(self.attention, BlockSparseDilatedAttention):
            mask = self.attention.tiles(q, k, report=False, **call)
            arguments.update(dict.fromkeys(functional.SPARSE_OPTIONS), tile_mask=mask)
        _, lse = functional.dilated_attention(q, k, v, return_lse=True, **arguments)
        del arguments["implementation"], arguments["process_group"]
        found: Tensor = weights.attention_weights(q, k, lse, queries=[int(i) for i in queries], **arguments)
        return found


class ImprovedMultiheadDilatedAttention(MultiheadDilatedAttention):
    """Multihead dilated attention around the implementation "improved". Where query, key and value are one tensor, long
    enough, their projections are one product; the parameters are those of MultiheadDilatedAttention. Projections that
    were replaced, as adapters and quantisation do, are called one by one."""

    implementation = "improved"
    # Rows (tokens of the batch) per channel from which one product is worth joining the three matrices for: 13% of the
    # projections' forward and backward time at 2,048 rows of 128 channels, nothing at 2,048 of 768, and a loss below.
    joined_from = 8

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        if query is not key or key is not value or not self._joins(query, projections):
            return super().project(query, key, value)
        weight = torch.cat([p.weight for p in projections])
        bias = torch.cat([p.bias for p in projections]) if self.q_proj.bias is not None else None
        q, k, v = F.linear(query, weight, bias).split([p.out_features for p in projections], -1)
        return q, k, v

    def _joins(self, x: Tensor, projections: tuple[nn.Linear, ...]) -> bool:
        # A compiler joins products by itself, and a length in an `if` would hold an exported program to it.
        if torch.compiler.is_compiling() or x.shape[0] * x.shape[1] < self.joined_from * self.embed_dim:
            return False
        return all(type(p) is nn.Linear and not p._forward_hooks and not p._forward_pre_hooks for p in projections)


class _SegmentsFirst(ImprovedMultiheadDilatedAttention):
    """Constructors that take segment_lengths before dilation_rates, as those of the packages' ring modules do."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        segment_lengths: Sequence[int],
        dilation_rates: Sequence[int],
        dropout: float = 0.0,
        bias: bool = True,
        layer_norm: bool = True,
        layer_norm_eps: float = 1e-5,
        gamma_init: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(
            embed_dim,
            num_heads,
            dilation_rates,
            segment_lengths,
            dropout,
            bias,
            layer_norm,
            layer_norm_eps,
            gamma_init,
            **options,
        )


class RingMultiheadDilatedAttention(_SegmentsFirst):
    """Multihead dilated attention around the implementation "ring"."""

    implementation = "ring"


class DistributedMultiheadDilatedAttention(_SegmentsFirst):
    """Multihead dilated attention around the implementation "distributed"."""

    implementation = "distributed"


class BlockSparseMultiheadDilatedAttention(_SegmentsFirst):
    """Multihead dilated attention around the implementation "block_sparse"; sparse_config and the options of tiles as
    in BlockSparseDilatedAttention."""

    implementation = "block_sparse"
    without_effect = WITHOUT_EFFECT_ON_SPARSE
    own_names = staticmethod(sparse_options)
