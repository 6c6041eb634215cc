"""Tiles: which parts of a dilated pattern the implementation "block_sparse" computes.

A tile is a block of queries and a block of keys, of `block_size` tokens each by their places in the sequence. A
TileMask says which tiles are computed, of one sequence or of each batch element and head; docs/block-sparse.md says how
they are chosen.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np

from . import _config, _core

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch


@dataclass(frozen=True)
class SparseReport:
    """What `block_sparse` computes of a pattern, over batch and heads.

    tiles_kept, tiles_all: tiles that are computed, of those that the dilated pattern has. pairs_kept, pairs_all: pairs
    of a query and a key in them, each counted once.
    mass_kept: the part of the softmax that the tiles hold, in the mean over sampled_queries queries, for each of which
    it is exact; mass_error: the standard error of that mean. NaN: not measured.
    choose_seconds: what choosing took."""

    tiles_kept: int
    tiles_all: int
    pairs_kept: float
    pairs_all: float
    mass_kept: float
    mass_error: float
    sampled_queries: int
    choose_seconds: float


class TileMask:
    """Which tiles are computed.

    counts: int32 (batch, heads, blocks): the tiles of each block of queries. columns: int32 (tiles,): the blocks of
    keys of all of them, row by row, ascending in each. batch and heads are those of the calls, or 1: the same for all.
    n: tokens of the sequence; blocks = ceil(n / block_size).
    report: a SparseReport where attention_tiles() made the mask, else None.

    A mask does not change. ValueError: arrays that do not fit together."""

    def __init__(self, counts: Any, columns: Any, n: int, block_size: int) -> None:
        self.n = _config.integer("n", n, 1)
        self.block_size = _config.tile_block("block_size", block_size)
        self.blocks = -(-self.n // self.block_size)
        self.counts, self.columns = _whole("counts", counts), _whole("columns", columns)
        self.report: Optional[SparseReport] = None
        if self.counts.ndim != 3 or self.counts.shape[2] != self.blocks or self.columns.ndim != 1:
            raise ValueError(
                f"counts has the shape {self.counts.shape} and columns {self.columns.shape}; allowed: (batch, heads, "
                f"{self.blocks}), the blocks of n = {self.n}, and one axis"
            )
        batch, heads, _ = self.counts.shape
        self._handle = _core.TileMask(
            batch,
            heads,
            self.n,
            self.block_size,
            self.counts.size,
            self.columns.size,
            self.counts.__array_interface__["data"][0],
            self.columns.__array_interface__["data"][0],
        )
        self._tensors: Any = None
        if "torch" in sys.modules:
            self.as_tensors()  # now, and not where a call is traced

    @classmethod
    def from_dense(cls, kept: Any, n: int, block_size: int = _config.DEFAULT_BLOCK) -> TileMask:
        """From an array or tensor that is True, or not 0, where a tile is computed: (blocks, blocks), (heads, blocks,
        blocks) or (batch, heads, blocks, blocks), with the block of queries before that of keys."""
        array = np.asarray(kept.detach().cpu() if hasattr(kept, "detach") else kept)
        blocks = -(-_config.integer("n", n, 1) // _config.tile_block("block_size", block_size))
        if array.dtype.kind not in "biu":
            raise TypeError(f"tile_mask has the data type {array.dtype}; allowed: bool, integers")
        if not 2 <= array.ndim <= 4 or array.shape[-2:] != (blocks, blocks):
            raise ValueError(
                f"tile_mask has the shape {array.shape}; allowed: ({blocks}, {blocks}), {n} tokens being so many "
                f"blocks of {block_size}, with heads, or batch and heads, before them"
            )
        array = array.reshape((1,) * (4 - array.ndim) + array.shape) != 0
        return cls(array.sum(-1, dtype=np.int32), np.nonzero(array)[3].astype(np.int32), n, block_size)

    @classmethod
    def from_block_mask(cls, mask: Any) -> TileMask:
        """From a BlockMask of PyTorch's FlexAttention: the blocks that it computes in part or in full. What its
        mask_mod says within a block is not asked: the dilated pattern says it here."""
        queries, keys = mask.BLOCK_SIZE
        lengths = tuple(int(x) for x in mask.seq_lengths)
        if queries != keys or lengths[0] != lengths[1]:
            raise ValueError(
                f"the BlockMask has blocks of {queries} x {keys} and {lengths[0]} x {lengths[1]} tokens; allowed: as "
                "many queries as keys, of both"
            )
        return cls.from_dense(mask.to_dense(), lengths[0], int(queries))

    @property
    def batch(self) -> int:
        return int(self.counts.shape[0])

    @property
    def heads(self) -> int:
        return int(self.counts.shape[1])

    @property
    def tiles(self) -> int:
        """The number of tiles, over batch and heads."""
        return int(self.columns.size)

    def to_dense(self) -> npt.NDArray[np.bool_]:
        """bool (batch, heads, blocks, blocks)."""
        rows = self.counts.size
        dense = np.zeros((rows, self.blocks), bool)
        dense[np.repeat(np.arange(rows), self.counts.ravel()), self.columns] = True
        return dense.reshape(*self.counts.shape, self.blocks)

    def as_tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """counts and columns, as PyTorch's operators take them."""
        if self._tensors is None:
            import torch

            self._tensors = torch.from_numpy(self.counts), torch.from_numpy(self.columns)
        return self._tensors  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return (
            f"TileMask(batch={self.batch}, heads={self.heads}, n={self.n}, block_size={self.block_size}, "
            f"tiles={self.tiles})"
        )

    def __reduce__(self) -> Any:
        return TileMask, (self.counts, self.columns, self.n, self.block_size)


