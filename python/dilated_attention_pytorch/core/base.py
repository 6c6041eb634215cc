"""Base classes of attention modules: what every implementation has, built in or yours.

An implementation of your own derives from BaseDilatedAttention (or BaseMultiheadDilatedAttention), writes `forward`,
and is registered by register_attention_implementation.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from typing import Any, Optional, TypeVar, Union

import torch
from torch import Tensor, nn

from ..ranks import positions_and_length
from ..rotary import rotate
from .config import DilatedAttentionConfig, MultiheadConfig

Attention = TypeVar("Attention", bound="BaseDilatedAttention")
Multihead = TypeVar("Multihead", bound="BaseMultiheadDilatedAttention")


def own_values(config: Any) -> dict[str, Any]:
    """The fields of a configuration that are not at their defaults, by name."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    values = {name: getattr(config, name) for name in defaults}
    return {name: value for name, value in values.items() if value != defaults[name]}


def _listed(values: dict[str, Any], hidden: tuple[str, ...] = ("device", "dtype")) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items() if name not in hidden)


class BaseDilatedAttention(nn.Module, ABC):
    """Attention of query, key and value of shape (batch, n, heads, head_dim); no parameters.

    config: DilatedAttentionConfig; its fields are also attributes that old code reads: segment_lengths, dilation_rates,
        dropout, softmax_scale, num_groups.
    """

    def __init__(self, config: DilatedAttentionConfig) -> None:
        super().__init__()
        if not isinstance(config, DilatedAttentionConfig):
            raise TypeError(f"config is a {type(config).__name__}; allowed: DilatedAttentionConfig")
        self.config = config
        self.segment_lengths = list(config.segment_lengths)
        self.dilation_rates = list(config.dilation_rates)
        self.dropout = config.dropout
        self.softmax_scale = config.softmax_scale
        self.num_groups = config.num_groups

    @classmethod
    def from_config(cls: type[Attention], config: DilatedAttentionConfig) -> Attention:
        """A module of this class; the factory calls this. Override it where your constructor takes something else."""
        return cls(config)

    @abstractmethod
    def forward(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The attention's output, shaped like query. Multihead modules call it with `is_causal` and, where a batch is
        padded, `key_lengths`, by name."""

    def extra_repr(self) -> str:
        return _listed(own_values(self.config))


class BaseMultiheadDilatedAttention(nn.Module, ABC):
    """Parameters and steps of a multihead module; `forward` is the subclass's.

    Parameters: q_proj, k_proj, v_proj, out_proj, with `layer_norm` norm, with `qk_layer_norm` q_ln and k_ln; names and
    shapes as docs/multihead.md lists them. `attention` is the module that _create_attention_module returns.
    """

    batch_first = True  # as of nn.MultiheadAttention: tensors are (batch, n, embed_dim)

    def __init__(self, multihead_config: MultiheadConfig, attention_config: DilatedAttentionConfig) -> None:
        super().__init__()
        if not isinstance(multihead_config, MultiheadConfig):
            raise TypeError(f"multihead_config is a {type(multihead_config).__name__}; allowed: MultiheadConfig")
        if not isinstance(attention_config, DilatedAttentionConfig):
            raise TypeError(f"attention_config is a {type(attention_config).__name__}; allowed: DilatedAttentionConfig")
        self.multihead_config, self.attention_config = multihead_config, attention_config
        made = {}
        for name in ("device", "dtype"):
            mine, other = getattr(multihead_config, name), getattr(attention_config, name)
            if mine is not None and other is not None and mine != other:
                raise ValueError(
                    f"multihead_config.{name} is {mine}, attention_config.{name} {other}; allowed: the same, or None"
                )
            made[name] = other if mine is None else mine
        self.embed_dim, self.num_heads = multihead_config.embed_dim, multihead_config.num_heads
        self.head_dim = multihead_config.head_dim
        self.kv_heads = multihead_config.kv_heads or self.num_heads
        self.gamma_init, self.dropout = multihead_config.gamma_init, attention_config.dropout
        self.attention = self._create_attention_module()
        wide, narrow, bias = self.embed_dim, multihead_config.key_width, multihead_config.bias
        self.q_proj = nn.Linear(wide, wide, bias, **made)
        self.k_proj = nn.Linear(wide, narrow, bias, **made)
        self.v_proj = nn.Linear(wide, narrow, bias, **made)
        eps, normed = multihead_config.layer_norm_eps, multihead_config.qk_layer_norm
        self.q_ln = nn.LayerNorm(wide, eps, **made) if normed else None
        self.k_ln = nn.LayerNorm(narrow, eps, **made) if normed else None
        self.norm = nn.LayerNorm(wide, eps, **made) if multihead_config.layer_norm else None
        self.out_proj = nn.Linear(wide, wide, bias, **made)
        self.reset_parameters()

    @classmethod
    def from_config(
        cls: type[Multihead], multihead_config: MultiheadConfig, attention_config: DilatedAttentionConfig
    ) -> Multihead:
        """A module of this class; the factory calls this. Override it where your constructor takes something else."""
        return cls(multihead_config, attention_config)

    def _create_attention_module(self) -> BaseDilatedAttention:
        """The attention within; by default the one that the configuration's `implementation` names."""
        from .factory import attention_from_config

        return attention_from_config(self.attention_config)

    def reset_parameters(self) -> None:
        """MAGNETO's initialisation (arXiv:2210.06423, figure 2): xavier normal, with the gain gamma_init for the
        value and output projections; biases 0, norms 1 and 0."""
        for projection, gain in (
            (self.q_proj, 1.0),
            (self.k_proj, 1.0),
            (self.v_proj, self.gamma_init),
            (self.out_proj, self.gamma_init),
        ):
            nn.init.xavier_normal_(projection.weight, gain=gain)
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)
        for norm in (self.q_ln, self.k_ln, self.norm):
            if norm is not None:
                norm.reset_parameters()

    @abstractmethod
    def forward(
        self, query: Tensor, key: Optional[Tensor] = None, value: Optional[Tensor] = None, *args: Any, **kwargs: Any
    ) -> Union[Tensor, tuple[Tensor, Optional[Tensor]]]:
        """The module's output, (batch, n, embed_dim)."""

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three projections, (batch, n, channels)."""
        return self.q_proj(query), self.k_proj(key), self.v_proj(value)

    def split_heads(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Norms and position encoding of projected query and key; all three as (batch, n, heads, head_dim)."""
        if self.q_ln is not None and self.k_ln is not None:
            q, k = self.q_ln(q), self.k_ln(k)
        q = q.unflatten(-1, (self.num_heads, self.head_dim))
        k = k.unflatten(-1, (self.kv_heads, self.head_dim))
        v = v.unflatten(-1, (self.kv_heads, self.head_dim))
        config = self.multihead_config
        if config.position != "none":
            xpos = config.position == "xpos"
            how = {"layout": config.rotary_layout, "base": config.rope_base, "scale_base": config.xpos_scale_base}
            positions = self.positions_of_part(q)
            if xpos:
                self._check_xpos_range(q, positions)
            q = rotate(q, xpos=xpos, positions=positions, **how)  # type: ignore[arg-type]
            k = rotate(k, xpos=xpos, inverse_scale=True, positions=positions, **how)  # type: ignore[arg-type]
        return q, k, v

    def positions_of_part(self, x: Tensor) -> Optional[Tensor]:
        """Where the tokens of x lie in the whole sequence, if this process holds a part of it."""
        config = self.attention.config
        group = config.group_name()
        return positions_and_length(x, x.shape[1], group, config.partition, config.stripe) if group else None

    def _check_xpos_range(self, x: Tensor, positions: Optional[Tensor]) -> None:
        """Refuses lengths whose factors leave the range of numbers, with the bounds of
        include/dilated_attention_nn.h."""
        if positions is not None and torch.compiler.is_compiling():
            return  # the length is not known yet
        n = x.shape[1] if positions is None else int(positions[-1])
        doublings = n / 2 * math.log2(1.4 / 0.4) / self.multihead_config.xpos_scale_base
        allowed = {torch.float64: 1000, torch.float16: 8}.get(x.dtype, 100)
        if doublings > allowed:
            raise ValueError(
                f"n is {n}: position 'xpos' multiplies by up to 2^{doublings:.0f}; allowed for {x.dtype}: "
                f"up to 2^{allowed} (a larger xpos_scale_base helps)"
            )

    def merge_heads(self, attended: Tensor) -> Tensor:
        """The module's output from the attention's: MAGNETO's norm and the output projection."""
        attended = attended.flatten(-2)
        if self.norm is not None:
            attended = self.norm(attended)
        return self.out_proj(attended)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return _listed(own_values(self.multihead_config))
