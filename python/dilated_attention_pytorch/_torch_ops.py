"""The attention and its backward pass as PyTorch operators, `torch.ops.dilated_attention.forward` and `.backward`.

Options travel as one line of text (`_config.encode`), the seed of dropout as a tensor, so that both can stand in a
traced graph and the seed be drawn anew each time it runs. Tiles that "block_sparse" has chosen, or is told, travel as
two tensors (see tiles.TileMask), so that the backward pass has those of the forward pass; `.tiles` chooses them.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, Optional

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler

from . import _core
from ._config import decode, encode, handle, own_handle
from .functional import options_of
from .ranks import name_for, refuse
from .tiles import TileMask

# The library's number of each data type (da_dtype).
_DTYPES = {torch.float32: 1, torch.float64: 2, torch.bfloat16: 3, torch.float16: 4}

_library = torch.library.Library("dilated_attention", "DEF")
_library.define(
    "forward(Tensor query, Tensor key, Tensor value, Tensor? key_lengths, Tensor? seed, str config, float dropout,"
    " Tensor? tile_counts=None, Tensor? tile_columns=None) -> (Tensor out, Tensor lse)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "backward(Tensor grad_out, Tensor? grad_lse, Tensor query, Tensor key, Tensor value, Tensor out, Tensor lse,"
    " Tensor? key_lengths, Tensor? seed, str config, float dropout, bool[3] wanted,"
    " Tensor? tile_counts=None, Tensor? tile_columns=None) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "tiles(Tensor query, Tensor key, Tensor? key_lengths, str config) -> (Tensor tile_counts, Tensor tile_columns)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


# ---- The C library's calls -----------------------------------------------------------------------------------------


def _view(tensor: Tensor) -> _core.View:
    return tensor.data_ptr(), _DTYPES[tensor.dtype], tensor.shape, tensor.stride()


def _lse_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _address(key_lengths: Optional[Tensor], query: Tensor) -> Optional[int]:
    if key_lengths is None:
        return None
    if key_lengths.dtype != torch.int64 or key_lengths.shape != query.shape[:1] or not key_lengths.is_contiguous():
        raise ValueError(
            f"key_lengths is of {key_lengths.dtype} and shape {tuple(key_lengths.shape)}; "
            f"allowed: int64 and (batch,), which is ({query.shape[0]},), dense"
        )
    return key_lengths.data_ptr()


def _number(seed: Optional[Tensor]) -> Optional[int]:
    return None if seed is None else int(seed)


@lru_cache(maxsize=256)
def _block_size(config: str) -> int:
    return decode(config).block_size


def _mask(
    counts: Optional[Tensor], columns: Optional[Tensor], query: Tensor, config: str
) -> tuple[_core.TileMask, ...]:
    """The last argument of the library's calls, where there are tiles."""
    if counts is None or columns is None:
        return ()
    for name, tensor, dimensions in (("tile_counts", counts, 3), ("tile_columns", columns, 1)):
        if tensor.dtype != torch.int32 or tensor.dim() != dimensions:
            raise ValueError(
                f"{name} is of {tensor.dtype} and shape {tuple(tensor.shape)}; allowed: int32 and {dimensions} axes"
            )
    counts, columns = counts.contiguous(), columns.contiguous()
    batch, heads, _ = counts.shape
    sizes = counts.numel(), columns.numel()
    addresses = counts.data_ptr(), columns.data_ptr()
    return (_core.TileMask(batch, heads, query.shape[1], _block_size(config), *sizes, *addresses),)


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_lengths: Optional[Tensor],
    seed: Optional[Tensor],
    config: str,
    dropout: float,
    tile_counts: Optional[Tensor] = None,
    tile_columns: Optional[Tensor] = None,
) -> tuple[Tensor, Tensor]:
    dtype = query.dtype
    if not (query.is_cpu and key.is_cpu and value.is_cpu and dtype in _DTYPES and dtype == key.dtype == value.dtype):
        _check_tensors(query, key, value)
    if query.dim() != 4:
        raise ValueError(f"query has the shape {tuple(query.shape)}; allowed: (batch, n, heads, head_dim)")
    batch, n, heads, _ = query.shape
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    # Twice as fast as torch.empty().
    lse = torch.empty_strided((batch, n, heads), (n * heads, heads, 1), dtype=_lse_dtype(dtype), device="cpu")
    if batch != 0:  # PyTorch's users expect an empty batch to do nothing
        handle(config, dropout, torch.get_num_threads()).forward(
            _view(query),
            _view(key),
            _view(value),
            _view(out),
            _view(lse),
            _address(key_lengths, query),
            _number(seed),
            *_mask(tile_counts, tile_columns, query, config),
        )
    return out, lse


