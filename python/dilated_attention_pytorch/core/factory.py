"""The guide's factory: one call for every implementation, and the rules of "auto"."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Optional, TypeVar

import torch

from .._config import fraction, integer
from .._connection import choose
from ..ranks import Group, size_of
from .base import BaseDilatedAttention, BaseMultiheadDilatedAttention
from .config import DilatedAttentionConfig, MultiheadConfig, SparseAttentionConfig, sparse_options
from .registry import (
    attention_class,
    get_available_implementations,
    get_implementation_info,
    multihead_class,
    require_available,
)

# What modules get where neither arguments nor configuration say it: the guide's patterns, and the base model's sizes
# of the LongNet paper.
DEFAULT_SEGMENT_LENGTHS = (2048, 4096, 8192)
DEFAULT_DILATION_RATES = (1, 2, 4)
DEFAULT_EMBED_DIM = 768
DEFAULT_NUM_HEADS = 12

_ATTENTION_FIELDS = {f.name for f in dataclasses.fields(DilatedAttentionConfig)}
_MULTIHEAD_FIELDS = {f.name for f in dataclasses.fields(MultiheadConfig)}
_SHARED_FIELDS = ("device", "dtype")

Config = TypeVar("Config", DilatedAttentionConfig, MultiheadConfig)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What "auto" chose, and why."""

    implementation: str
    reason: str


def select_implementation(
    sequence_length: Optional[int] = None,
    num_gpus: Optional[int] = None,
    process_group: Group = None,
    quality_target: Optional[float] = None,
) -> Choice:
    """The guide's rules, in their order; a rule whose implementation cannot run here is passed over:

    1. a quality target below 1                       -> block_sparse
    2. an H100 (which brings its flash kernels)       -> improved
    3. more than 100,000 tokens                       -> ring
    4. several GPUs and more than 50,000 tokens       -> distributed
    5. a fast kernel runs here (on a CPU: always)     -> improved
    6. otherwise                                      -> standard

    sequence_length None: unknown, so that rules 3 and 4 do not hold; over several ranks it is that of the whole
    sequence. num_gpus None: the number of process_group's ranks or, where that is one, the GPUs that PyTorch sees.
    process_group: see DilatedAttentionConfig. A group of several ranks that is named has "ring" by rule 3 and otherwise
    "distributed", since only these take a part of the tokens. quality_target: see DilatedAttentionConfig; without one
    below 1, an approximation is never chosen.
    """
    length = 0 if sequence_length is None else integer("sequence_length", sequence_length, 1)
    ranks = size_of(process_group)
    if process_group is not None and ranks > 1:
        return Choice(choose(length), f"{ranks} ranks that hold parts of the tokens")
    seen = ranks if ranks > 1 else torch.cuda.device_count()
    gpus = seen if num_gpus is None else integer("num_gpus", num_gpus, 0)
    h100 = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
    approximate = quality_target is not None and fraction("quality_target", quality_target) < 1
    rules = (
        (approximate, "block_sparse", f"a quality target of {quality_target}"),
        (h100, "improved", "an H100"),
        (length > 100_000, "ring", f"{length:,} tokens"),
        (gpus > 1 and length > 50_000, "distributed", f"{gpus} GPUs or ranks and {length:,} tokens"),
        (True, "improved", "fast kernels run here"),
        (True, "standard", "nothing faster runs here"),
    )
    available, passed_over = get_available_implementations(process_group), ""
    for holds, name, why in rules:
        if holds and name in available:
            return Choice(name, why + passed_over)
        if holds:
            passed_over += f"; {name} is not available"
    raise ValueError(f"no built-in implementation is available{passed_over}")


