"""Attention modules over the C library: one class per implementation, all with the same call."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from torch import Tensor

from . import functional
from .core.base import BaseDilatedAttention
from .core.config import SPARSE, Device, DilatedAttentionConfig, sparse_options
from .core.registry import require_available
from .masks import causal_and_window, hidden_keys, key_lengths_of
from .ranks import whole_key_lengths
from .tiles import TileMask, attention_tiles

# Arguments of the packages that this one takes the place of, which choose how something was computed there.
WITHOUT_EFFECT = frozenset(
    {
        "op",
        "enable_memory_pool",
        "enable_profiling",
        "lightweight_pool",
        "use_flash_attention",
        "compile_model",
        "block_size",
        "ring_size",
        "use_checkpointing",
        "use_memory_pool",
        "enable_memory_optimization",
    }
)

# The same of block-sparse modules, whose blocks are of effect.
WITHOUT_EFFECT_ON_SPARSE = WITHOUT_EFFECT - {"block_size"} | {
    "enable_batched_ops",
    "enable_memory_pool",
    "local_window_size",
    "max_sparsity",
    "min_sparsity",
    "pattern_cache_size",
    "use_adaptive_sparsity",
}


def drop_old_options(
    options: dict[str, Any], class_name: str, without_effect: frozenset[str] = WITHOUT_EFFECT
) -> dict[str, Any]:
    """The options without those that have no effect here; a warning names them, if they ask for something."""
    asked = sorted(name for name in without_effect & options.keys() if options[name] is not None)
    if asked:
        warnings.warn(
            f"{class_name}: {', '.join(asked)} has no effect here; the C library chooses", UserWarning, stacklevel=4
        )
    return {name: value for name, value in options.items() if name not in without_effect}


class KernelAttention(BaseDilatedAttention):
    """What the classes below share. `implementation` is the C library's name of what they run."""

    implementation = "standard"

    @classmethod
    def from_config(cls, config: DilatedAttentionConfig) -> KernelAttention:
        made = cls.__new__(cls)
        made._start(config)
        return made

    def _start(self, config: DilatedAttentionConfig) -> None:
        require_available(self.implementation, config.process_group)
        BaseDilatedAttention.__init__(self, dataclasses.replace(config, implementation=self.implementation))

    @property
    def dropout_p(self) -> float:
        """The dropout, by the name that it has in functional interfaces."""
        return self.dropout

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        is_causal: bool = False,
        attention_mask: Optional[Tensor] = None,
        *,
        key_padding_mask: Optional[Tensor] = None,
        key_lengths: Union[Tensor, Sequence[int], None] = None,
        return_lse: bool = False,
        tile_mask: Any = None,
    ) -> Union[Tensor, tuple[Tensor, Tensor]]:
        """Attention of query (batch, n, heads, head_dim) and key and value (batch, n, kv_heads, head_dim).

        is_causal: key j is seen by query i only if j <= i; also where the configuration says so.
        attention_mask: an (n, n) mask that says causal or a window (see masks.py); others are refused.
        key_padding_mask: (batch, n), True where a key is padding, at the end of a sequence; or key_lengths, their
        numbers.
        return_lse: also return the logsumexp, (batch, n, heads).
        tile_mask: of "block_sparse", the tiles to compute in this call, see functional.dilated_attention.

        Returns the output, like query; a query without keys gives 0. In training mode, dropout is applied."""
        return functional.dilated_attention(  # type: ignore[no-any-return]
            query,
            key,
            value,
            dropout_p=self.dropout if self.training else 0.0,
            return_lse=return_lse,
            **self.call_arguments(
                query.shape[0], query.shape[1], is_causal, attention_mask, key_padding_mask, key_lengths, tile_mask
            ),
        )

    def call_arguments(
        self,
        batch: int,
        n: int,
        is_causal: bool = False,
        attention_mask: Optional[Tensor] = None,
        key_padding_mask: Optional[Tensor] = None,
        key_lengths: Union[Tensor, Sequence[int], None] = None,
        tile_mask: Any = None,
    ) -> dict[str, Any]:
        """What forward hands to functional.dilated_attention beside the tensors: the configuration, and the masks of a
        call in the library's terms."""
        arguments = self.config.attention_arguments()
        is_causal = is_causal or self.config.is_causal
        group = self.config.group_name()
        if attention_mask is not None:
            if group:
                raise ValueError(
                    "attention_mask is given, and the tokens are divided among ranks; allowed: None, with is_causal "
                    "and window"
                )
            is_causal, window = causal_and_window(attention_mask, n, is_causal)
            if window is not None:
                arguments["window"] = window if arguments["window"] is None else min(window, arguments["window"])
        if key_padding_mask is not None:
            if key_lengths is not None:
                raise ValueError("key_padding_mask and key_lengths are both given; allowed: one of them")
            if group:
                hidden = hidden_keys(key_padding_mask, batch, n)
                key_lengths = whole_key_lengths(hidden, group, self.config.partition, self.config.stripe)
            else:
                key_lengths = key_lengths_of(key_padding_mask, batch, n)
        if tile_mask is not None:
            arguments.update(dict.fromkeys(SPARSE), tile_mask=tile_mask)
        return {
            **arguments,
            "segment_lengths": self.segment_lengths,
            "dilation_rates": self.dilation_rates,
            "is_causal": is_causal,
            "key_lengths": key_lengths,
        }