def _backward(
    grad_out: Tensor,
    grad_lse: Optional[Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    key_lengths: Optional[Tensor],
    seed: Optional[Tensor],
    config: str,
    dropout: float,
    wanted: list[bool],
    tile_counts: Optional[Tensor] = None,
    tile_columns: Optional[Tensor] = None,
) -> tuple[Tensor, Tensor, Tensor]:
    grads = _empty_gradients((query, key, value), wanted)
    if query.shape[:1] != (0,):
        grad_query, grad_key, grad_value = (_view(grad) if want else None for grad, want in zip(grads, wanted))
        handle(config, dropout, torch.get_num_threads()).backward(
            _view(query),
            _view(key),
            _view(value),
            _view(out),
            _view(lse),
            _view(grad_out),
            None if grad_lse is None else _view(grad_lse),
            grad_query,
            grad_key,
            grad_value,
            _address(key_lengths, query),
            _number(seed),
            *_mask(tile_counts, tile_columns, query, config),
        )
    return grads


def _empty_gradients(tensors: tuple[Tensor, Tensor, Tensor], wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """Dense tensors for the gradients that are wanted, and empty ones in place of the others."""
    query, key, value = (x.new_empty(x.shape if want else (0,)) for x, want in zip(tensors, wanted))
    return query, key, value


def _tiles(query: Tensor, key: Tensor, key_lengths: Optional[Tensor], config: str) -> tuple[Tensor, Tensor]:
    """The tiles of a call, of each batch element and head even where all have the same."""
    batch, n, heads, _ = query.shape
    blocks = -(-n // _block_size(config))
    if batch == 0:
        return query.new_empty((0, heads, blocks), dtype=torch.int32), query.new_empty((0,), dtype=torch.int32)
    found, _ = own_handle(config, torch.get_num_threads()).tiles(
        _view(query), _view(key), _address(key_lengths, query), False
    )
    of_batch, of_heads, _, _, tiles = found.shape
    counts = torch.empty((of_batch, of_heads, blocks), dtype=torch.int32)
    columns = torch.empty(tiles, dtype=torch.int32)
    found.write(counts.data_ptr(), columns.data_ptr())
    if (of_batch, of_heads) == (batch, heads):
        return counts, columns
    parts = columns.split(counts.sum(-1).flatten().tolist())
    alike = [parts[b % of_batch * of_heads + h % of_heads] for b in range(batch) for h in range(heads)]
    return counts.expand(batch, heads, blocks).contiguous(), torch.cat(alike)


def _check_tensors(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Refuses what cannot be described to the library, which checks the rest."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"{name}.dtype is {tensor.dtype}; allowed: float32, float64, bfloat16, float16")
        if tensor.dtype != query.dtype:
            raise TypeError(f"{name}.dtype is {tensor.dtype}; allowed: the query's, {query.dtype}")
        if tensor.device != query.device:
            raise ValueError(f"{name}.device is {tensor.device}; allowed: the query's, {query.device}")


torch.library.impl("dilated_attention::forward", "CPU", _forward, lib=_library)
torch.library.impl("dilated_attention::backward", "CPU", _backward, lib=_library)
torch.library.impl("dilated_attention::tiles", "CPU", _tiles, lib=_library)


# ---- CUDA tensors: composed of other libraries' kernels --------------------------------------------------------------


def _composed_forward(*inputs: Any) -> Any:
    from . import composition

    return composition.operator_forward(*inputs[:7])  # which refuses what takes tiles


def _composed_backward(*inputs: Any) -> Any:
    from . import composition

    return composition.operator_backward(*inputs[:12])


torch.library.impl("dilated_attention::forward", "CUDA", _composed_forward, lib=_library)
torch.library.impl("dilated_attention::backward", "CUDA", _composed_backward, lib=_library)


# ---- Shapes alone, for tracing -------------------------------------------------------------------------------------


def _fake_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_lengths: Any,
    seed: Any,
    config: str,
    dropout: float,
    tile_counts: Any = None,
    tile_columns: Any = None,
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape[:3], dtype=_lse_dtype(query.dtype))


def _fake_backward(
    grad_out: Tensor,
    grad_lse: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    key_lengths: Any,
    seed: Any,
    config: str,
    dropout: float,
    wanted: list[bool],
    tile_counts: Any = None,
    tile_columns: Any = None,
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_gradients((query, key, value), wanted)


def _fake_tiles(query: Tensor, key: Tensor, key_lengths: Any, config: str) -> tuple[Tensor, Tensor]:
    batch, n, heads, _ = query.shape
    size = _block_size(config)
    tiles = torch.library.get_ctx().new_dynamic_size()
    counts = query.new_empty((batch, heads, (n + size - 1) // size), dtype=torch.int32)
    return counts, query.new_empty((tiles,), dtype=torch.int32)


torch.library.register_fake("dilated_attention::forward", _fake_forward, lib=_library)
torch.library.register_fake("dilated_attention::backward", _fake_backward, lib=_library)
torch.library.register_fake("dilated_attention::tiles", _fake_tiles, lib=_library)


# ---- Gradients -----------------------------------------------------------------------------------------------------


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    query, key, value, key_lengths, seed, ctx.config, ctx.dropout, *tiles = inputs
    ctx.save_for_backward(query, key, value, *output, key_lengths, seed, *(tiles or (None, None)))
    ctx.extra_inputs = len(tiles)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_out: Optional[Tensor], grad_lse: Optional[Tensor]) -> tuple[Any, ...]:
    query, key, value, out, lse, key_lengths, seed, counts, columns = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:3])
    if grad_out is None:
        grad_out = torch.zeros_like(out)
    grads = _call_backward(
        grad_out,
        grad_lse,
        query,
        key,
        value,
        out,
        lse,
        key_lengths,
        seed,
        ctx.config,
        ctx.dropout,
        wanted,
        counts,
        columns,
    )
    return *(grad if want else None for grad, want in zip(grads, wanted)), *(None,) * (4 + ctx.extra_inputs)


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


def _refuse_second_derivative(ctx: Any, *grads: Any) -> tuple[Any, ...]:
    raise RuntimeError("dilated_attention has first derivatives only; its backward pass cannot be differentiated again")


torch.library.register_autograd("dilated_attention::forward", _differentiate, setup_context=_save, lib=_library)
torch.library.register_autograd(
    "dilated_attention::backward", _refuse_second_derivative, setup_context=_save_nothing, lib=_library
)


# ---- torch.func.vmap: what is mapped over joins the batch ----------------------------------------------------------


def _fold(tensor: Optional[Tensor], dim: Optional[int], size: int) -> Optional[Tensor]:
    """(size, batch, ...) from a tensor that is mapped over at `dim`, or the same for all, as (size * batch, ...)."""
    if tensor is None:
        return None
    mapped = tensor.unsqueeze(0).expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return mapped.flatten(0, 1)


def _unfold(tensor: Tensor, size: int) -> Any:
    return tensor.unflatten(0, (size, tensor.shape[0] // size))


def _vmap_forward(call: Any, info: Any, in_dims: tuple[Optional[int], ...], *args: Any) -> tuple[Any, Any]:
    query, key, value, key_lengths = (_fold(x, dim, info.batch_size) for x, dim in zip(args[:4], in_dims))
    seed, config, dropout, *tiles = args[4:]
    _refuse_seeds(in_dims[4])
    _refuse_tiles_of_batch(tiles)
    outputs = call(query, key, value, key_lengths, seed, config, dropout, *tiles)
    return tuple(_unfold(x, info.batch_size) for x in outputs), (0, 0)


def _vmap_backward(call: Any, info: Any, in_dims: tuple[Optional[int], ...], *args: Any) -> tuple[Any, Any]:
    tensors = [_fold(x, dim, info.batch_size) for x, dim in zip(args[:8], in_dims)]
    seed, config, dropout, wanted, *tiles = args[8:]
    _refuse_seeds(in_dims[8])
    _refuse_tiles_of_batch(tiles)
    grads = call(*tensors, seed, config, dropout, wanted, *tiles)
    unfolded = tuple(_unfold(x, info.batch_size) if want else x for x, want in zip(grads, wanted))
    return unfolded, tuple(0 if want else None for want in wanted)


def _refuse_seeds(dim: Optional[int]) -> None:
    if dim is not None:
        raise RuntimeError(
            "vmap's randomness is 'different' and dropout_p above 0; allowed: 'same', which drops other weights for "
            "each element all the same, since each has its own place in the batch"
        )


def _refuse_tiles_of_batch(tiles: list[Optional[Tensor]]) -> None:
    """What is mapped over joins the batch, to whose elements the mask would no longer belong."""
    if tiles and tiles[0] is not None and tiles[0].shape[0] != 1:
        raise RuntimeError(
            f"tile_mask is of {tiles[0].shape[0]} batch elements, under vmap; allowed: a mask that is the same for all"
        )


torch.library.register_vmap(
    "dilated_attention::forward", partial(_vmap_forward, torch.ops.dilated_attention.forward.default), lib=_library
)
torch.library.register_vmap(
    "dilated_attention::backward", partial(_vmap_backward, torch.ops.dilated_attention.backward.default), lib=_library
)


# ---- Calls without the dispatcher ----------------------------------------------------------------------------------
#
# The dispatcher takes 30 us to call Python back, 60 with gradients, in which a short sequence is computed. So plain
# tensors in plain surroundings go straight to the library. Everything else takes the operators.


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_lengths: Optional[Tensor],
        seed: Optional[Tensor],
        config: str,
        dropout: float,
        tile_counts: Optional[Tensor],
        tile_columns: Optional[Tensor],
    ) -> Any:
        out, lse = _forward(query, key, value, key_lengths, seed, config, dropout, tile_counts, tile_columns)
        ctx.config, ctx.dropout, ctx.extra_inputs = config, dropout, 2
        ctx.save_for_backward(query, key, value, out, lse, key_lengths, seed, tile_counts, tile_columns)
        ctx.set_materialize_grads(False)
        return out, lse

    backward = staticmethod(_differentiate)


# Without Function.apply's own preparations, which are for torch.func and take 2 us.
_apply_attention = super(torch.autograd.Function, _Attention).apply


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        return _backward(*inputs)

    backward = staticmethod(_refuse_second_derivative)


# torch.func's transforms know no operators whose autograd is registered from Python, but functions of this form. They
# are slow to call.


class _TransformedAttention(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> Any:
        return torch.ops.dilated_attention.forward.default(*inputs)

    setup_context = staticmethod(_save)
    backward = staticmethod(_differentiate)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Optional[int], ...], *args: Any) -> Any:
        return _vmap_forward(_call_forward, info, in_dims, *args)


class _TransformedGradient(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> Any:
        return torch.ops.dilated_attention.backward.default(*inputs)

    setup_context = staticmethod(_save_nothing)
    backward = staticmethod(_refuse_second_derivative)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Optional[int], ...], *args: Any) -> Any:
        return _vmap_backward(_call_backward, info, in_dims, *args)


_transforms_active = torch._C._are_functorch_transforms_active
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_tracing_state = torch._C._get_tracing_state
_PLAIN = frozenset((Tensor, torch.nn.Parameter))


def _surroundings_are_plain() -> bool:
    """Nobody watches the calls: no mode, profiler, tracer or forward differentiation."""
    return not (
        _dispatch_modes()
        or _function_modes()
        or profiler._is_profiler_enabled
        or _tracing_state() is not None
        or forward_ad._current_level >= 0
    )


def _is_plain(tensor: Tensor) -> bool:
    """A tensor whose elements lie in this machine's memory as its strides say."""
    return type(tensor) in _PLAIN and tensor.is_cpu and tensor.layout is torch.strided and not tensor.is_neg()


def _refuse_tangents(*tensors: Tensor) -> None:
    """The operators would lose them without a word."""
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise RuntimeError("dilated_attention is differentiated in reverse only (backward), not forward (jvp)")


def _call_forward(*inputs: Any) -> Any:
    query, key, value = inputs[:3]
    if torch.compiler.is_compiling():
        _check_tensors(query, key, value)
        return torch.ops.dilated_attention.forward.default(*inputs)
    if _transforms_active():
        return _TransformedAttention.apply(*inputs)  # type: ignore[no-untyped-call]
    if not (_surroundings_are_plain() and _is_plain(query) and _is_plain(key) and _is_plain(value)):
        _check_tensors(query, key, value)
        _refuse_tangents(query, key, value)
        return torch.ops.dilated_attention.forward.default(*inputs)
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
        return _apply_attention(*inputs)  # type: ignore[no-untyped-call]
    return _forward(*inputs)


def _call_backward(grad_out: Tensor, grad_lse: Optional[Tensor], *inputs: Any) -> Any:
    if torch.compiler.is_compiling():
        return torch.ops.dilated_attention.backward.default(grad_out, grad_lse, *inputs)
    if _transforms_active():
        return _TransformedGradient.apply(grad_out, grad_lse, *inputs)  # type: ignore[no-untyped-call]
    tensors = (grad_out, *inputs[:5]) if grad_lse is None else (grad_out, grad_lse, *inputs[:5])
    if not (_surroundings_are_plain() and all(map(_is_plain, tensors))):
        return torch.ops.dilated_attention.backward.default(grad_out, grad_lse, *inputs)
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return _Gradient.apply(grad_out, grad_lse, *inputs)  # type: ignore[no-untyped-call]
    return _backward(grad_out, grad_lse, *inputs)


# ---- The function --------------------------------------------------------------------------------------------------


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _config_when_traced(segment_lengths: Any, dilation_rates: Any, *options: Any) -> str:
    return _config_of(segment_lengths, dilation_rates, options)


def _config_of(segment_lengths: Any, dilation_rates: Any, options: tuple[Any, ...]) -> str:
    *others, implementation, process_group = options
    group = name_for(process_group, implementation)
    return encode(options_of(segment_lengths, dilation_rates, *others, implementation, group))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segment_lengths: Any,
    dilation_rates: Any,
    options: tuple[Any, ...],
    key_lengths: Any,
    dropout: float,
    tile_mask: Optional[TileMask] = None,
) -> tuple[Tensor, Tensor]:
    """`dilated_attention` for PyTorch tensors: out and lse."""
    if torch.compiler.is_compiling():
        config = _config_when_traced(segment_lengths, dilation_rates, *options)
        return _attend(query, key, value, config, key_lengths, dropout, tile_mask)
    config = _config_of(segment_lengths, dilation_rates, options)
    try:
        return _attend(query, key, value, config, key_lengths, dropout, tile_mask)
    except Exception as error:
        group = decode(config).process_group
        if group:
            refuse(group, error)  # tensors may be wrong on this rank alone
        raise


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    config: str,
    key_lengths: Any,
    dropout: float,
    tile_mask: Optional[TileMask],
) -> tuple[Tensor, Tensor]:
    for name, tensor in (("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is a {type(tensor).__name__}; allowed: a PyTorch tensor, as the query")
    device = query.device.type
    if (device == "cpu" or device == "cuda") and torch.is_autocast_enabled(device):
        query, key, value = _autocast(query, key, value)
    lengths = None if key_lengths is None else _key_lengths(key_lengths, query)
    seed = torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device="cpu") if dropout > 0 else None
    counts = columns = None
    if tile_mask is not None:
        counts, columns = tile_mask.as_tensors()
    elif torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
        counts, columns = _tiles_for_gradients(query, key, lengths, config)
    out, lse = _call_forward(query, key, value, lengths, seed, config, dropout, counts, columns)
    return out, lse


