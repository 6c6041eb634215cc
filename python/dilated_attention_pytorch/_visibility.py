"""Who sees whom, as numbers: offsets of heads, kept tokens of segments, multiplicities of pairs.

It mirrors the definition in the C header: a pattern (w, r) cuts the sequence into segments of w tokens, a head keeps every
r-th token of a segment from its offset on, and a kept query sees the kept keys of its own segment.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Iterator, Optional, Sequence

PRESETS = {
    "longnet": ("longnet", "mod", "mask"),
    "torchscale": ("longnet", "block", "zero_pad"),
    "head_groups": ("head_groups", "mod", "mask"),
}


def _one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(map(repr, allowed))}")
    return value


@dataclass(frozen=True)
class HeadsOfPattern:
    """A pattern and the heads that run it, each with its offset. `place` is its place among the patterns, from 0."""

    place: int
    segment_length: int
    dilation_rate: int
    heads: tuple[int, ...]
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class Visibility:
    """The options that decide who sees whom, checked; `resolve` makes one from what a user gives."""

    segment_lengths: tuple[int, ...]
    dilation_rates: tuple[int, ...]
    is_causal: bool = False
    mixing: str = "longnet"
    offset_rule: str = "mod"
    tail_rule: str = "mask"
    overlap: str = "count"
    window: Optional[int] = None

    @property
    def groups(self) -> int:
        """What the output is divided by."""
        return len(self.segment_lengths) if self.mixing == "head_groups" else 1

    def patterns(self, heads: int) -> list[HeadsOfPattern]:
        """The patterns in order, each with its heads."""
        found: list[HeadsOfPattern] = []
        count, first = len(self.segment_lengths), 0
        for g, (w, r) in enumerate(zip(self.segment_lengths, self.dilation_rates)):
            if self.mixing == "head_groups":
                size = heads // count + (g < heads % count)
                mine = tuple(range(first, first + size))
                first += size
                offsets = (g % r,) * size
            else:
                mine = tuple(range(heads))
                per_block = math.ceil(heads / r)
                offsets = tuple(h % r if self.offset_rule == "mod" else h // per_block for h in mine)
            if mine:
                found.append(HeadsOfPattern(g, w, r, mine, offsets))
        return found


def resolve(segment_lengths: Sequence[int], dilation_rates: Sequence[int], *, is_causal: bool = False,
            preset: str = "longnet", mixing: Optional[str] = None, offset_rule: Optional[str] = None,
            tail_rule: Optional[str] = None, overlap: Optional[str] = None,
            window: Optional[int] = None) -> Visibility:
    """Checks the options and fills in the preset's. Raises ValueError."""
    lengths, rates = tuple(int(w) for w in segment_lengths), tuple(int(r) for r in dilation_rates)
    if not lengths or len(lengths) != len(rates):
        raise ValueError(f"segment_lengths has {len(lengths)} values and dilation_rates {len(rates)}; "
                         "allowed: the same number, at least 1")
    for w, r in zip(lengths, rates):
        if not 1 <= r <= w:
            raise ValueError(f"dilation_rates has {r} for a segment of {w}; allowed: 1 to the segment's length")
    if window is not None and int(window) < 0:
        raise ValueError(f"window is {window}; allowed: None or a number of tokens from 0 on")
    default = PRESETS[_one_of("preset", preset, tuple(PRESETS))]
    return Visibility(
        lengths, rates, bool(is_causal),
        _one_of("mixing", default[0] if mixing is None else mixing, ("longnet", "head_groups")),
        _one_of("offset_rule", default[1] if offset_rule is None else offset_rule, ("mod", "block")),
        _one_of("tail_rule", default[2] if tail_rule is None else tail_rule, ("mask", "zero_pad")),
        _one_of("overlap", "count" if overlap is None else overlap, ("count", "once")),
        None if window is None else int(window))


def kept(offset: int, length: int, rate: int) -> int:
    """How many of `length` tokens a head keeps."""
    return max(0, -((offset - length) // rate))


# ---- the kernel calls that a composition makes -----------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """Queries [query_from, query_to) and keys [0, keys) of the kept tokens of some segments that look alike: one kernel call.

    `zeros` pieces stand for that many zero keys and call no kernel. `window` counts kept tokens: query a sees key b only if
    a - b <= window, both counted from the segment's first kept token.
    """

    pattern: HeadsOfPattern
    heads: tuple[int, ...]
    offsets: tuple[int, ...]
    rows: tuple[int, ...]      # of the batch; segment s of row b is rows[s], starts[s]
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


def _windowed_pieces(rate: int, queries: int, keys: int, causal: bool,
                     window: Optional[int]) -> Iterator[dict[str, Any]]:
    """Cuts `queries` by `keys` (keys <= queries) so that a causal mask is always square, as kernels agree on that alone."""
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


def pieces(visibility: Visibility, heads: int, n: int, key_lengths: Sequence[int]) -> list[Piece]:
    """All kernel calls of one attention; key_lengths has one value for each row of the batch."""
    found: list[Piece] = []
    zero_pad = visibility.tail_rule == "zero_pad"
    for pattern in visibility.patterns(heads):
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
                common = {"pattern": pattern, "heads": tuple(pattern.heads[c] for c in chosen),
                          "offsets": tuple(pattern.offsets[c] for c in chosen),
                          "rows": tuple(rows_of), "starts": tuple(starts_of)}
                for cut in _windowed_pieces(r, queries, keys, visibility.is_causal, visibility.window):
                    found.append(Piece(**common, **cut))
                if zero_pad and not visibility.is_causal and queries and whole > queries:
                    found.append(Piece(**common, query_from=0, query_to=queries, keys=0, zeros=whole - queries))
    return found
