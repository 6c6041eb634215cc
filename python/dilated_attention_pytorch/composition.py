"""Dilated attention composed of dense attention kernels, on any device: what CUDA tensors take.

Per pattern: the kept tokens of the segments are gathered, a kernel attends within each, and the outputs are mixed by
their logsumexps, which is one softmax over all patterns (LongNet, arXiv:2307.02486, eq. 9-10):

    lse_i = log sum_p exp(lse_pi)        out_i = sum_p exp(lse_pi - lse_i) out_pi

The backward pass calls each kernel's own backward pass with the mixed out and lse, so that its weights are those of the
one softmax: the gradient is exact, through the mixing too, and nothing but out and lse is kept. Zero keys (tail_rule
"zero_pad") add their number to the sum, and no kernel sees them. What a kernel has no option for (overlap "once",
dropout, a window) goes to one that takes masks, in parts of at most MASK_ELEMENTS scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

import torch
from torch import Tensor

from . import backends
from ._config import Options, decode, normal_options, probability
from ._visibility import HeadsOfPattern, Piece, groups, patterns, pieces
from .backends import Call, Kernel, Need

MASK_ELEMENTS = 1 << 26  # scores of one call with a mask: 256 MiB in f32


def masks_overlap(options: Options) -> bool:
    """Whether keys that an earlier pattern holds have to be hidden from a later one."""
    return options.overlap == "once" and options.mixing == "longnet" and len(options.segment_lengths) > 1


@dataclass(frozen=True)
class Composition:
    """One attention, planned: what forward and backward share."""

    options: Options
    scale: float
    heads: int
    kernel: Kernel
    pieces: tuple[Piece, ...]
    dropout_p: float = 0.0
    dropout_seed: int = 0

    def dense(self, piece: Piece) -> bool:
        """Whether this piece needs a matrix of its own over queries and keys."""
        return (
            masks_overlap(self.options)
            or self.dropout_p > 0
            or self.kernel.keeps_scores
            or (piece.window is not None and not self.kernel.window)
        )


@dataclass(frozen=True)
class Part:
    """A piece or a part of one, as index tensors: token positions[s, a, h] of batch row rows[s] and head heads[h]."""

    piece: Piece
    rows: Tensor  # (segments, 1, 1)
    heads: Tensor  # (heads)
    queries: Tensor  # positions (segments, queries, heads)
    keys: Tensor  # positions (segments, keys, heads)
    query_from: int


def _part(piece: Piece, device: torch.device, segments: slice, heads: slice, query_from: int, query_to: int) -> Part:
    r = piece.pattern.dilation_rate
    starts = torch.tensor(piece.starts[segments], device=device)[:, None, None]
    offsets = torch.tensor(piece.offsets[heads], device=device)
    first = starts + offsets
    return Part(
        piece,
        torch.tensor(piece.rows[segments], device=device)[:, None, None],
        torch.tensor(piece.heads[heads], device=device),
        first + r * torch.arange(query_from, query_to, device=device)[:, None],
        first + r * torch.arange(piece.keys, device=device)[:, None],
        query_from,
    )


def _steps(length: int, step: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, step):
        yield start, min(start + step, length)


def _parts(piece: Piece, device: torch.device, dense: bool) -> Iterator[Part]:
    """The whole piece, or where a mask is needed, parts of a bounded number of scores."""
    segments, heads, queries = len(piece.starts), len(piece.heads), piece.query_to - piece.query_from
    if not dense:
        yield _part(piece, device, slice(None), slice(None), piece.query_from, piece.query_to)
        return
    rows_at_once = max(1, min(queries, MASK_ELEMENTS // piece.keys))
    heads_at_once = max(1, min(heads, MASK_ELEMENTS // (piece.keys * rows_at_once)))
    segments_at_once = max(1, MASK_ELEMENTS // (piece.keys * rows_at_once * heads_at_once))
    for s in _steps(segments, segments_at_once):
        for h in _steps(heads, heads_at_once):
            for q in _steps(queries, rows_at_once):
                yield _part(piece, device, slice(*s), slice(*h), piece.query_from + q[0], piece.query_from + q[1])


# ---- masks -----------------------------------------------------------------------------------------------------------


def _also_seen(part: Part, earlier: HeadsOfPattern) -> Tensor:
    """(segments, heads, queries, keys): whether an earlier pattern holds the pair as well."""
    w, r = earlier.segment_length, earlier.dilation_rate
    offset_of = dict(zip(earlier.heads, earlier.offsets))
    offsets = torch.tensor([offset_of[int(h)] for h in part.heads.tolist()], device=part.heads.device)

    def segment(positions: Tensor, unkept: int) -> Tensor:
        return torch.where(positions % w % r == offsets, positions // w, unkept).transpose(1, 2)

    return segment(part.queries, -1)[..., :, None] == segment(part.keys, -2)[..., None, :]


def _mask(composition: Composition, part: Part, dtype: torch.dtype) -> Tensor:
    """0 for what this call computes, -infinity for the rest."""
    shape = (part.queries.shape[0], part.queries.shape[2], part.queries.shape[1], part.keys.shape[1])
    hidden = torch.zeros(shape, dtype=torch.bool, device=part.queries.device)
    query = torch.arange(part.query_from, part.query_from + shape[2], device=hidden.device)[:, None]
    behind = query - torch.arange(shape[3], device=hidden.device)
    if part.piece.causal:
        hidden |= behind < 0
    if part.piece.window is not None:
        hidden |= behind > part.piece.window
    if masks_overlap(composition.options):
        for earlier in patterns(composition.options, composition.heads):
            if earlier.place < part.piece.pattern.place:
                hidden |= _also_seen(part, earlier)
    return torch.zeros(shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -math.inf)


# ---- dropout: the C library's definition (da_dropout_keeps) ----------------------------------------------------------

_LOW = 0xFFFFFFFF


def _product(left: Tensor, right: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of the product of 32-bit numbers, in signed 64-bit integers."""
    low, high = left & 0xFFFF, left >> 16
    below = low * right
    above = high * right + (below >> 16)
    return above >> 16, ((above & 0xFFFF) << 16) | (below & 0xFFFF)