def attention_from_config(config: DilatedAttentionConfig) -> BaseDilatedAttention:
    """The attention module that a configuration's `implementation` names; what "auto" chooses where that is "auto",
    or the name of an implementation that is a multihead module only."""
    name = config.implementation
    if name == "auto" or not get_implementation_info(name)["attention"]:
        name = select_implementation(
            process_group=config.process_group, quality_target=config.quality_target
        ).implementation
    return attention_class(name, config.process_group).from_config(dataclasses.replace(config, implementation=name))


def _with_values(
    config: Optional[Config], values: dict[str, Any], defaults: dict[str, Any], cls: type[Config]
) -> Config:
    """A configuration from the caller's, which is not changed, and from arguments, which win over it."""
    values = {name: value for name, value in values.items() if value is not None}
    if config is None:
        return cls(**{**defaults, **values})
    if not isinstance(config, cls):
        raise TypeError(f"the configuration is a {type(config).__name__}; allowed: {cls.__name__}")
    return dataclasses.replace(config, **values)


def _check_names(options: dict[str, Any], allowed: set[str], function: str) -> None:
    for name in options:
        if name not in allowed or name == "implementation":
            raise TypeError(
                f"{function} got the argument {name!r}; allowed: {', '.join(sorted(allowed - {'implementation'}))}"
            )


def create_dilated_attention(
    attention_type: str = "auto",
    segment_lengths: Optional[Sequence[int]] = None,
    dilation_rates: Optional[Sequence[int]] = None,
    *,
    config: Optional[DilatedAttentionConfig] = None,
    sequence_length: Optional[int] = None,
    num_gpus: Optional[int] = None,
    **options: Any,
) -> BaseDilatedAttention:
    """A dilated attention module: forward(query, key, value, is_causal=False, ...) on (batch, n, heads, head_dim).

    attention_type: "auto", "standard", "improved", ..., or a name that you registered.
    segment_lengths, dilation_rates: the patterns; by default (2048, 4096, 8192) and (1, 2, 4).
    config: a DilatedAttentionConfig; arguments win over it. options: its other fields, by name.
    sequence_length, num_gpus: what "auto" is to expect, see select_implementation. Over several ranks (process_group,
    among the options), tensors hold this rank's part of the tokens.

    ValueError: an unknown or unavailable implementation (the message says why, and which are available), or a value
    that is not allowed. TypeError: an unknown argument."""
    options = sparse_options(options)
    _check_names(options, _ATTENTION_FIELDS, "create_dilated_attention")
    group = _group_of(options, config)
    name = _resolve(attention_type, sequence_length, num_gpus, group, options, config)
    values = {"segment_lengths": segment_lengths, "dilation_rates": dilation_rates, **options, "implementation": name}
    defaults = {"segment_lengths": DEFAULT_SEGMENT_LENGTHS, "dilation_rates": DEFAULT_DILATION_RATES}
    return attention_class(name, group).from_config(_with_values(config, values, defaults, DilatedAttentionConfig))