class DilatedAttention(KernelAttention):
    """Dilated attention in plain C, to read and to compare with.

    softmax_scale: None: 1 / sqrt(head_dim). attention_dropout: dropout of attention weights, also by the name
    `dropout`.
    op: of xFormers; has no effect here. options: the other fields of DilatedAttentionConfig."""

    implementation = "standard"

    def __init__(
        self,
        segment_lengths: Sequence[int],
        dilation_rates: Sequence[int],
        softmax_scale: Optional[float] = None,
        attention_dropout: float = 0.0,
        op: Any = None,
        **options: Any,
    ) -> None:
        options = drop_old_options({"op": op, **options}, type(self).__name__)
        options.setdefault("dropout", attention_dropout)
        self._start(DilatedAttentionConfig(segment_lengths, dilation_rates, softmax_scale=softmax_scale, **options))


class _FastAttention(KernelAttention):
    """Constructors that take the fields of DilatedAttentionConfig in its order."""

    without_effect = WITHOUT_EFFECT  # options of other packages

    @staticmethod
    def own_names(options: dict[str, Any]) -> dict[str, Any]:
        """The options by the names of DilatedAttentionConfig."""
        return options

    def __init__(
        self,
        segment_lengths: Sequence[int],
        dilation_rates: Sequence[int],
        dropout: float = 0.0,
        use_tf32: bool = True,
        device: Device = None,
        dtype: Optional[torch.dtype] = None,
        **options: Any,
    ) -> None:
        options = drop_old_options(self.own_names(options), type(self).__name__, self.without_effect)
        self._start(
            DilatedAttentionConfig(segment_lengths, dilation_rates, dropout, use_tf32, device, dtype, **options)
        )


class ImprovedDilatedAttention(_FastAttention):
    """Dilated attention by the fast kernels, in one pass over all patterns.

    dropout: of attention weights. options: the other fields of DilatedAttentionConfig."""

    implementation = "improved"


class RingDilatedAttention(ImprovedDilatedAttention):
    """Dilated attention for very long sequences. In one process, tensors are computed as ImprovedDilatedAttention
    computes them, to the bit (files larger than memory are what the command `dilated-attention run --impl ring` is
    for). Over the ranks of torch.distributed, each rank's keys and values are a block, and are computed with while the
    next ones arrive."""

    implementation = "ring"


class DistributedDilatedAttention(ImprovedDilatedAttention):
    """Dilated attention over the ranks of torch.distributed, each of which holds a part of the tokens; the keys and
    values that segments across ranks keep are gathered."""

    implementation = "distributed"


class BlockSparseDilatedAttention(_FastAttention):
    """Dilated attention that computes only some tiles of the pattern, as docs/block-sparse.md has it; approximate.

    sparse_config: a SparsePatternConfig, or its fields in a dict. options: the other fields of DilatedAttentionConfig,
    those of "block_sparse" among them (sparse_pattern, sparsity_ratio, block_size, quality_target, ...), which win over
    sparse_config; pattern_type is another name of sparse_pattern."""

    implementation = "block_sparse"
    without_effect = WITHOUT_EFFECT_ON_SPARSE
    own_names = staticmethod(sparse_options)

    def tiles(
        self,
        query: Tensor,
        key: Tensor,
        is_causal: bool = False,
        attention_mask: Optional[Tensor] = None,
        *,
        key_padding_mask: Optional[Tensor] = None,
        key_lengths: Union[Tensor, Sequence[int], None] = None,
        report: bool = True,
    ) -> TileMask:
        """The tiles that forward computes for these tensors, as a TileMask; with `report`, its `report` says what they
        are of the pattern, and how much of the attention they keep."""
        arguments = self.call_arguments(
            query.shape[0], query.shape[1], is_causal, attention_mask, key_padding_mask, key_lengths
        )
        return attention_tiles(query, key, report=report, **arguments)