def _philox_2x32(left: Tensor, right: Tensor, key: Tensor) -> Tensor:
    """First word of philox_2x32-10 (Salmon et al., SC'11)."""
    for _ in range(10):
        high, low = _product(left, 0xD256D193)
        left, right = high ^ key ^ right, low
        key = (key + 0x9E3779B9) & _LOW
    return left


def _philox_4x32(first: Tensor, second: Tensor, seed: int) -> Tensor:
    """First word of philox_4x32-10 on {first, second, 0, 0}."""
    c0, c1, c2, c3 = first, second, torch.zeros_like(first), torch.zeros_like(first)
    k0, k1 = seed & _LOW, (seed >> 32) & _LOW
    for _ in range(10):
        high0, low0 = _product(c0, 0xD2511F53)
        high2, low2 = _product(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high2 ^ c1 ^ k0, low2, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return c0


def _dropout_factor(composition: Composition, part: Part, dtype: torch.dtype) -> Tensor:
    """(segments, heads, queries, keys): 0, or 1 / (1 - dropout_p)."""
    rows = part.rows[:, :, 0]
    heads = part.heads + torch.zeros_like(rows)
    key = _philox_4x32(heads, rows + torch.zeros_like(heads), composition.dropout_seed)[:, :, None, None]
    words = _philox_2x32(part.queries.transpose(1, 2)[..., None], part.keys.transpose(1, 2)[..., None, :], key)
    kept = words >= int(composition.dropout_p * 2.0**32)
    return kept.to(dtype) / (1 - composition.dropout_p)


# ---- passes ----------------------------------------------------------------------------------------------------------


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _call(composition: Composition, part: Part, dtype: torch.dtype) -> Call:
    piece = part.piece
    if not composition.dense(piece):
        return Call(composition.scale, piece.causal, piece.window, piece.query_from)
    factor = _dropout_factor(composition, part, _accumulator(dtype)) if composition.dropout_p > 0 else None
    return Call(composition.scale, mask=_mask(composition, part, dtype), factor=factor)


def _gather(x: Tensor, part: Part, positions: Tensor, heads: Tensor) -> Tensor:
    return x[part.rows, positions, heads]


class _Mixture:
    """The running softmax over patterns."""

    def __init__(self, query: Tensor) -> None:
        dtype = _accumulator(query.dtype)
        self.out = query.new_zeros(query.shape, dtype=dtype)
        self.lse = query.new_full(query.shape[:3], -math.inf, dtype=dtype)

    def add(self, part: Part, out: Optional[Tensor], lse: Tensor) -> None:
        """Adds a pattern's output and logsumexp; out None: 0."""
        place = (part.rows, part.queries, part.heads)
        before = self.lse[place]
        total = torch.logaddexp(before, lse.to(before.dtype))
        reference = torch.where(total.isneginf(), 0, total)
        mixed = self.out[place] * (before - reference).exp()[..., None]
        if out is not None:
            mixed += out.to(mixed.dtype) * (lse - reference).exp()[..., None]
        self.out[place] = mixed
        self.lse[place] = total


def composed_forward(composition: Composition, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """(out, lse); lse (batch, n, heads) in f32, or f64 for f64 tensors."""
    mixture = _Mixture(query)
    repeat = query.shape[2] // key.shape[2]
    for piece in composition.pieces:
        for part in _parts(piece, query.device, bool(piece.keys) and composition.dense(piece)):
            if piece.zeros:
                mixture.add(part, None, mixture.lse.new_full((), math.log(piece.zeros)))
                continue
            call = _call(composition, part, query.dtype)
            kv_heads = part.heads // repeat
            out, lse = composition.kernel.forward(
                _gather(query, part, part.queries, part.heads),
                _gather(key, part, part.keys, kv_heads),
                _gather(value, part, part.keys, kv_heads),
                call,
            )
            if call.mask is not None:  # kernels disagree on what a row without keys gives
                empty = call.mask.isneginf().all(-1).transpose(1, 2)
                out, lse = out.masked_fill(empty[..., None], 0), lse.masked_fill(empty, -math.inf)
            mixture.add(part, out, lse)
    return (mixture.out / groups(composition.options)).to(query.dtype), mixture.lse


def composed_backward(
    composition: Composition,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Optional[Tensor] = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value."""
    dtype, divisor = _accumulator(query.dtype), groups(composition.options)
    repeat = query.shape[2] // key.shape[2]
    undivided, grad_undivided = out * divisor, grad_out / divisor
    grads = [query.new_zeros(query.shape, dtype=dtype) for _ in range(3)]  # key's and value's for each query head
    for piece in composition.pieces:
        if piece.zeros:
            continue
        for part in _parts(piece, query.device, composition.dense(piece)):
            call = _call(composition, part, query.dtype)
            kv_heads = part.heads // repeat
            tensors = (
                _gather(query, part, part.queries, part.heads),
                _gather(key, part, part.keys, kv_heads),
                _gather(value, part, part.keys, kv_heads),
            )
            row_lse = _gather(lse, part, part.queries, part.heads)
            shares = [
                composition.kernel.backward(
                    _gather(grad_undivided, part, part.queries, part.heads),
                    *tensors,
                    _gather(undivided, part, part.queries, part.heads),
                    row_lse,
                    call,
                )
            ]
            if grad_lse is not None:
                shares.append(
                    _through_lse(
                        composition.kernel, tensors, row_lse, _gather(grad_lse, part, part.queries, part.heads), call
                    )
                )
            for share in shares:
                for grad, more, positions in zip(grads, share, (part.queries, part.keys, part.keys)):
                    place = (part.rows, positions, part.heads)
                    grad[place] = grad[place] + more.to(dtype)
    if repeat > 1:
        grads[1:] = [grad.view(*key.shape[:3], repeat, -1).sum(3) for grad in grads[1:]]
    return grads[0].to(query.dtype), grads[1].to(key.dtype), grads[2].to(value.dtype)


def _through_lse(
    kernel: Kernel, tensors: tuple[Tensor, Tensor, Tensor], lse: Tensor, grad_lse: Tensor, call: Call
) -> tuple[Tensor, Tensor, Tensor]:
    """What the gradient of lse adds, p_ij grad_lse_i to the scores' gradient: kernels compute p_ij (<grad_out_i, v_j> -
    <grad_out_i, out_i>), so with values 0 and grad_out the first unit vector, out's first component is -grad_lse_i."""
    query, key, value = tensors
    grad_out, out = torch.zeros_like(query), torch.zeros_like(query)
    grad_out[..., 0] = 1
    out[..., 0] = -grad_lse.to(out.dtype)
    grad_query, grad_key, _ = kernel.backward(
        grad_out,
        query,
        key,
        torch.zeros_like(value),
        out,
        lse,
        Call(call.scale, call.causal, call.window, call.shift, call.mask),
    )
    return grad_query, grad_key, torch.zeros_like(value)


class _ComposedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, composition: Composition) -> tuple[Tensor, Tensor]:
        out, lse = composed_forward(composition, query, key, value)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.composition = composition
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, grad_out: Optional[Tensor], grad_lse: Optional[Tensor]) -> tuple[Optional[Tensor], ...]:
        query, key, value, out, lse = ctx.saved_tensors
        if grad_out is None and grad_lse is None:
            return None, None, None, None
        with torch.no_grad():
            grads = composed_backward(
                ctx.composition,
                query,
                key,
                value,
                out,
                lse,
                torch.zeros_like(out) if grad_out is None else grad_out,
                grad_lse,
            )
        return (*_NoSecondDerivative.apply(query, key, value, *grads), None)  # type: ignore[no-untyped-call]


