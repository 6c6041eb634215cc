"""The attention and its backward pass as PyTorch operators, `torch.ops.dilated_attention.forward` and `.backward`.

Options travel as one line of text (`_config.encode`), the seed of dropout as a tensor, so that both can stand in a traced
graph and the seed be drawn anew each time it runs.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from . import _core
from ._config import Options, boolean, decode, encode, handle, probability
from .functional import options_of

# The library's number of each data type (da_dtype).
_DTYPES = {torch.float32: 1, torch.float64: 2, torch.bfloat16: 3, torch.float16: 4}

_library = torch.library.Library("dilated_attention", "DEF")
_library.define(
    "forward(Tensor query, Tensor key, Tensor value, Tensor? key_lengths, Tensor? seed, str config, float dropout)"
    " -> (Tensor out, Tensor lse)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "backward(Tensor grad_out, Tensor? grad_lse, Tensor query, Tensor key, Tensor value, Tensor out, Tensor lse,"
    " Tensor? key_lengths, Tensor? seed, str config, float dropout, bool[3] wanted) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


# ---- The C library's calls --------------------------------------------------------------------------------------------


def _view(tensor: Tensor) -> _core.View:
    return tensor.data_ptr(), _DTYPES[tensor.dtype], tensor.shape, tensor.stride()


def _lse_dtype(query: Tensor) -> torch.dtype:
    return torch.float64 if query.dtype == torch.float64 else torch.float32


def _address(key_lengths: Optional[Tensor]) -> Optional[int]:
    return None if key_lengths is None else key_lengths.data_ptr()


def _number(seed: Optional[Tensor]) -> Optional[int]:
    return None if seed is None else int(seed)


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_lengths: Optional[Tensor],
    seed: Optional[Tensor],
    config: str,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    _check_tensors(query, key, value, key_lengths)
    out = torch.empty(query.shape, dtype=query.dtype)
    lse = torch.empty(query.shape[:3], dtype=_lse_dtype(query))
    if query.shape[0] > 0:
        handle(decode(config), dropout, torch.get_num_threads()).forward(
            _view(query), _view(key), _view(value), _view(out), _view(lse), _address(key_lengths), _number(seed)
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
) -> tuple[Tensor, Tensor, Tensor]:
    grads = _empty_gradients((query, key, value), wanted)
    if query.shape[0] > 0:
        views = [_view(grad) if want else None for grad, want in zip(grads, wanted)]
        handle(decode(config), dropout, torch.get_num_threads()).backward(
            _view(query),
            _view(key),
            _view(value),
            _view(out),
            _view(lse),
            _view(grad_out),
            None if grad_lse is None else _view(grad_lse),
            *views,
            _address(key_lengths),
            _number(seed),
        )
    return grads


def _empty_gradients(tensors: tuple[Tensor, Tensor, Tensor], wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """Dense tensors for the gradients that are wanted, and empty ones in place of the others."""
    query, key, value = (x.new_empty(x.shape if want else (0,)) for x, want in zip(tensors, wanted))
    return query, key, value


def _check_tensors(query: Tensor, key: Tensor, value: Tensor, key_lengths: Optional[Tensor]) -> None:
    """What has to be right before memory is described to the library, which checks the rest."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"{name}.dtype is {tensor.dtype}; allowed: float32, float64, bfloat16, float16")
        if tensor.dim() != 4:
            raise ValueError(f"{name}.shape is {tuple(tensor.shape)}; allowed: (batch, n, heads, head_dim)")
        if tensor.device.type != "cpu":
            raise ValueError(f"{name}.device is {tensor.device}; allowed: the query's, {query.device}")
    if key_lengths is not None and (
        key_lengths.dtype != torch.int64 or key_lengths.shape != query.shape[:1] or not key_lengths.is_contiguous()
    ):
        raise ValueError(
            f"key_lengths is of {key_lengths.dtype} and shape {tuple(key_lengths.shape)}; "
            f"allowed: int64 and (batch,), which is ({query.shape[0]},), dense"
        )


torch.library.impl("dilated_attention::forward", "CPU", _forward, lib=_library)
torch.library.impl("dilated_attention::backward", "CPU", _backward, lib=_library)


# ---- CUDA tensors: composed of other libraries' kernels ------------------------------------------------------------------


def _forward_cuda(*args: Any) -> tuple[Tensor, Tensor]:
    from . import composition

    return composition.operator_forward(*args)


def _backward_cuda(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    from . import composition

    return composition.operator_backward(*args)


torch.library.impl("dilated_attention::forward", "CUDA", _forward_cuda, lib=_library)
torch.library.impl("dilated_attention::backward", "CUDA", _backward_cuda, lib=_library)


# ---- Shapes alone, for tracing ----------------------------------------------------------------------------------------


def _fake_forward(
    query: Tensor, key: Tensor, value: Tensor, key_lengths: Any, seed: Any, config: str, dropout: float
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape[:3], dtype=_lse_dtype(query))


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
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_gradients((query, key, value), wanted)


torch.library.register_fake("dilated_attention::forward", _fake_forward, lib=_library)
torch.library.register_fake("dilated_attention::backward", _fake_backward, lib=_library)


# ---- Gradients ----------------------------------------------------------------------------------------------------------


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, key_lengths, seed, ctx.config, ctx.dropout = inputs
    ctx.save_for_backward(query, key, value, *output, key_lengths, seed)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_out: Optional[Tensor], grad_lse: Optional[Tensor]) -> tuple[Any, ...]:
    query, key, value, out, lse, key_lengths, seed = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:3])
    if grad_out is None:
        grad_out = torch.zeros_like(out)
    grads = torch.ops.dilated_attention.backward(
        grad_out, grad_lse, query, key, value, out, lse, key_lengths, seed, ctx.config, ctx.dropout, wanted
    )
    return *(grad if want else None for grad, want in zip(grads, wanted)), None, None, None, None