@lru_cache(maxsize=256)
def _chooses_by_content(config: str) -> bool:
    """Whether a call chooses tiles by what its tensors hold, so that the backward pass would choose them again."""
    options = decode(config)
    if options.process_group or options.implementation not in ("auto", "block_sparse"):
        return False
    if options.sparse_pattern != "content" and options.quality_target == 1 and options.sparse_profile is None:
        return False
    return own_handle(config, torch.get_num_threads()).implementation == "block_sparse"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _chooses_when_traced(config: str) -> bool:
    return _chooses_by_content(config)


def _tiles_for_gradients(
    query: Tensor, key: Tensor, key_lengths: Optional[Tensor], config: str
) -> tuple[Optional[Tensor], Optional[Tensor]]:
    """The tiles of this call, to be kept for its backward pass, where choosing them takes time. Under vmap each pass
    chooses them, alike, since the transforms know nothing of sizes that depend on data."""
    if torch.compiler.is_compiling():
        chooses = _chooses_when_traced(config)
    else:
        chooses = not _transforms_active() and query.is_cpu and _chooses_by_content(config)
    if not chooses:
        return None, None
    with torch.no_grad():
        if not torch.compiler.is_compiling() and _surroundings_are_plain() and _is_plain(query) and _is_plain(key):
            return _tiles(query, key, key_lengths, config)
        counts, columns = torch.ops.dilated_attention.tiles.default(query.detach(), key.detach(), key_lengths, config)
        return counts, columns