class _NoSecondDerivative(torch.autograd.Function):
    """Passes gradients on, and says that they cannot be differentiated when that is tried."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(grad.view_as(grad) for grad in grads)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError("dilated attention has no second derivative: its gradients cannot be differentiated")


# ---- the interface ---------------------------------------------------------------------------------------------------


def _check_tensors(query: Tensor, key: Tensor, value: Tensor) -> None:
    if query.dim() != 4 or 0 in query.shape:
        raise ValueError(f"query has shape {tuple(query.shape)}; allowed: (batch, n, heads, head_dim), none of them 0")
    batch, n, heads, head_dim = query.shape
    for name, x in (("key", key), ("value", value)):
        if x.dim() != 4 or x.shape[2] < 1 or heads % x.shape[2] or x.shape != (batch, n, key.shape[2], head_dim):
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}; allowed: ({batch}, {n}, kv_heads, {head_dim}) with "
                f"kv_heads a divisor of {heads}, the same for key and value"
            )
        if x.dtype != query.dtype or x.device != query.device:
            raise ValueError(f"{name} is {x.dtype} on {x.device}; allowed: {query.dtype} on {query.device}, as query")


def checked_lengths(key_lengths: Optional[Union[Sequence[int], Any]], batch: int, n: int) -> list[int]:
    """One length for each row of the batch. ValueError if they do not fit."""
    if key_lengths is None:
        return [n] * batch
    lengths = [int(x) for x in (key_lengths.tolist() if hasattr(key_lengths, "tolist") else key_lengths)]
    if len(lengths) != batch or not all(0 <= x <= n for x in lengths):
        raise ValueError(f"key_lengths is {lengths}; allowed: {batch} values from 0 to {n}")
    return lengths


def plan(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    options: Options,
    *,
    key_lengths: Optional[Union[Sequence[int], Any]] = None,
    dropout_p: float = 0.0,
    dropout_seed: int = 0,
    kernels: Optional[Sequence[Union[str, Kernel]]] = None,
) -> Composition:
    """Checks the tensors, chooses a kernel and cuts the work. Raises ValueError."""
    _check_tensors(query, key, value)
    if options.implementation not in ("auto", "improved", "standard", "ring"):
        raise ValueError(
            f"implementation is {options.implementation!r}; allowed for tensors on {query.device.type}: "
            "'auto', 'improved', 'standard', 'ring'"
        )
    batch, n, heads, head_dim = query.shape
    lengths = checked_lengths(key_lengths, batch, n)
    need = Need.of(query, window=options.window is not None, dropout=dropout_p > 0, mask=masks_overlap(options))
    offered = None if kernels is None else tuple(backends.by_name([k])[0] if isinstance(k, str) else k for k in kernels)
    scale = 1 / math.sqrt(head_dim) if options.softmax_scale is None else options.softmax_scale
    return Composition(
        options,
        scale,
        heads,
        backends.choose(need, offered),
        pieces(options, heads, n, tuple(lengths)),
        dropout_p,
        dropout_seed,
    )


def composed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segment_lengths: Sequence[int],
    dilation_rates: Sequence[int],
    *,
    key_lengths: Optional[Union[Sequence[int], Tensor]] = None,
    dropout_p: float = 0.0,
    return_lse: bool = False,
    dropout_seed: Optional[int] = None,
    kernels: Optional[Sequence[Union[str, Kernel]]] = None,
    **options: Any,
) -> Union[Tensor, tuple[Tensor, Tensor]]:
    """`dilated_attention`, composed of attention kernels of the tensors' device; its arguments, and:

    dropout_seed: None draws one from torch's default generator. kernels: names or objects of `backends`, in the order
    of preference; None: all. `implementation` names implementations of the C library; here it must be "auto",
    "improved", "standard" or "ring", which are computed alike. Raises ValueError; where no kernel can do what is asked, with
    the reason of each.
    """
    normal = normal_options(segment_lengths, dilation_rates, **options)
    dropout = probability("dropout_p", dropout_p)
    if dropout_seed is None:
        dropout_seed = int(torch.randint(2**63 - 1, ())) if dropout > 0 else 0
    composition = plan(
        query,
        key,
        value,
        normal,
        key_lengths=key_lengths,
        dropout_p=dropout,
        dropout_seed=dropout_seed,
        kernels=kernels,
    )
    out, lse = _ComposedAttention.apply(query, key, value, composition)  # type: ignore[no-untyped-call]
    return (out, lse) if return_lse else out


# ---- the package's operators on CUDA tensors -------------------------------------------------------------------------


def _of_operator(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_lengths: Optional[Tensor],
    seed: Optional[Tensor],
    config: str,
    dropout: float,
) -> Composition:
    if seed is None:
        return plan(query, key, value, decode(config), key_lengths=key_lengths)
    return plan(query, key, value, decode(config), key_lengths=key_lengths, dropout_p=dropout, dropout_seed=int(seed))


def _refuse_ranks(config: str) -> None:
    """Ranks compute on CPUs: kernels of other libraries know nothing of parts of a sequence."""
    options = decode(config)
    if options.process_group:
        raise ValueError(
            f"query.device is cuda, with implementation {options.implementation!r} and a process_group of several "
            "ranks; allowed: CPU tensors, whose ranks compute together"
        )


def operator_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_lengths: Optional[Tensor],
    seed: Optional[Tensor],
    config: str,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """torch.ops.dilated_attention.forward."""
    _refuse_ranks(config)
    if query.shape[0] == 0:
        return torch.empty_like(query), query.new_empty(query.shape[:3], dtype=_accumulator(query.dtype))
    return composed_forward(_of_operator(query, key, value, key_lengths, seed, config, dropout), query, key, value)


def operator_backward(
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
    """torch.ops.dilated_attention.backward: dense gradients, and empty tensors for those that are not wanted."""
    if query.shape[0] == 0:
        grads = (query, key, value)
    else:
        composition = _of_operator(query, key, value, key_lengths, seed, config, dropout)
        grads = composed_backward(composition, query, key, value, out, lse, grad_out, grad_lse)
    first, second, third = (grad.contiguous() if want else grad.new_empty(0) for grad, want in zip(grads, wanted))
    return first, second, third
