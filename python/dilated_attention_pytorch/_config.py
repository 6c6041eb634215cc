"""The options of an attention: checked once, brought into a normal form, and the handles that belong to them.

An attention's options are a plain tuple inside the package (`Options`); `encode` makes a line of text of it, which is
what PyTorch's operators take as an argument, so that an exported graph says what it computes.
"""

from __future__ import annotations

import json
import math
import operator
import os
import tempfile
from collections.abc import Iterable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Union

from . import _core

if TYPE_CHECKING:
    from ._connection import CollectiveAttention

# What each preset sets: mixing, offset_rule, tail_rule (da_attention_config_set_preset).
PRESETS = {
    "longnet": ("longnet", "mod", "mask"),
    "torchscale": ("longnet", "block", "zero_pad"),
    "head_groups": ("head_groups", "mod", "mask"),
}
MIXINGS = ("longnet", "head_groups")
OFFSET_RULES = ("mod", "block")
TAIL_RULES = ("mask", "zero_pad")
OVERLAPS = ("count", "once")
PARTITIONS = ("contiguous", "zigzag", "striped")
MAX_PATTERNS = 64

# What "block_sparse" chooses tiles by, as da_sparse_pattern names it; a mask is an argument of its own.
SPARSE_PATTERNS = ("content", "local_window", "global_local", "dilated_sparse", "axial", "random", "hybrid")
MIN_BLOCK, MAX_BLOCK = 16, 1024
DEFAULT_BLOCK = 128


class Options(NamedTuple):
    """What an attention computes, in normal form: every name spelled out, defaults put in, except the scale's, which
    depends on head_dim."""

    segment_lengths: tuple[int, ...]
    dilation_rates: tuple[int, ...]
    is_causal: bool
    softmax_scale: Optional[float]
    window: Optional[int]
    mixing: str
    offset_rule: str
    tail_rule: str
    overlap: str
    partition: str
    stripe: int
    sparse_pattern: str
    sparsity_ratio: float
    block_size: int
    quality_target: float
    global_blocks: int
    sparse_seed: int
    sparse_profile: Optional[str]  # as a file holds it
    implementation: str
    process_group: str = ""  # the name of PyTorch's group whose ranks hold parts of the tokens; "": no other process


def integer(name: str, value: object, least: int) -> int:
    """A Python or NumPy integer of 64 bits that is at least `least`; TypeError, ValueError."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is {value!r}; allowed: an integer of at least {least}")
    number = operator.index(value)
    if not least <= number < 2**63:
        raise ValueError(f"{name} is {number}; allowed: an integer of at least {least} and below 2^63")
    return number


def boolean(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if type(value).__name__ in ("bool_", "bool") and hasattr(value, "__bool__"):  # NumPy's
        return bool(value)
    raise TypeError(f"{name} is {value!r}; allowed: True or False")


def real(name: str, value: object) -> float:
    """A finite number; TypeError, ValueError."""
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} is {value!r}; allowed: a finite number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} is {number}; allowed: a finite number")
    return number


def one_of(name: str, value: object, allowed: Iterable[str]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}; allowed: {', '.join(map(repr, allowed))}")
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(map(repr, allowed))}")
    return value


def probability(name: str, value: object) -> float:
    """A number in [0, 1). Plain numbers are compared and nothing else, which torch.compile can trace."""
    number = value if isinstance(value, (float, int)) and not isinstance(value, bool) else real(name, value)
    if not 0 <= number < 1:
        raise ValueError(f"{name} is {number}; allowed: a number in [0, 1)")
    return float(number)


def fraction(name: str, value: object) -> float:
    """A number in (0, 1]; TypeError, ValueError."""
    number = real(name, value)
    if not 0 < number <= 1:
        raise ValueError(f"{name} is {number}; allowed: a number above 0, at most 1")
    return number


def tile_block(name: str, value: object) -> int:
    """Tokens of a side of a tile; TypeError, ValueError."""
    number = integer(name, value, MIN_BLOCK)
    if number > MAX_BLOCK or number % MIN_BLOCK:
        raise ValueError(f"{name} is {number}; allowed: multiples of {MIN_BLOCK} up to {MAX_BLOCK}")
    return number


def text_of_profile(profile: object) -> str:
    if not isinstance(profile, str):
        raise TypeError(f"sparse_profile is a {type(profile).__name__}; allowed: the text of a profile")
    return profile


def patterns(segment_lengths: object, dilation_rates: object) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Both as tuples of integers, checked together."""
    found = []
    for name, values in (("segment_lengths", segment_lengths), ("dilation_rates", dilation_rates)):
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
            raise TypeError(f"{name} is {values!r}; allowed: a sequence of integers")
        found.append(tuple(integer(f"{name}[{k}]", value, 1) for k, value in enumerate(values)))
    lengths, rates = found
    if len(lengths) != len(rates):
        raise ValueError(
            f"dilation_rates has {len(rates)} values and segment_lengths {len(lengths)}; allowed: as many of either"
        )
    if not 1 <= len(lengths) <= MAX_PATTERNS:
        raise ValueError(f"segment_lengths has {len(lengths)} values; allowed: 1 to {MAX_PATTERNS}")
    for k, (length, rate) in enumerate(zip(lengths, rates)):
        if rate > length:
            raise ValueError(f"dilation_rates[{k}] is {rate}; allowed: at most segment_lengths[{k}], which is {length}")
    return lengths, rates