def views_for_tiles(
    query: Tensor, key: Tensor, key_lengths: Any
) -> tuple[tuple[_core.View, _core.View], int, Optional[Tensor]]:
    """functional._views_for_tiles for tensors."""
    if not isinstance(key, Tensor):
        raise TypeError(f"key is a {type(key).__name__}; allowed: a PyTorch tensor, as the query")
    _check_tensors(query, key, key)
    if not query.is_cpu:
        raise ValueError(f"query.device is {query.device}; allowed: the CPU")
    lengths = None if key_lengths is None else _key_lengths(key_lengths, query)
    return (_view(query), _view(key)), torch.get_num_threads(), lengths


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """As PyTorch's own attention under autocast: f32, bf16 and f16 become autocast's data type, f64 stays."""
    dtype = torch.get_autocast_dtype(tensors[0].device.type)
    return tuple(x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x for x in tensors)


def _key_lengths(key_lengths: Any, query: Tensor) -> Tensor:
    lengths = torch.as_tensor(key_lengths, device=query.device)
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise TypeError(f"key_lengths has the data type {lengths.dtype}; allowed: integers")
    if lengths.shape != query.shape[:1]:
        raise ValueError(
            f"key_lengths.shape is {tuple(lengths.shape)}; allowed: (batch,), which is ({query.shape[0]},)"
        )
    return lengths.to(torch.int64).contiguous()
