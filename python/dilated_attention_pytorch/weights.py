"""Attention weights of chosen queries, and the mass that each key receives, without a matrix of n x n.

Both start from the logsumexp that a forward pass returns: the weight of query i for key j is

    p_ij = c_ij exp(scale <q_i, k_j> - lse_i),

with c_ij the number of patterns by which the query sees the key. A query's weights sum to 1, less what the zero keys of
tail_rule "zero_pad" take; a query without keys has none. Under mixing "head_groups" the weights are those of the
softmax, before the output is divided by the number of groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np
import torch
from torch import Tensor

from . import _torch_ops as _torch_ops  # defines the operators
from ._config import Options, encode, normal_options
from ._visibility import groups, multiplicities
from .functional import SPARSE_OPTIONS, dilated_attention
from .tiles import TileMask, attention_tiles, checked

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = Union[Tensor, npt.NDArray[Any]]


def _tensors(
    query: Array,
    key: Array,
    lse: Optional[Array],
    segment_lengths: Sequence[int],
    dilation_rates: Sequence[int],
    key_lengths: Any,
    tile_mask: Any,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor, Options, Optional[TileMask]]:
    """query and key as tensors of f32 or f64, the logsumexp (computed where there is none), the options, and the tiles
    that count, if not all do."""
    given = [torch.as_tensor(x) for x in (query, key)]
    for name, x in zip(("query", "key"), given):
        if x.dim() != 4:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; allowed: (batch, n, heads, head_dim)")
    wide = torch.float64 if given[0].dtype == torch.float64 else torch.float32
    q, k = (x.to(wide) for x in given)
    if tile_mask is not None:
        tile_mask = checked(tile_mask, q.shape[1], options.pop("block_size", None))
    elif options.get("implementation") == "block_sparse":
        tile_mask = attention_tiles(
            q, k, segment_lengths, dilation_rates, key_lengths=key_lengths, report=False, **options
        )
    if tile_mask is not None:
        options = {name: value for name, value in options.items() if name not in SPARSE_OPTIONS}
        options["implementation"] = "block_sparse"
    if lse is None:
        _, found = dilated_attention(
            q,
            k,
            k,
            segment_lengths,
            dilation_rates,
            key_lengths=key_lengths,
            return_lse=True,
            tile_mask=tile_mask,
            **options,
        )
    else:
        found = torch.as_tensor(lse)
        if found.shape != q.shape[:3]:
            raise ValueError(f"lse has shape {tuple(found.shape)}; allowed: (batch, n, heads), {tuple(q.shape[:3])}")
    if tile_mask is not None:
        options["block_size"] = tile_mask.block_size
    return q, k, found.to(wide), normal_options(segment_lengths, dilation_rates, **options), tile_mask


def _like(result: Tensor, given: Array) -> Any:
    return result.detach().numpy() if isinstance(given, np.ndarray) else result


def attention_weights(
    query: Array,
    key: Array,
    lse: Optional[Array] = None,
    *,
    queries: Sequence[int],
    segment_lengths: Sequence[int],
    dilation_rates: Sequence[int],
    key_lengths: Any = None,
    average_heads: bool = False,
    tile_mask: Any = None,
    **options: Any,
) -> Any:
    """The weights of some queries for all keys: (batch, heads, len(queries), n).

    query, key: as in `dilated_attention`, and so are segment_lengths, dilation_rates, key_lengths and the options.
    lse: (batch, n, heads), as `dilated_attention` returns it; None: it is computed.
    tile_mask: as in `dilated_attention`, of which lse must be; with implementation="block_sparse" and none, its tiles.
    queries: positions, 0 to n - 1. average_heads: the mean over the heads, (batch, len(queries), n).

    The result is f64 for f64 tensors, otherwise f32, and differentiable in query, key and lse. Raises ValueError.
    """
    q, k, logsumexp, normal, mask = _tensors(
        query, key, lse, segment_lengths, dilation_rates, key_lengths, tile_mask, options
    )
    n, heads, head_dim = q.shape[1:]
    chosen = [int(i) for i in queries]
    for i in chosen:
        if not 0 <= i < n:
            raise ValueError(f"queries has {i}; allowed: 0 to {n - 1}")
    count = torch.from_numpy(multiplicities(normal, heads, n, chosen)[0]).to(q.device)
    seen = (count > 0)[None]
    if mask is not None:
        block = mask.block_size
        rows = mask.to_dense()[:, :, [i // block for i in chosen]]
        seen = seen & torch.from_numpy(rows.repeat(block, -1)[..., :n]).to(q.device)
    if key_lengths is not None:
        lengths = torch.as_tensor(key_lengths, device=q.device)
        seen = seen & (torch.arange(n, device=q.device) < lengths[:, None])[:, None, None]
    repeated = k.repeat_interleave(heads // k.shape[2], 2)
    scale = head_dim**-0.5 if normal.softmax_scale is None else normal.softmax_scale
    scores = (
        torch.einsum("bqhd,bkhd->bhqk", q[:, chosen], repeated) * scale
        - logsumexp[:, chosen].transpose(1, 2)[..., None]
    )
    weights = torch.where(seen, scores, float("-inf")).exp() * count
    return _like(weights.mean(1) if average_heads else weights, query)


def key_mass(
    query: Array,
    key: Array,
    lse: Optional[Array] = None,
    *,
    segment_lengths: Sequence[int],
    dilation_rates: Sequence[int],
    key_lengths: Any = None,
    tile_mask: Any = None,
    **options: Any,
) -> Any:
    """What each key receives: the sum of its weights over all queries, (batch, n, heads), one for each query head.

    Arguments as in `attention_weights`. Computed in linear memory: the mass of key j is the gradient of its value's
    first component where every query's gradient is the first unit vector, so one backward pass gives it.
    """
    q, k, logsumexp, normal, mask = _tensors(
        query, key, lse, segment_lengths, dilation_rates, key_lengths, tile_mask, options
    )
    repeated = k.repeat_interleave(q.shape[2] // k.shape[2], 2)
    first = q.new_zeros(q.shape[3])
    first[0] = 1
    nothing = q.new_zeros(()).expand(q.shape)
    lengths = (
        None if key_lengths is None else torch.as_tensor(key_lengths, device=q.device).to(torch.int64).contiguous()
    )
    with torch.no_grad():
        gradient = torch.ops.dilated_attention.backward(
            first.expand(q.shape),
            None,
            q,
            repeated,
            nothing,
            nothing,
            logsumexp.contiguous(),
            lengths,
            None,
            encode(normal),
            0.0,
            [False, False, True],
            *((None, None) if mask is None else mask.as_tensors()),
        )[2]
    return _like(gradient[..., 0] * groups(normal), query)