def normal_options(
    segment_lengths: object,
    dilation_rates: object,
    *,
    is_causal: object = False,
    softmax_scale: object = None,
    preset: object = "longnet",
    mixing: object = None,
    offset_rule: object = None,
    tail_rule: object = None,
    overlap: object = None,
    window: object = None,
    partition: object = "contiguous",
    stripe: object = None,
    sparse_pattern: object = None,
    sparsity_ratio: object = None,
    block_size: object = None,
    quality_target: object = None,
    global_blocks: object = None,
    sparse_seed: object = None,
    sparse_profile: object = None,
    implementation: object = "auto",
    process_group: object = "",
) -> Options:
    """The options of `dilated_attention` in normal form.

    Raises TypeError for a value of the wrong kind and ValueError for one that is not allowed; the message names the
    argument, its value, and what is allowed.
    """
    lengths, rates = patterns(segment_lengths, dilation_rates)
    preset_mixing, preset_offsets, preset_tail = PRESETS[one_of("preset", preset, PRESETS)]
    if not isinstance(implementation, str):
        raise TypeError(f"implementation is {implementation!r}; allowed: a name, 'auto' for instance")
    if not isinstance(process_group, str):
        raise TypeError(f"process_group is {process_group!r}; allowed: a group's name")
    return Options(
        lengths,
        rates,
        boolean("is_causal", is_causal),
        None if softmax_scale is None else real("softmax_scale", softmax_scale),
        None if window is None else integer("window", window, 0),
        preset_mixing if mixing is None else one_of("mixing", mixing, MIXINGS),
        preset_offsets if offset_rule is None else one_of("offset_rule", offset_rule, OFFSET_RULES),
        preset_tail if tail_rule is None else one_of("tail_rule", tail_rule, TAIL_RULES),
        "count" if overlap is None else one_of("overlap", overlap, OVERLAPS),
        one_of("partition", partition, PARTITIONS),
        0 if stripe is None else integer("stripe", stripe, 0),
        "content" if sparse_pattern is None else one_of("sparse_pattern", sparse_pattern, SPARSE_PATTERNS),
        0.1 if sparsity_ratio is None else fraction("sparsity_ratio", sparsity_ratio),
        DEFAULT_BLOCK if block_size is None else tile_block("block_size", block_size),
        1.0 if quality_target is None else fraction("quality_target", quality_target),
        1 if global_blocks is None else integer("global_blocks", global_blocks, 0),
        0 if sparse_seed is None else integer("sparse_seed", sparse_seed, 0),
        None if sparse_profile is None else text_of_profile(sparse_profile),
        implementation,
        process_group,
    )


@lru_cache(maxsize=1024)
def encode(options: Options) -> str:
    """A line of JSON that `decode` reads."""
    return json.dumps(options._asdict())


def decode(text: str) -> Options:
    """The options that a text describes; checked again, since an exported graph may come from anywhere."""
    try:
        return normal_options(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"config is {text!r}; allowed: what dilated_attention_pytorch writes ({error})") from None


@lru_cache(maxsize=256)
def handle(config: str, dropout: float, threads: int) -> Union[_core.Attention, CollectiveAttention]:
    """The handle of an attention on so many threads (0: one per core). Handles are kept: making one takes longer than
    computing a short sequence."""
    options = decode(config)
    if options.process_group:
        from . import ranks
        from ._connection import CollectiveAttention

        return CollectiveAttention(options, dropout, threads, partial(ranks.connection, options.process_group))
    return _core.Attention(options.implementation, for_core(options, dropout), threads)


def own_handle(config: str, threads: int) -> _core.Attention:
    """The handle of an attention that this process computes alone, without dropout."""
    found = handle(config, 0.0, threads)
    assert isinstance(found, _core.Attention)
    return found


def for_core(options: Options, dropout: float) -> _core.Options:
    profile = None if options.sparse_profile is None else profile_from(options.sparse_profile)
    return (*options[: Options._fields.index("sparse_profile")], profile, dropout)  # type: ignore[return-value]


@lru_cache(maxsize=64)
def profile_from(text: str) -> _core.SparseProfile:
    """The profile that a text holds, which the library reads from a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "profile.txt")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return _core.SparseProfile(path)


def explain(
    segment_lengths: object,
    dilation_rates: object,
    *,
    n: int,
    heads: int,
    head_dim: int,
    batch: int = 1,
    kv_heads: Optional[int] = None,
    dtype: str = "f32",
    **options: Any,
) -> str:
    """What `implementation="auto"` chooses for a problem, and why: the library's rules in order, the alternatives, and
    the cost. `options` are those of `dilated_attention`; `dtype` is "f32", "f64", "bf16" or "f16"."""
    chosen = normal_options(segment_lengths, dilation_rates, **options)
    query_heads = integer("heads", heads, 1)
    return _core.explain(
        for_core(chosen, 0.0),
        integer("batch", batch, 1),
        integer("n", n, 1),
        query_heads,
        query_heads if kv_heads is None else integer("kv_heads", kv_heads, 1),
        integer("head_dim", head_dim, 1),
        dtype,
    )