def create_multihead_dilated_attention(
    attention_type: str = "auto",
    embed_dim: Optional[int] = None,
    num_heads: Optional[int] = None,
    segment_lengths: Optional[Sequence[int]] = None,
    dilation_rates: Optional[Sequence[int]] = None,
    *,
    multihead_config: Optional[MultiheadConfig] = None,
    attention_config: Optional[DilatedAttentionConfig] = None,
    sequence_length: Optional[int] = None,
    num_gpus: Optional[int] = None,
    **options: Any,
) -> BaseMultiheadDilatedAttention:
    """A multihead module: forward(query, key=None, value=None, ...) on (batch, n, embed_dim).

    attention_type, sequence_length, num_gpus: as in create_dilated_attention.
    embed_dim, num_heads: by default 768 and 12. segment_lengths, dilation_rates: by default (2048, 4096, 8192), (1,
    2, 4).
    multihead_config, attention_config: configurations; arguments win over them. options: their other fields, by name.

    Errors: as of create_dilated_attention."""
    options = sparse_options(options)
    _check_names(options, _ATTENTION_FIELDS | _MULTIHEAD_FIELDS, "create_multihead_dilated_attention")
    group = _group_of(options, attention_config)
    name = _resolve(attention_type, sequence_length, num_gpus, group, options, attention_config)
    of_attention = {
        key: value for key, value in options.items() if key in _ATTENTION_FIELDS and key not in _SHARED_FIELDS
    }
    of_multihead = {key: value for key, value in options.items() if key in _MULTIHEAD_FIELDS}
    shared = {key: options[key] for key in _SHARED_FIELDS if key in options}
    attention = _with_values(
        attention_config,
        {
            "segment_lengths": segment_lengths,
            "dilation_rates": dilation_rates,
            **of_attention,
            **shared,
            "implementation": name,
        },
        {"segment_lengths": DEFAULT_SEGMENT_LENGTHS, "dilation_rates": DEFAULT_DILATION_RATES},
        DilatedAttentionConfig,
    )
    multihead = _with_values(
        multihead_config,
        {"embed_dim": embed_dim, "num_heads": num_heads, **of_multihead},
        {"embed_dim": DEFAULT_EMBED_DIM, "num_heads": DEFAULT_NUM_HEADS},
        MultiheadConfig,
    )
    return multihead_class(name, group).from_config(multihead, attention)


def create_block_sparse_attention(
    sparsity_ratio: Optional[float] = None,
    pattern_type: Optional[str] = None,
    embed_dim: Optional[int] = None,
    num_heads: Optional[int] = None,
    segment_lengths: Optional[Sequence[int]] = None,
    dilation_rates: Optional[Sequence[int]] = None,
    **options: Any,
) -> BaseMultiheadDilatedAttention:
    """A multihead module around "block_sparse".

    sparsity_ratio: the part of the tiles that is computed, in (0, 1]; 0.1 by default. (Other packages' function of this
    name took the part that is left out.) pattern_type: "content" by default, or "local_window", "global_local",
    "dilated_sparse", "axial", "random", "hybrid".
    All else as in create_multihead_dilated_attention, and so are the errors."""
    return create_multihead_dilated_attention(
        "block_sparse",
        embed_dim,
        num_heads,
        segment_lengths,
        dilation_rates,
        sparsity_ratio=sparsity_ratio,
        pattern_type=pattern_type,
        **options,
    )


def create_adaptive_sparse_attention(
    embed_dim: Optional[int] = None,
    num_heads: Optional[int] = None,
    segment_lengths: Optional[Sequence[int]] = None,
    dilation_rates: Optional[Sequence[int]] = None,
    quality_target: float = 0.95,
    **options: Any,
) -> BaseMultiheadDilatedAttention:
    """A multihead module around "block_sparse" that keeps so much of each head's attention, by as many tiles as that
    takes in each call.

    quality_target: in (0, 1]. All else as in create_multihead_dilated_attention, and so are the errors."""
    return create_multihead_dilated_attention(
        "block_sparse",
        embed_dim,
        num_heads,
        segment_lengths,
        dilation_rates,
        quality_target=quality_target,
        **options,
    )


def _group_of(options: dict[str, Any], config: Optional[DilatedAttentionConfig]) -> Group:
    """What was said of the ranks that compute together: by an argument, which wins, or in a configuration."""
    given: Group = options.get("process_group")
    return given if given is not None else getattr(config, "process_group", None)


def _resolve(
    name: str,
    sequence_length: Optional[int],
    num_gpus: Optional[int],
    group: Group,
    options: dict[str, Any],
    config: Optional[DilatedAttentionConfig],
) -> str:
    if name == "auto" and isinstance(config, SparseAttentionConfig):
        name = "block_sparse"  # which that configuration is for
    if name == "auto":
        target = options.get("quality_target")
        target = getattr(config, "quality_target", None) if target is None else target
        return select_implementation(sequence_length, num_gpus, group, target).implementation
    require_available(name, group)
    return name
