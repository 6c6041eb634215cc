"""Dilated attention as a function, for NumPy arrays and PyTorch tensors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np

from . import _core, _threads
from ._config import Options, boolean, encode, for_core, fraction, handle, normal_options, own_handle, probability
from .tiles import SparseProfile, TileMask, checked, checked_profile

if TYPE_CHECKING:
    import torch

    Array = Union[np.ndarray[Any, Any], torch.Tensor]

# The library's number of each data type (da_dtype), in this machine's byte order. bfloat16, which NumPy has from the
# package ml_dtypes, joins them when it is first met.
_NUMPY_DTYPES = {np.dtype(np.float32): 1, np.dtype(np.float64): 2, np.dtype(np.float16): 4}

SPARSE_OPTIONS = (
    "sparse_pattern",
    "sparsity_ratio",
    "block_size",
    "quality_target",
    "global_blocks",
    "sparse_seed",
    "sparse_profile",
)

_tensor_attention: Any = None  # _torch_ops.attention, once there was a tensor


@lru_cache(maxsize=256, typed=True)
def _cached_options(segment_lengths: tuple[int, ...], dilation_rates: tuple[int, ...], *options: object) -> Options:
    return _options(segment_lengths, dilation_rates, *options)


def _options(segment_lengths: object, dilation_rates: object, *options: object) -> Options:
    is_causal, softmax_scale, preset, mixing, offset_rule, tail_rule, overlap, window = options[:8]
    partition, stripe, sparse, implementation, process_group = options[8:]
    return normal_options(
        segment_lengths,
        dilation_rates,
        is_causal=is_causal,
        softmax_scale=softmax_scale,
        preset=preset,
        mixing=mixing,
        offset_rule=offset_rule,
        tail_rule=tail_rule,
        overlap=overlap,
        window=window,
        partition=partition,
        stripe=stripe,
        implementation=implementation,
        process_group=process_group,
        **dict(zip(SPARSE_OPTIONS, sparse)),  # type: ignore[call-overload]
    )


def options_of(segment_lengths: object, dilation_rates: object, *options: object) -> Options:
    """`normal_options`, remembered for arguments that were seen before: a short sequence is computed in less time than
    its options are checked."""
    if isinstance(segment_lengths, (list, tuple)) and isinstance(dilation_rates, (list, tuple)):
        lengths, rates = tuple(segment_lengths), tuple(dilation_rates)
        # 2.0 and True equal 2 and 1 in the memory's eyes, so that only true integers may be looked up.
        if set(map(type, lengths + rates)) == {int}:
            try:
                return _cached_options(lengths, rates, *options)
            except TypeError:
                pass  # not hashable, or refused: said below
    return _options(segment_lengths, dilation_rates, *options)


def dilated_attention(
    query: Array,
    key: Array,
    value: Array,
    segment_lengths: Sequence[int],
    dilation_rates: Sequence[int],
    *,
    is_causal: bool = False,
    softmax_scale: Optional[float] = None,
    preset: str = "longnet",
    mixing: Optional[str] = None,
    offset_rule: Optional[str] = None,
    tail_rule: Optional[str] = None,
    overlap: Optional[str] = None,
    window: Optional[int] = None,
    partition: str = "contiguous",
    stripe: Optional[int] = None,
    key_lengths: Any = None,
    implementation: str = "auto",
    dropout_p: float = 0.0,
    return_lse: bool = False,
    process_group: Any = None,
    comm: Any = None,
    sparse_pattern: Optional[str] = None,
    sparsity_ratio: Optional[float] = None,
    block_size: Optional[int] = None,
    quality_target: Optional[float] = None,
    global_blocks: Optional[int] = None,
    sparse_seed: Optional[int] = None,
    sparse_profile: Optional[SparseProfile] = None,
    tile_mask: Any = None,
) -> Any:
    """LongNet's dilated attention (arXiv:2307.02486), over all patterns in one softmax.

    query has the shape (batch, n, heads, head_dim); key and value the same, or fewer heads, a divisor of heads (grouped
    queries). All three are NumPy arrays or all three PyTorch tensors, of one data type: float32, float64, float16 or
    bfloat16, with any strides. The output is like the query.

    segment_lengths, dilation_rates: the patterns; 1 <= rate <= length, and neither needs to divide anything.
    is_causal: key j is seen by query i only if j <= i. window: W >= 0, only keys with i - j <= W are seen.
    softmax_scale: None is 1 / sqrt(head_dim).
    preset: "longnet" (the paper), "torchscale" (checkpoints trained with it), "head_groups" (those of the packages
    that split the heads among the patterns). mixing ("longnet", "head_groups"), offset_rule ("mod", "block") and
    tail_rule ("mask", "zero_pad") replace what the preset says; overlap is "count" (a key in c patterns has weight c)
    or "once".
    process_group: for tensors. Several ranks of torch.distributed compute together; query, key and value hold this
    rank's part of the tokens, and so does the output. None: the default group for "ring" and "distributed" where
    torch.distributed is initialised, and otherwise this process alone, as with False. comm: the same for arrays, an
    mpi4py communicator. All ranks make the call, with the same options; key_lengths are those of whole sequences, and
    dropout's seed is that of rank 0. docs/python-ranks.md has more.
    partition ("contiguous", "zigzag", "striped"), stripe: which tokens each of several ranks holds, and the tokens in a
    block of "striped" (None: the library's choice); without effect in one process.
    key_lengths: None, or batch integers: keys from key_lengths[b] on do not exist, and may hold anything.
    implementation: "auto", or one that `_core.implementations()` lists.
    dropout_p: the share of attention weights that are dropped, in [0, 1). The seed comes from PyTorch's default
    generator (torch.manual_seed), for arrays from NumPy's (numpy.random.seed).
    return_lse: returns (out, lse), lse of the shape (batch, n, heads): the natural logarithm of the softmax's sum, in
    float32, for float64 tensors in float64. -inf where a query has no key; its output is 0.

    What "block_sparse" computes of the pattern, in tiles of block_size queries and keys (128; docs/block-sparse.md):
    sparse_pattern: "content" (by default: the tiles with the most attention, estimated from the queries and keys),
    "local_window", "global_local" (global_blocks: 1), "dilated_sparse", "axial", "random" (sparse_seed: 0), "hybrid".
    sparsity_ratio: the part of the tiles that is computed, in (0, 1]; 0.1.
    quality_target: below 1, so much of the attention is kept, by as many tiles as that takes; "auto" chooses
    "block_sparse" with such a target and never without.
    sparse_profile: what profile_attention() found for each head, in place of pattern, ratio and target.
    tile_mask: the tiles themselves, in place of all these: a TileMask, FlexAttention's BlockMask, or a bool array or
    tensor (blocks, blocks), with heads, or batch and heads, before that. For "block_sparse" only.

    Tensors are differentiable in query, key and value, once, through out and lse. On CUDA tensors the patterns are
    composed of the best kernels that are installed (composition.py).

    Raises TypeError for an argument of the wrong kind and ValueError for a value that is not allowed; the message names
    the argument, its value, and what is allowed. RuntimeError where another rank failed, did not answer, or makes
    another call.
    """
    global _tensor_attention
    names = (preset, mixing, offset_rule, tail_rule, overlap)
    sparse = (sparse_pattern, sparsity_ratio, block_size, quality_target, global_blocks, sparse_seed, sparse_profile)
    if sparse_profile is not None:
        sparse = _with_profile(sparse)
    if tile_mask is not None:
        tile_mask, sparse = _with_mask(tile_mask, query, implementation, sparse)
    options = (is_causal, softmax_scale, *names, window, partition, stripe, sparse, implementation, process_group)
    if not isinstance(query, np.ndarray) and hasattr(query, "__torch_function__"):
        if _tensor_attention is None:
            from . import _torch_ops

            _tensor_attention = _torch_ops.attention
        compute = _tensor_attention
        if comm is not None:
            raise TypeError("comm is given with tensors; allowed: with arrays. Tensors take process_group")
    elif comm is not None:
        compute = partial(_numpy_attention, comm=comm)
    else:
        compute = _numpy_attention
    dropout = probability("dropout_p", dropout_p)
    out, lse = compute(query, key, value, segment_lengths, dilation_rates, options, key_lengths, dropout, tile_mask)
    return (out, lse) if boolean("return_lse", return_lse) else out


def _with_profile(sparse: tuple[Any, ...]) -> tuple[Any, ...]:
    """The options of "block_sparse" with the profile among them, the last, as text."""
    pattern, ratio, _, quality_target, *_, profile = sparse
    for name, value in (("sparse_pattern", pattern), ("sparsity_ratio", ratio), ("quality_target", quality_target)):
        if value is not None:
            raise ValueError(f"{name} is {value!r}, and sparse_profile says which tiles; allowed: one of them")
    return (*sparse[:-1], checked_profile(profile).text)


def _with_mask(
    tile_mask: Any, query: Any, implementation: object, sparse: tuple[Any, ...]
) -> tuple[TileMask, tuple[Any, ...]]:
    """The mask, checked, and the options of "block_sparse" that are left beside it."""
    pattern, ratio, block_size, quality_target, _, _, profile = sparse
    if implementation != "block_sparse":
        raise ValueError(f"tile_mask is given with implementation {implementation!r}; allowed: 'block_sparse'")
    others = (("sparse_pattern", pattern), ("sparsity_ratio", ratio), ("quality_target", quality_target))
    for name, value in (*others, ("sparse_profile", None if profile is None else "given")):
        if value is not None:
            raise ValueError(f"{name} is {value!r}, and tile_mask says which tiles; allowed: one of them")
    shape: Any = getattr(query, "shape", ())
    mask = checked(tile_mask, shape[1] if len(shape) == 4 else 0, block_size)
    return mask, (None, None, mask.block_size, None, None, None, None)


def _view(array: Any) -> _core.View:
    """What the C library needs to know of an array whose strides are whole elements."""
    size = array.itemsize
    strides = tuple([stride // size for stride in array.strides])
    return array.__array_interface__["data"][0], _NUMPY_DTYPES[array.dtype], array.shape, strides


def _checked(name: str, array: Any) -> Any:
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        kind = type(array).__name__
        raise TypeError(f"{name} is a {kind}; allowed: a NumPy array or a PyTorch tensor, as the others")
    if array.dtype not in _NUMPY_DTYPES:
        if array.dtype.name != "bfloat16":
            raise TypeError(
                f"{name}.dtype is {array.dtype.str}; allowed: float32, float64, float16 and ml_dtypes' bfloat16, "
                "in this machine's byte order"
            )
        _NUMPY_DTYPES[array.dtype] = 3
    for stride in array.strides:
        if stride % array.itemsize:
            return array.copy()
    return array


def _numpy_key_lengths(key_lengths: Any, batch: tuple[int, ...]) -> Optional[np.ndarray[Any, Any]]:
    if key_lengths is None:
        return None
    lengths = np.asarray(key_lengths)
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"key_lengths has the data type {lengths.dtype}; allowed: integers")
    if lengths.shape != batch:
        raise ValueError(f"key_lengths.shape is {lengths.shape}; allowed: (batch,), which is {batch}")
    return np.ascontiguousarray(lengths, dtype=np.int64)


def _numpy_attention(
    query: Any,
    key: Any,
    value: Any,
    segment_lengths: Any,
    dilation_rates: Any,
    options: tuple[Any, ...],
    key_lengths: Any,
    dropout: float,
    tile_mask: Optional[TileMask] = None,
    comm: Any = None,
) -> tuple[Any, Any]:
    if options[-1] is not None and options[-1] is not False:
        raise TypeError(f"process_group is {options[-1]!r}, with arrays; allowed: with tensors. Arrays take comm")
    checked = options_of(segment_lengths, dilation_rates, *options[:-1], "")
    try:
        query, key, value = _checked("query", query), _checked("key", key), _checked("value", value)
        lengths = _numpy_key_lengths(key_lengths, query.shape[:1])
    except (TypeError, ValueError) as error:
        if comm is not None:
            from . import _mpi

            _mpi.refuse(comm, error)  # arrays may be wrong on this rank alone
        raise
    out = np.empty(query.shape, query.dtype)
    lse = np.empty(query.shape[:-1], np.float64 if query.dtype == np.float64 else np.float32)
    if query.shape[:1] == (0,):
        return out, lse
    seed = int(np.random.randint(0, 2**63 - 1, dtype=np.int64)) if dropout > 0 else None
    if comm is None:
        computed_by: Any = handle(encode(checked), dropout, _threads.get())
    else:
        from . import _mpi

        computed_by = _mpi.attention(checked, dropout, _threads.get(), comm)
    computed_by.forward(
        _view(query),
        _view(key),
        _view(value),
        _view(out),
        _view(lse),
        None if lengths is None else _address(lengths),
        seed,
        *(() if tile_mask is None else (tile_mask._handle,)),
    )
    return out, lse


def chosen_tiles(
    query: Any,
    key: Any,
    segment_lengths: Any,
    dilation_rates: Any,
    key_lengths: Any,
    report: bool,
    options: dict[str, Any],
) -> tuple[_core.TileMask, Optional[_core.Report]]:
    """What tiles.attention_tiles() is made of."""
    options = {"implementation": "block_sparse", **options}
    if options.pop("process_group", None):
        raise ValueError("process_group is given; allowed: None, since 'block_sparse' takes whole sequences")
    mask = options.pop("tile_mask", None)
    sparse = tuple(options.pop(name, None) for name in SPARSE_OPTIONS)
    if sparse[-1] is not None:
        sparse = _with_profile(sparse)
    if mask is not None:
        mask, sparse = _with_mask(mask, query, options["implementation"], sparse)
    options.update(zip(SPARSE_OPTIONS, sparse))
    checked_options = normal_options(segment_lengths, dilation_rates, **options)
    views, threads, lengths = _views_for_tiles(query, key, key_lengths)
    computed_by = own_handle(encode(checked_options), threads)
    if computed_by.implementation != "block_sparse":
        raise ValueError(
            f"implementation is {checked_options.implementation!r}, which is {computed_by.implementation!r} here; "
            "allowed: 'block_sparse', or 'auto' with a quality_target below 1"
        )
    return computed_by.tiles(
        *views,
        None if lengths is None else _address(lengths),
        boolean("report", report),
        None if mask is None else mask._handle,
    )


def found_profile(
    query: Any,
    key: Any,
    segment_lengths: Any,
    dilation_rates: Any,
    key_lengths: Any,
    quality_target: Any,
    options: dict[str, Any],
) -> _core.SparseProfile:
    """What tiles.profile_attention() is made of."""
    chosen = normal_options(segment_lengths, dilation_rates, **options)
    views, threads, lengths = _views_for_tiles(query, key, key_lengths)
    address = None if lengths is None else _address(lengths)
    target = fraction("quality_target", quality_target)
    return _core.find_profile(for_core(chosen, 0.0), threads, *views, address, target)


def _views_for_tiles(query: Any, key: Any, key_lengths: Any) -> tuple[tuple[_core.View, _core.View], int, Any]:
    """Query and key as the library takes them, the threads of such a call, and the key lengths."""
    if not isinstance(query, np.ndarray) and hasattr(query, "__torch_function__"):
        from . import _torch_ops

        return _torch_ops.views_for_tiles(query, key, key_lengths)
    query, key = _checked("query", query), _checked("key", key)
    return (_view(query), _view(key)), _threads.get(), _numpy_key_lengths(key_lengths, query.shape[:1])


def _address(lengths: Any) -> int:
    return int(lengths.data_ptr() if hasattr(lengths, "data_ptr") else lengths.__array_interface__["data"][0])