def _refuse(ctx: Any, *grads: Any) -> tuple[Any, ...]:
    raise RuntimeError("dilated_attention has first derivatives only; its backward pass cannot be differentiated again")


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


torch.library.register_autograd("dilated_attention::forward", _differentiate, setup_context=_save, lib=_library)
torch.library.register_autograd("dilated_attention::backward", _refuse, setup_context=_save_nothing, lib=_library)


# ---- torch.func.vmap: what is mapped over joins the batch ------------------------------------------------------------------


def _fold(tensor: Optional[Tensor], dim: Optional[int], size: int) -> Optional[Tensor]:
    """(size, batch, ...) from a tensor that is mapped over at `dim`, or the same for all, as (size * batch, ...)."""
    if tensor is None:
        return None
    mapped = tensor.unsqueeze(0).expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return mapped.flatten(0, 1)


def _unfold(tensor: Tensor, size: int) -> Tensor:
    return tensor.unflatten(0, (size, tensor.shape[0] // size))


def _vmap_forward(info: Any, in_dims: tuple[Optional[int], ...], *args: Any) -> tuple[Any, Any]:
    query, key, value, key_lengths = (_fold(x, dim, info.batch_size) for x, dim in zip(args[:4], in_dims))
    seed, config, dropout = args[4:]
    _refuse_seeds(in_dims[4])
    outputs = torch.ops.dilated_attention.forward(query, key, value, key_lengths, seed, config, dropout)
    return tuple(_unfold(x, info.batch_size) for x in outputs), (0, 0)


def _vmap_backward(info: Any, in_dims: tuple[Optional[int], ...], *args: Any) -> tuple[Any, Any]:
    tensors = [_fold(x, dim, info.batch_size) for x, dim in zip(args[:8], in_dims)]
    seed, config, dropout, wanted = args[8:]
    _refuse_seeds(in_dims[8])
    grads = torch.ops.dilated_attention.backward(*tensors, seed, config, dropout, wanted)
    unfolded = tuple(_unfold(x, info.batch_size) if want else x for x, want in zip(grads, wanted))
    return unfolded, tuple(0 if want else None for want in wanted)


def _refuse_seeds(dim: Optional[int]) -> None:
    if dim is not None:
        raise RuntimeError(
            "vmap's randomness is 'different' and dropout_p above 0; allowed: 'same', which drops other weights for "
            "each element all the same, since each has its own place in the batch"
        )


torch.library.register_vmap("dilated_attention::forward", _vmap_forward, lib=_library)
torch.library.register_vmap("dilated_attention::backward", _vmap_backward, lib=_library)


# ---- The function ---------------------------------------------------------------------------------------------------------


@torch.compiler.assume_constant_result
def _config_when_traced(segment_lengths: Any, dilation_rates: Any, *options: Any) -> str:
    return encode(options_of(segment_lengths, dilation_rates, *options))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segment_lengths: Any,
    dilation_rates: Any,
    options: tuple[Any, ...],
    key_lengths: Any,
    dropout_p: float,
    return_lse: bool,
) -> Any:
    """`dilated_attention` for PyTorch tensors."""
    for name, tensor in (("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is a {type(tensor).__name__}; allowed: a PyTorch tensor, as the query")
    if torch.compiler.is_compiling():
        config = _config_when_traced(segment_lengths, dilation_rates, *options)
    else:
        config = _text(options_of(segment_lengths, dilation_rates, *options))
    query, key, value = _autocast(query, key, value)
    lengths = _key_lengths(key_lengths, query)
    dropout = probability("dropout_p", dropout_p)
    seed = torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64) if dropout > 0 else None
    out, lse = torch.ops.dilated_attention.forward(query, key, value, lengths, seed, config, dropout)
    return (out, lse) if boolean("return_lse", return_lse) else out


_texts: dict[Options, str] = {}


def _text(options: Options) -> str:
    text = _texts.get(options)
    if text is None:
        text = _texts[options] = encode(options)
    return text


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """As PyTorch's own attention under autocast: f32, bf16 and f16 become autocast's data type, f64 stays."""
    device = tensors[0].device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x for x in tensors)


def _key_lengths(key_lengths: Any, query: Tensor) -> Optional[Tensor]:
    if key_lengths is None:
        return None
    lengths = torch.as_tensor(key_lengths, device=query.device)
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise TypeError(f"key_lengths has the data type {lengths.dtype}; allowed: integers")
    if lengths.shape != query.shape[:1]:
        raise ValueError(
            f"key_lengths.shape is {tuple(lengths.shape)}; allowed: (batch,), which is ({query.shape[0]},)"
        )
    return lengths.to(torch.int64).contiguous()
