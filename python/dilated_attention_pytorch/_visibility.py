"""Who sees whom, as numbers: offsets of heads, kept tokens of segments, multiplicities of pairs.

It mirrors the definition in the C header: a pattern (w, r) cuts the sequence into segments of w tokens, a head keeps
every r-th token of a segment from its offset on, and a kept query sees the kept keys of its own segment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from ._config import Options


@dataclass(frozen=True)
class HeadsOfPattern:
    """A pattern and the heads that run it, each with its offset. `place` is its place among the patterns, from 0."""

    place: int
    segment_length: int
    dilation_rate: int
    heads: tuple[int, ...]
    offsets: tuple[int, ...]


def groups(options: Options) -> int:
    """What the output is divided by."""
    return len(options.segment_lengths) if options.mixing == "head_groups" else 1


def patterns(options: Options, heads: int) -> list[HeadsOfPattern]:
    """The patterns in order, each with its heads."""
    found: list[HeadsOfPattern] = []
    count, first = len(options.segment_lengths), 0
    for g, (w, r) in enumerate(zip(options.segment_lengths, options.dilation_rates)):
        if options.mixing == "head_groups":
            size = heads // count + (g < heads % count)
            mine = tuple(range(first, first + size))
            first += size
            offsets = (g % r,) * size
        else:
            mine = tuple(range(heads))
            per_block = math.ceil(heads / r)
            offsets = tuple(h % r if options.offset_rule == "mod" else h // per_block for h in mine)
        if mine:
            found.append(HeadsOfPattern(g, w, r, mine, offsets))
    return found


def kept(offset: int, length: int, rate: int) -> int:
    """How many of `length` tokens a head keeps."""
    return max(0, -((offset - length) // rate))


# ---- the kernel calls that a composition makes -----------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """Queries [query_from, query_to) and keys [0, keys) of the kept tokens of some segments that look alike: one kernel
    call.

    `zeros` pieces stand for that many zero keys and call no kernel. `window` counts kept tokens: query a sees key b
    only if a - b <= window, both counted from the segment's first kept token.
    """

    pattern: HeadsOfPattern
    heads: tuple[int, ...]
    offsets: tuple[int, ...]
    rows: tuple[int, ...]  # of the batch; segment s of row b is rows[s], starts[s]
    starts: tuple[int, ...]
    query_from: int
    query_to: int
    keys: int
    causal: bool = False
    window: Optional[int] = None
    zeros: int = 0


def _segments(w: int, n: int, visible: int) -> dict[tuple[int, int], list[int]]:
    """Starts of the segments, by (length, how many of its tokens exist as keys)."""
    kinds: dict[tuple[int, int], list[int]] = {}
    for start in range(0, n, w):
        kinds.setdefault((min(w, n - start), min(max(visible - start, 0), w)), []).append(start)
    return kinds


def _windowed_pieces(
    rate: int, queries: int, keys: int, causal: bool, window: Optional[int]
) -> Iterator[dict[str, Any]]:
    """Cuts `queries` by `keys`, no more than they, so that a causal mask is always square: there all kernels agree."""
    if keys == 0:
        return
    if not causal and window is None:
        yield {"query_from": 0, "query_to": queries, "keys": keys}
        return
    within = None if window is None else window // rate
    yield {"query_from": 0, "query_to": keys, "keys": keys, "causal": causal, "window": within}
    end = queries if within is None else min(queries, keys + within)
    if end > keys:
        yield {"query_from": keys, "query_to": end, "keys": keys, "window": within}


@lru_cache(maxsize=64)
def pieces(options: Options, heads: int, n: int, key_lengths: tuple[int, ...]) -> tuple[Piece, ...]:
    """All kernel calls of one attention; key_lengths has one value for each row of the batch."""
    found: list[Piece] = []
    zero_pad = options.tail_rule == "zero_pad"
    for pattern in patterns(options, heads):
        w, r = min(pattern.segment_length, n), pattern.dilation_rate
        whole = math.ceil((w if zero_pad else pattern.segment_length) / r)
        places: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
        cached = {length: _segments(w, n, length) for length in set(key_lengths)}
        for row, length in enumerate(key_lengths):
            for kind, starts in cached[length].items():
                rows_of, starts_of = places.setdefault(kind, ([], []))
                rows_of.extend([row] * len(starts))
                starts_of.extend(starts)
        for (length, visible), (rows_of, starts_of) in places.items():
            alike: dict[tuple[int, int], list[int]] = {}
            for place, offset in enumerate(pattern.offsets):
                alike.setdefault((kept(offset, length, r), kept(offset, visible, r)), []).append(place)
            for (queries, keys), chosen in alike.items():
                common: dict[str, Any] = {
                    "pattern": pattern,
                    "heads": tuple(pattern.heads[c] for c in chosen),
                    "offsets": tuple(pattern.offsets[c] for c in chosen),
                    "rows": tuple(rows_of),
                    "starts": tuple(starts_of),
                }
                for cut in _windowed_pieces(r, queries, keys, options.is_causal, options.window):
                    found.append(Piece(**common, **cut))
                if zero_pad and not options.is_causal and queries and whole > queries:
                    found.append(Piece(**common, query_from=0, query_to=queries, keys=0, zeros=whole - queries))
    return tuple(found)


# ---- pairs, one by one -----------------------------------------------------------------------------------------------


def multiplicities(
    options: Options, heads: int, n: int, queries: Sequence[int], keys: Optional[range] = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """How often each of these queries sees each key: (heads, queries, keys); and its zero keys, (heads, queries).

    keys: the positions wanted; None: all n. Key padding is the caller's.
    """
    i = np.asarray(queries, np.int64)[:, None]
    j = np.arange(n) if keys is None else np.arange(keys.start, keys.stop)
    count = np.zeros((heads, len(i), len(j)), np.int64)
    zeros = np.zeros((heads, len(i)), np.int64)
    zero_pad = options.tail_rule == "zero_pad"
    for pattern in patterns(options, heads):
        w, r = min(pattern.segment_length, n), pattern.dilation_rate
        same = i // w == j // w
        starts = i[:, 0] // w * w
        for head, offset in zip(pattern.heads, pattern.offsets):
            keeps = i % w % r == offset
            count[head] += same & keeps & (j % w % r == offset)
            if zero_pad and not options.is_causal:
                there = np.array([kept(offset, int(length), r) for length in np.minimum(w, n - starts)], np.int64)
                zeros[head] += np.where(keeps[:, 0], math.ceil(w / r) - there, 0)
    if options.overlap == "once":
        count = np.minimum(count, 1)
    if options.is_causal:
        count[:, j > i] = 0
    if options.window is not None:
        count[:, i - j > options.window] = 0
    return count, zeros