def _whole(name: str, values: Any) -> npt.NDArray[np.int32]:
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has the data type {array.dtype}; allowed: integers")
    copy = np.array(array, np.int32, order="C")
    if not np.array_equal(copy, array):
        raise ValueError(f"{name} has a number beyond 32 bits; allowed: numbers of tiles")
    return copy


class SparseProfile:
    """What each head of a layer needs, found by profile_attention() on sample data: a pattern of tiles and its ratio,
    by which "block_sparse" computes where it is sparse_profile.

    text: as a file holds it. heads: (pattern, ratio) of each. block_size: that it was found with; quality_target: that
    it was made for. ValueError: a text that holds no profile."""

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"text is a {type(text).__name__}; allowed: a string, as a profile's file holds it")
        found = _config.profile_from(text)
        self.text = text
        self.heads = found.heads
        self.block_size, self.quality_target = found.info

    @classmethod
    def load(cls, path: Union[str, os.PathLike[str]]) -> SparseProfile:
        """From a file, also one of the command `dilated-attention profile`. OSError, ValueError."""
        _core.SparseProfile(os.fspath(path))  # whose messages name the path
        with open(path, encoding="utf-8") as file:
            return cls(file.read())

    def save(self, path: Union[str, os.PathLike[str]]) -> None:
        """To a file, which is replaced as a whole. OSError."""
        _config.profile_from(self.text).save(os.fspath(path))

    def __repr__(self) -> str:
        return f"SparseProfile({len(self.heads)} heads, quality_target={self.quality_target})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SparseProfile) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __reduce__(self) -> Any:
        return SparseProfile, (self.text,)


def of_core(found: _core.TileMask) -> TileMask:
    """What the library chose, as arrays."""
    batch, heads, n, block_size, tiles = found.shape
    counts, columns = np.empty((batch, heads, -(-n // block_size)), np.int32), np.empty(tiles, np.int32)
    found.write(counts.__array_interface__["data"][0], columns.__array_interface__["data"][0])
    return TileMask(counts, columns, n, block_size)


def of_configuration(tile_mask: Any) -> TileMask:
    """A mask that knows its number of tokens, as a configuration holds it; TypeError."""
    if hasattr(tile_mask, "kv_num_blocks"):
        return TileMask.from_block_mask(tile_mask)
    if not isinstance(tile_mask, TileMask):
        raise TypeError(
            f"tile_mask is a {type(tile_mask).__name__}; allowed in a configuration: TileMask, FlexAttention's "
            "BlockMask"
        )
    return tile_mask


def checked_profile(profile: Any) -> SparseProfile:
    """TypeError where it is none."""
    if not isinstance(profile, SparseProfile):
        raise TypeError(f"sparse_profile is a {type(profile).__name__}; allowed: SparseProfile")
    return profile


def checked(tile_mask: Any, n: int, block_size: Optional[int]) -> TileMask:
    """The argument `tile_mask`: a TileMask, a BlockMask, or a dense array or tensor with block_size."""
    if type(tile_mask) is not TileMask:
        if hasattr(tile_mask, "kv_num_blocks"):
            tile_mask = TileMask.from_block_mask(tile_mask)
        elif hasattr(tile_mask, "shape") or isinstance(tile_mask, Sequence):
            return TileMask.from_dense(tile_mask, n, _config.DEFAULT_BLOCK if block_size is None else block_size)
        else:
            raise TypeError(
                f"tile_mask is a {type(tile_mask).__name__}; allowed: TileMask, FlexAttention's BlockMask, a bool "
                "array or tensor"
            )
    if tile_mask.n != n:
        raise ValueError(f"tile_mask is for {tile_mask.n} tokens; allowed: those of the query, {n}")
    if block_size is not None and block_size != tile_mask.block_size:
        raise ValueError(f"block_size is {block_size}; allowed: None, or that of tile_mask, {tile_mask.block_size}")
    return tile_mask  # type: ignore[no-any-return]


def attention_tiles(
    query: Any,
    key: Any,
    segment_lengths: Sequence[int],
    dilation_rates: Sequence[int],
    *,
    key_lengths: Any = None,
    report: bool = True,
    **options: Any,
) -> TileMask:
    """The tiles that `dilated_attention(..., implementation="block_sparse")` computes for these queries and keys, to
    look at, or to hand to later calls as tile_mask.

    query, key: NumPy arrays or CPU tensors, as of dilated_attention, and so are segment_lengths, dilation_rates,
    key_lengths and the options. report: also fill the mask's `report`, which costs time: pairs are counted, and the
    attention that is kept is measured on sampled queries.

    Raises as dilated_attention does."""
    from . import functional

    found, told = functional.chosen_tiles(query, key, segment_lengths, dilation_rates, key_lengths, report, options)
    mask = of_core(found)
    mask.report = None if told is None else SparseReport(*told)
    return mask


def profile_attention(
    query: Any,
    key: Any,
    segment_lengths: Sequence[int],
    dilation_rates: Sequence[int],
    *,
    quality_target: float,
    key_lengths: Any = None,
    **options: Any,
) -> SparseProfile:
    """Finds for each head the pattern that keeps quality_target, in (0, 1), of the attention of these queries and keys
    with the fewest tiles. query and key are sample data of one layer, otherwise as in attention_tiles, and so are the
    options, block_size, global_blocks and sparse_seed among them.

    Raises as dilated_attention does."""
    from . import functional

    found = functional.found_profile(query, key, segment_lengths, dilation_rates, key_lengths, quality_target, options)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "profile.txt")
        found.save(path)
        with open(path, encoding="utf-8") as file:
            return SparseProfile(file.read())
