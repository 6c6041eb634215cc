"""Write the cases that test_compare and test_pattern read: python generate_cases.py OUTPUT [--processes N]

Every case is a small problem with its exact result, computed by tests/reference/dilated_attention_reference.py in
float64. Inputs are rounded to the case's value type before the reference sees them, so that a kernel of that type and
the reference start from the same numbers. The output depends on nothing but this file, the reference and the golden
cases; ../support/case_file.h describes the format.
"""
from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import pathlib
import struct
import sys
from collections import Counter
from dataclasses import dataclass, field

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # the cases are small and the processes already share the cores
sys.dont_write_bytecode = True

import numpy as np  # noqa: E402

REFERENCE = pathlib.Path(__file__).resolve().parent.parent / "reference"
sys.path.insert(0, str(REFERENCE))
from dilated_attention_reference import dilated_attention, head_offset, is_kept, keys_of  # noqa: E402

SEED = 20230705
LEAST_COVERAGE = 12
RANDOM_CASES = 1700
CHAIN_CASES = 120
LARGE_CASES = 260
TILE_CASES = 420
LARGE_TILE_CASES = 80
FLAT_TILE_CASES = 70
FLAT_TILES = (64, 128)  # tokens in a block: whole panels of all instruction sets
MAGIC = b"DACASES2"
VALUE_TYPES = {"f32": 1, "f64": 2, "bf16": 3, "f16": 4}
HEAD_DIMS = [1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 40, 48, 63, 64, 65, 80, 96, 100, 127, 128, 129,
             160, 192, 200, 255, 256]
# What a small case may cost: pairs for the reference, elements of a tensor for the file.
MAX_PAIRS = 9000
MAX_ELEMENTS = 9000
MAX_CHAIN_PAIRS = 40000
MAX_LARGE_ELEMENTS = 60000


def padding(batch, n, lengths, masked):
    """(batch, n), True: this key does not exist; None where neither lengths nor a mask are given."""
    if lengths is None and masked is None:
        return None
    padded = np.zeros((batch, n), bool)
    if lengths is not None:
        padded |= np.arange(n)[None] >= np.array(lengths)[:, None]
    return padded if masked is None else padded | masked


@dataclass
class Case:
    name: str
    value_type: str
    batch: int
    n: int
    heads: int
    kv_heads: int
    head_dim: int
    segments: list
    rates: list
    causal: bool = False
    window: int | None = None
    scale: float | None = None
    mixing: str = "longnet"
    offset_rule: str = "mod"
    tail_rule: str = "mask"
    overlap: str = "count"
    lengths: list | None = None
    masked: np.ndarray | None = None  # (batch, n), True: this key does not exist
    shared_kv: bool = False  # the batch rows have the same keys and values
    tile_block: int = 0      # tokens in a block of a tile; 0: all pairs count
    kept: np.ndarray | None = field(default=None, repr=False)  # (batch or 1, heads or 1, blocks, blocks)
    q: np.ndarray = field(default=None, repr=False)
    k: np.ndarray = field(default=None, repr=False)
    v: np.ndarray = field(default=None, repr=False)

    def padding(self):
        return padding(self.batch, self.n, self.lengths, self.masked)

    def tiles(self):
        return (self.tile_block, self.kept) if self.tile_block else None

    def options(self):
        return dict(tiles=self.tiles(), causal=self.causal, window=self.window, scale=self.scale, mixing=self.mixing,
                    offset_rule=self.offset_rule, tail_rule=self.tail_rule, overlap=self.overlap)


# ---- numbers -------------------------------------------------------------------------------------------------------

def bf16_bits(x):
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(x), 0x7FC0, rounded).astype(np.uint16)


def encode(x, value_type):
    """The bytes of x in the value type."""
    if value_type == "bf16":
        return bf16_bits(x).tobytes()
    return np.asarray(x).astype({"f32": "<f4", "f64": "<f8", "f16": "<f2"}[value_type]).tobytes()


def rounded(x, value_type):
    """x rounded to the value type, as float64."""
    if value_type == "bf16":
        return (bf16_bits(x).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return x.astype({"f32": np.float32, "f64": np.float64, "f16": np.float16}[value_type]).astype(np.float64)


def fill(case, rng, q_factor=1.0, k_factor=1.0, v_factor=1.0, garbage=True):
    """Draws q, k and v. Factors are powers of two, so that they don't change what the types can represent."""
    b, n, h, hk, d = case.batch, case.n, case.heads, case.kv_heads, case.head_dim
    case.q = rounded(rng.standard_normal((b, n, h, d)), case.value_type) * q_factor
    case.k, case.v = (rounded(rng.standard_normal((b, n, hk, d)), case.value_type) * f for f in (k_factor, v_factor))
    if case.shared_kv:
        case.k[:], case.v[:] = case.k[0], case.v[0]
    # The error of a score grows with its terms. Where it would be near 1, nothing could be compared: shrink the query.
    scale = 1 / math.sqrt(d) if case.scale is None else abs(case.scale)
    limit = 1e5 / (d + 8)
    while scale * d * np.abs(case.q).max() * np.abs(case.k).max() > 4 * limit:
        case.q /= 2
    for name in "qkv":  # a factor may have pushed a value below the type's normal range
        setattr(case, name, rounded(getattr(case, name), case.value_type))
    padded = case.padding()
    if garbage and padded is not None and not case.shared_kv and rng.random() < 0.7:
        for x in (case.k, case.v):
            x[padded] = rng.choice([np.nan, np.inf, -np.inf], size=x[padded].shape)
    return case


# ---- the reference, for chosen queries -----------------------------------------------------------------------------

def patterns_of(case, h):
    """(w, r, offset) of each pattern that head h runs, as in the reference."""
    patterns = list(zip(case.segments, case.rates))
    if case.mixing == "longnet":
        return [(w, r, head_offset(h, case.heads, r, case.offset_rule)) for w, r in patterns]
    group_of = []
    for g in range(len(patterns)):
        group_of += [g] * (case.heads // len(patterns) + (g < case.heads % len(patterns)))
    g = group_of[h]
    return [(*patterns[g], g % patterns[g][1])]


def seen_by(case, h, i):
    """Counter of the keys that query i of head h sees, padding apart, and the number of zero keys."""
    count, zeros = Counter(), 0
    for w, r, off in patterns_of(case, h):
        seen = keys_of(i, case.n, w, r, off, case.causal, case.tail_rule)
        if seen is not None:
            count.update(seen[0])
            zeros += seen[1]
    return Counter({j: 1 if case.overlap == "once" else c for j, c in count.items()
                    if case.window is None or i - j <= case.window}), zeros


@dataclass
class Row:
    """A query with its exact result, and what the bounds of its error are made of (../tolerances.md)."""
    b: int
    i: int
    h: int
    counted: int = 0          # sum of the multiplicities, padding apart
    distinct: int = 0         # number of keys, padding apart
    positions: int = 0        # sum of multiplicity * (j + 1)
    squares: int = 0          # sum of multiplicity * (j + 1)^2
    terms: int = 0            # keys and zero keys in the softmax
    largest_score: float = 0  # max over keys of sum |q| |k| |scale|
    mean_score: float = 0     # the same, averaged with the softmax's weights
    spread: float = 0         # max over channels of sum p_j score_j |v_j - out|
    mean_value: float = 0     # max over channels of sum p_j |v_j|
    lse: float = -math.inf
    out: np.ndarray = None


def evaluate(case, padded, b, i, h):
    """One query of the reference, and its conditioning."""
    row = Row(b, i, h, out=np.zeros(case.head_dim))
    count, zeros = seen_by(case, h, i)
    js = np.array(sorted(count), np.int64)
    c = np.array([count[j] for j in js.tolist()], np.int64)
    row.counted, row.distinct = int(c.sum()), len(js)
    row.positions, row.squares = int((c * (js + 1)).sum()), int((c * (js + 1) ** 2).sum())
    if len(js):
        kept = is_kept(case.tiles(), b, h, i, js)
        if padded is not None:
            kept &= ~padded[b, js]
        js, c = js[kept], c[kept]
    row.terms = len(js) + zeros
    if not row.terms:
        return row
    scale = 1 / math.sqrt(case.head_dim) if case.scale is None else case.scale
    kv = h // (case.heads // case.kv_heads)
    keys, values, query = case.k[b, js, kv], case.v[b, js, kv], case.q[b, i, h]
    s = np.concatenate([keys @ query * scale, np.zeros(zeros)])
    size = np.concatenate([np.abs(keys) @ np.abs(query) * abs(scale), np.zeros(zeros)])
    p = np.concatenate([c, np.ones(zeros)]) * np.exp(s - s.max())
    row.lse = s.max() + math.log(p.sum())
    p /= p.sum()
    groups = len(case.segments) if case.mixing == "head_groups" else 1
    values = np.concatenate([values, np.zeros((zeros, case.head_dim))])
    out = p @ values
    row.largest_score, row.mean_score = size.max(), p @ size
    row.spread = ((p * size) @ np.abs(values - out)).max() / groups
    row.mean_value = (p @ np.abs(values)).max() / groups
    row.out = out / groups
    return row


def all_rows(case):
    """Every query, its result from the reference itself; `evaluate` must agree."""
    padded = case.padding()
    out, lse = dilated_attention(case.q, case.k, case.v, case.segments, case.rates, key_padding=padded,
                                 **case.options())
    rows = []
    for b, i, h in np.ndindex(case.batch, case.n, case.heads):
        row = evaluate(case, padded, b, i, h)
        slack = 1e-12 * (1 + row.largest_score)
        if not (np.allclose(row.out, out[b, i, h], rtol=0, atol=slack * (row.mean_value + 1e-300))
                and (row.lse == lse[b, i, h] or abs(row.lse - lse[b, i, h]) <= slack * (1 + abs(row.lse)))):
            raise AssertionError(f"{case}: query {b, i, h}: the sampled evaluation differs from the reference")
        row.out, row.lse = out[b, i, h], lse[b, i, h]
        rows.append(row)
    return rows


def sampled_rows(case, rng, wanted=28):
    """Queries at the ends, at likely tile and segment borders, and anywhere; mostly such as see something."""
    edges = {0, 1, case.n - 1, case.n - 2, case.n // 2}
    for size in [63, 64, 65, 127, 128, 255, 256, *case.segments]:
        edges |= {size - 1, size, (case.n - 1) // size * size}
    edges = [i for i in sorted(edges) if 0 <= i < case.n]
    padded = case.padding()
    rows = []
    for draw in range(20 * wanted):
        i = int(rng.choice(edges)) if draw % 2 else int(rng.integers(case.n))
        h, b = int(rng.integers(case.heads)), int(rng.integers(case.batch))
        row = evaluate(case, padded, b, i, h)
        if row.terms or draw % 8 == 0:
            rows.append(row)
        if len(rows) == wanted:
            break
    return rows


# ---- drawing problems ----------------------------------------------------------------------------------------------

def draw_patterns(rng, n, kind=None, longest=None):
    """Segment lengths and dilation rates of some kind."""
    longest = longest or n + 12
    kind = kind or rng.choice(["nested", "not_nested", "single", "five", "rate_is_segment", "huge", "twice", "coarse"],
                              p=[.3, .28, .1, .07, .05, .07, .06, .07])

    def one(coarsest=12):
        w = int(rng.integers(1, longest + 1))
        return w, int(rng.integers(1, min(w, coarsest) + 1))
    if kind == "nested":
        first, count = int(rng.choice([2, 4, 8, 16])) * max(1, longest // 128), int(rng.integers(2, 5))
        pairs = [(first << g, min(1 << g, first << g)) for g in range(count)]
    elif kind == "not_nested":
        pairs = [one() for _ in range(int(rng.integers(2, 5)))]
    elif kind == "single":
        pairs = [one()]
    elif kind == "five":
        pairs = [one(6) for _ in range(5)]
    elif kind == "rate_is_segment":
        w = int(rng.integers(1, 12))
        pairs = [one(3), (w, w)]
    elif kind == "huge":
        pairs = [one(), (1 << 40, int(rng.choice([1, 2, 3, 16, 1 << 33])))]
    elif kind == "twice":
        pairs = [one()] * 2 + [one()]
    else:  # coarse: rates above the number of heads, and often above n
        pairs = [one(longest), one(longest)]
    order = rng.permutation(len(pairs)) if rng.random() < 0.2 else range(len(pairs))
    return [pairs[g][0] for g in order], [pairs[g][1] for g in order]


def draw_chain(rng, n):
    """Rates that divide one another, in segments of many times the largest rate: a kernel can share scores here."""
    rates, coarsest = [1], max(1, n // 40)
    for _ in range(int(rng.integers(1, 4))):
        rates.append(min(rates[-1] * int(rng.choice([1, 2, 2, 3, 4, 9])), coarsest // rates[-1] * rates[-1]))
    if rng.random() < 0.3:
        rates = rates[1:]
    shortest = 32 * max(rates)
    segments = [int(rng.integers(shortest, max(n + 20, shortest + 1))) for _ in rates]
    if rng.random() < 0.5:  # nested, as the paper has them
        segments = [shortest << g for g in range(len(rates))]
    order = rng.permutation(len(rates)) if rng.random() < 0.3 else range(len(rates))
    return [segments[g] for g in order], [rates[g] for g in order]


def draw_head_dim(rng):
    return int(rng.choice([1, 2, 3, 4, 5, 7, 8])) if rng.random() < 0.5 else int(rng.choice(HEAD_DIMS))


def draw_heads(rng):
    heads = int(rng.choice([1, 2, 3, 4, 5, 6, 7, 8]))
    divisors = [x for x in range(1, heads + 1) if heads % x == 0]
    return heads, int(rng.choice(divisors)) if rng.random() < 0.35 else heads


def draw_value_type(rng):
    return str(rng.choice(["f32", "f64", "bf16", "f16"], p=[.55, .09, .18, .18]))


def draw_window(rng, n):
    return int(rng.choice([0, 1, 2, int(rng.integers(0, n + 1)), n - 1, n, n + 5, 1 << 40]))


def draw_padding(case, rng):
    if rng.random() < 0.6:
        case.lengths = [int(rng.choice([0, case.n, *rng.integers(0, case.n + 1, 4)])) for _ in range(case.batch)]
    if case.lengths is None or rng.random() < 0.25:
        case.masked = rng.random((case.batch, case.n)) < rng.choice([0.1, 0.5, 0.9, 1.0])


def draw_scale(rng):
    return float(rng.choice([0.0, -0.3, 0.5, 1.0, 60.0, -60.0, 1e-3]))


def draw_options(case, rng):
    case.causal = bool(rng.random() < 0.45)
    if rng.random() < 0.25:
        case.window = draw_window(rng, case.n)
    if rng.random() < 0.25:
        case.scale = draw_scale(rng)
    if rng.random() < 0.22:
        case.mixing = "head_groups"
    if rng.random() < 0.4:
        case.offset_rule = "block"
    if rng.random() < 0.4:
        case.tail_rule = "zero_pad"
    if rng.random() < 0.3:
        case.overlap = "once"
    if case.batch > 1 and rng.random() < 0.25:
        case.shared_kv = True
    if rng.random() < 0.3:
        draw_padding(case, rng)


def draw_factors(case, rng):
    """Now and then very large or very small values."""
    if rng.random() < 0.85:
        return {}
    top = 12 if case.value_type == "f16" else 100
    return dict(q_factor=2.0 ** rng.integers(-4, 9), k_factor=2.0 ** rng.integers(-4, 9),
                v_factor=2.0 ** rng.integers(-top, top + 1))


def pairs_of(case):
    return sum(sum(seen_by(case, h, i)[0].values()) for h in range(case.heads) for i in range(case.n)) * case.batch


def random_case(rng, name):
    n = int(round(2 ** rng.uniform(0, 6.15)))
    heads, kv_heads = draw_heads(rng)
    batch = int(rng.choice([1, 1, 1, 2, 3]))
    head_dim = draw_head_dim(rng)
    while batch * n * heads * head_dim > MAX_ELEMENTS:
        n = max(1, n * 2 // 3) if n > 4 else n
        batch, heads, kv_heads = (1, heads, kv_heads) if n > 4 else (1, 1, 1)
    segments, rates = draw_patterns(rng, n)
    case = Case(name, draw_value_type(rng), batch, n, heads, kv_heads, head_dim, segments, rates)
    draw_options(case, rng)
    while pairs_of(case) > MAX_PAIRS:
        case.n = case.n * 3 // 4
        case.lengths = None if case.lengths is None else [min(x, case.n) for x in case.lengths]
        case.masked = None if case.masked is None else case.masked[:, :case.n]
    return fill(case, rng, **draw_factors(case, rng))


def chain_case(rng, name):
    n = int(rng.integers(40, 180))
    heads, kv_heads = [(1, 1), (2, 1), (3, 3), (2, 2)][int(rng.integers(4))]
    head_dim = int(rng.choice([2, 5, 8, 16, 20, 33]))
    case = Case(name, draw_value_type(rng), int(rng.choice([1, 1, 2])), n, heads, kv_heads, head_dim,
                *draw_chain(rng, n))
    draw_options(case, rng)
    while pairs_of(case) > MAX_CHAIN_PAIRS:
        case.batch, case.lengths, case.masked, case.shared_kv = 1, None, None, False
        case.n = case.n * 4 // 5
    return fill(case, rng)


def draw_tiles(case, rng, sizes=(16, 16, 16, 32, 48, 64, 128, 1024)):
    """A mask of tiles for the problem: of all densities, or full, or empty, or near the diagonal."""
    case.tile_block = int(rng.choice(sizes))
    blocks = -(-case.n // case.tile_block)
    shape = (case.batch if rng.random() < 0.6 else 1, case.heads if rng.random() < 0.7 else 1, blocks, blocks)
    kind = str(rng.choice(["random", "rows", "full", "empty", "near", "columns"], p=[.5, .12, .08, .05, .13, .12]))
    case.kept = rng.random(shape) < rng.choice([0.05, 0.2, 0.5, 0.8, 0.95])
    if kind == "rows":       # some see all, others nothing
        case.kept[:] = rng.random((*shape[:3], 1)) < 0.5
    elif kind == "columns":  # the same for all queries
        case.kept[:] = rng.random((*shape[:2], 1, blocks)) < 0.5
    elif kind in ("full", "empty"):
        case.kept[:] = kind == "full"
    elif kind == "near":
        i, j = np.indices((blocks, blocks))
        case.kept |= np.abs(i - j) <= 1


def tile_case(rng, name):
    """Several blocks, of a few tokens each at least."""
    n = int(rng.choice([rng.integers(1, 40), rng.integers(30, 120), rng.integers(100, 280)]))
    heads, kv_heads = [(1, 1), (2, 1), (2, 2), (3, 3), (4, 2)][int(rng.integers(5))]
    case = Case(name, draw_value_type(rng), int(rng.choice([1, 1, 2])), n, heads, kv_heads,
                int(rng.choice([1, 3, 5, 8, 16, 17, 33, 64])), *(
                    draw_chain(rng, max(n, 40)) if rng.random() < 0.5 else draw_patterns(rng, n)))
    draw_options(case, rng)
    while case.n > 1 and (pairs_of(case) > MAX_CHAIN_PAIRS
                          or case.batch * case.n * case.heads * case.head_dim > 3 * MAX_ELEMENTS):
        case.batch, case.lengths, case.masked, case.shared_kv = 1, None, None, False
        case.n = case.n * 4 // 5
    draw_tiles(case, rng)
    return fill(case, rng)


def flat_tile_case(rng, name):
    """Patterns without dilation, and tiles of so many tokens that they are whole panels of keys."""
    case = tile_case(rng, name)
    case.batch, case.heads, case.kv_heads = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 2, 2)][int(rng.integers(4))]
    case.n, case.head_dim = int(rng.integers(65, 220)), int(rng.choice([1, 8, 16, 19, 32]))
    case.rates = [1] * len(case.segments)
    if rng.random() < 0.5:
        case.segments[-1] = case.n
    case.lengths, case.masked, case.shared_kv = None, None, False
    if rng.random() < 0.3:
        case.lengths = [int(rng.integers(0, case.n + 1)) for _ in range(case.batch)]
    if rng.random() < 0.3:
        case.masked = rng.random((case.batch, case.n)) < 0.3
    draw_tiles(case, rng, FLAT_TILES)
    return fill(case, rng)


def large_tile_case(rng, name):
    case = large_case(rng, name)
    draw_tiles(case, rng)
    return case


def large_case(rng, name):
    n = int(round(2 ** rng.uniform(math.log2(300), math.log2(3000))))
    heads, kv_heads = draw_heads(rng)
    batch, head_dim = int(rng.choice([1, 1, 2])), draw_head_dim(rng)
    while batch * n * heads * head_dim > MAX_LARGE_ELEMENTS:
        if heads > 2:
            heads = kv_heads = heads // 2
        elif batch > 1 or heads > 1:
            batch = heads = kv_heads = 1
        elif head_dim > 64:
            head_dim //= 2
        else:
            n //= 2
    if rng.random() < 0.6:
        segments, rates = draw_chain(rng, n)
    else:
        kind = str(rng.choice(["nested", "not_nested", "single", "five", "huge", "coarse"]))
        segments, rates = draw_patterns(rng, n, kind, longest=int(rng.choice([n // 8, n // 3, n + 50])))
    case = Case(name, draw_value_type(rng), batch, n, heads, kv_heads, head_dim, segments, rates)
    draw_options(case, rng)
    return fill(case, rng)


# Every option alone, over a plain problem, and what deserves a case of its own. Values are Case fields.
ALONE = [
    {}, {"causal": True}, {"window": 0}, {"window": 3}, {"window": 1000}, {"window": 5, "causal": True},
    {"scale": 0.0}, {"scale": -0.4}, {"scale": 60.0}, {"scale": 0.25}, {"mixing": "head_groups"},
    {"offset_rule": "block"}, {"tail_rule": "zero_pad"}, {"overlap": "once"},
    {"offset_rule": "block", "tail_rule": "zero_pad"}, {"kv_heads": 1}, {"kv_heads": 2}, {"batch": 3},
    {"batch": 3, "shared_kv": True}, {"batch": 2, "lengths": [0, 1]}, {"batch": 3, "lengths": [0, 5, 19]},
    {"lengths": [0]}, {"lengths": [0], "tail_rule": "zero_pad"}, {"masked": 0.5}, {"masked": 1.0},
    {"masked": 0.3, "lengths": [11]}, {"n": 1}, {"n": 1, "causal": True}, {"n": 1, "tail_rule": "zero_pad"}, {"n": 2},
    {"n": 5, "segments": [64, 128], "rates": [1, 2]}, {"segments": [1 << 40], "rates": [1]},
    {"segments": [1 << 40], "rates": [1 << 40]}, {"segments": [1 << 40, 4], "rates": [5, 1], "tail_rule": "zero_pad"},
    {"segments": [1], "rates": [1]}, {"segments": [5], "rates": [5]}, {"segments": [7, 7], "rates": [7, 1]},
    {"segments": [8, 16], "rates": [2, 4]}, {"segments": [10, 15, 40], "rates": [1, 3, 7]},
    {"segments": [9, 13], "rates": [4, 6], "tail_rule": "zero_pad"}, {"segments": [16, 19], "rates": [9, 16]},
    {"segments": [8, 8], "rates": [1, 1]}, {"segments": [8, 8], "rates": [1, 1], "overlap": "once"},
    {"segments": [2, 4, 8, 16, 32], "rates": [1, 2, 4, 8, 16]},
    {"segments": [2, 3, 5, 7, 11], "rates": [1, 1, 2, 3, 5], "mixing": "head_groups", "heads": 2, "kv_heads": 2},
    {"segments": [2, 4, 8, 16], "rates": [2, 4, 8, 16], "mixing": "head_groups", "heads": 6, "kv_heads": 2},
    {"heads": 1, "kv_heads": 1, "segments": [16], "rates": [8]}, {"heads": 7, "kv_heads": 7, "offset_rule": "block"},
    {"heads": 5, "kv_heads": 1, "offset_rule": "block", "segments": [12, 20], "rates": [3, 9]},
    {"n": 70, "heads": 1, "kv_heads": 1},
]


def alone_case(rng, name, fields, value_type, head_dim):
    fields = dict(fields)
    case = Case(name, value_type, fields.pop("batch", 1), fields.pop("n", 21), fields.pop("heads", 4),
                fields.pop("kv_heads", 4), head_dim, fields.pop("segments", [4, 8, 16]),
                fields.pop("rates", [1, 2, 4]))
    share = fields.pop("masked", None)
    for key, value in fields.items():
        setattr(case, key, value)
    if share is not None:
        case.masked = rng.random((case.batch, case.n)) < share
    return fill(case, rng)


def golden_cases():
    described = json.loads((REFERENCE / "golden" / "cases.json").read_text())
    for name, options in described.items():
        q, k, v = (np.load(REFERENCE / "golden" / name / f"{x}.npy").astype(np.float64) for x in "qkv")
        options = dict(options)
        lengths = options.pop("key_padding", None)
        case = Case(f"golden {name}", "f32", *q.shape[:3], k.shape[2], q.shape[3], options.pop("segment_lengths"),
                    options.pop("dilation_rates"), lengths=lengths, **options)
        case.q, case.k, case.v = q, k, v
        yield case


def jobs():
    """What there is to make: (kind, number, further arguments)."""
    todo = [("golden", number, ()) for number in range(len(json.loads(
        (REFERENCE / "golden" / "cases.json").read_text())))]
    for value_type, head_dim in [("f32", 8), ("f32", 17), ("f64", 5), ("bf16", 16), ("f16", 33), ("bf16", 7),
                                 ("f16", 64)]:
        todo += [("alone", number, (number % len(ALONE), value_type, head_dim)) for number in range(len(ALONE))]
    todo += [("head_dim", head_dim, (index % 3, value_type, head_dim)) for head_dim in HEAD_DIMS
             for index, value_type in enumerate(VALUE_TYPES)]
    todo += [("random", number, ()) for number in range(RANDOM_CASES)]
    todo += [("chain", number, ()) for number in range(CHAIN_CASES)]
    todo += [("large", number, ()) for number in range(LARGE_CASES)]
    todo += [("tiles", number, ()) for number in range(TILE_CASES)]
    todo += [("large tiles", number, ()) for number in range(LARGE_TILE_CASES)]
    todo += [("flat tiles", number, ()) for number in range(FLAT_TILE_CASES)]
    return [(index, *job) for index, job in enumerate(todo)]


def make(job):
    """The packed record of a job, and what it covers."""
    index, kind, number, arguments = job
    rng = np.random.default_rng([SEED, index])
    if kind == "golden":
        case = list(golden_cases())[number]
    elif kind == "random":
        case = random_case(rng, f"random {number}")
    elif kind == "chain":
        case = chain_case(rng, f"chain {number}")
    elif kind == "large":
        case = large_case(rng, f"large {number}")
    elif kind == "tiles":
        case = tile_case(rng, f"tiles {number}")
    elif kind == "large tiles":
        case = large_tile_case(rng, f"large tiles {number}")
    elif kind == "flat tiles":
        case = flat_tile_case(rng, f"flat tiles {number}")
    else:
        which, value_type, head_dim = arguments
        name = f"{kind} {number} {value_type}"
        case = alone_case(rng, name, ALONE[which], value_type, head_dim)
    rows = sampled_rows(case, rng) if kind.startswith("large") else all_rows(case)
    if kind == "golden":
        check_golden(case, rows)
    return pack(case, rows), covered(case)


def check_golden(case, rows):
    folder = REFERENCE / "golden" / case.name.split()[1]
    out, lse = np.load(folder / "out.npy"), np.load(folder / "lse.npy")
    for row in rows:
        if not (np.allclose(row.out, out[row.b, row.i, row.h], rtol=1e-12, atol=1e-12)
                and np.allclose(row.lse, lse[row.b, row.i, row.h], rtol=1e-12, atol=1e-12)):
            raise AssertionError(f"{case.name}: the reference no longer gives the stored golden result")


# ---- the file ------------------------------------------------------------------------------------------------------

def padded_to_8(data):
    return data + bytes(-len(data) % 8)


def pack(case, rows):
    flags = [case.causal, -1 if case.window is None else case.window, case.mixing == "head_groups",
             case.offset_rule == "block", case.tail_rule == "zero_pad", case.overlap == "once",
             case.scale is not None, case.lengths is not None, case.masked is not None, case.shared_kv, case.tile_block,
             *((0, 0) if case.kept is None else case.kept.shape[:2])]
    fields = [VALUE_TYPES[case.value_type], case.batch, case.n, case.heads, case.kv_heads, case.head_dim,
              len(case.segments), *map(int, flags), len(rows)]
    body = struct.pack(f"<{len(fields)}q", *fields)
    body += struct.pack("<d", 0.0 if case.scale is None else case.scale)
    body += case.name.encode().ljust(40, b"\0")[:40]
    body += struct.pack(f"<{2 * len(case.segments)}q", *case.segments, *case.rates)
    if case.lengths is not None:
        body += struct.pack(f"<{case.batch}q", *case.lengths)
    if case.masked is not None:
        body += padded_to_8(case.masked.astype(np.uint8).tobytes())
    if case.kept is not None:
        body += padded_to_8(case.kept.astype(np.uint8).tobytes())
    for x in (case.q, case.k, case.v):
        body += padded_to_8(encode(x, case.value_type))
    for row in rows:
        body += struct.pack("<8q", row.b, row.i, row.h, row.counted, row.distinct, row.positions, row.squares,
                            row.terms)
        body += struct.pack("<5d", row.largest_score, row.mean_score, row.spread, row.mean_value, row.lse)
        body += row.out.astype("<f8").tobytes()
    return struct.pack("<q", 8 + len(body)) + body


def is_flat(case):
    return case.tile_block in FLAT_TILES and all(rate == 1 for rate in case.rates) and case.n > case.tile_block


def covered(case):
    """Names of what a case exercises."""
    names = {f"type {case.value_type}", f"head_dim {case.head_dim}", f"batch {case.batch}", case.mixing,
             case.offset_rule, case.tail_rule, case.overlap, f"{len(case.segments)} patterns"}
    pairs = list(zip(case.segments, case.rates))
    padded = case.padding()
    facts = {
        "causal": case.causal, "window 0": case.window == 0, "window > n": (case.window or 0) > case.n,
        "scale 0": case.scale == 0, "negative scale": (case.scale or 0) < 0, "large scale": case.scale == 60,
        "lengths": case.lengths is not None, "key mask": case.masked is not None, "grouped": case.kv_heads < case.heads,
        "one kv head": case.kv_heads == 1 < case.heads, "shared kv": case.shared_kv, "n = 1": case.n == 1,
        "all padded": padded is not None and padded.all(axis=1).any(), "garbage": bool(np.isnan(case.k).any()),
        "n < segment": case.n < min(case.segments), "rate > heads": max(case.rates) > case.heads,
        "rate = segment": any(w == r > 1 for w, r in pairs), "ragged rate": any(w % r for w, r in pairs),
        "not nested": any(b % a for a, b in zip(sorted(case.segments), sorted(case.segments)[1:])),
        "huge segment": max(case.segments) >= 1 << 40, "pattern twice": len(set(pairs)) < len(pairs),
        "more groups than heads": case.mixing == "head_groups" and len(pairs) > case.heads,
        "sharable": min(case.segments) >= 32 * max(case.rates) and len(pairs) > 1
        and not any(b % a for a, b in zip(sorted(case.rates), sorted(case.rates)[1:])),
        "tiles": case.tile_block > 0, "tiles, causal": case.tile_block > 0 and case.causal,
        "tiles, grouped": case.tile_block > 0 and case.kv_heads < case.heads,
        "tiles, padding": case.tile_block > 0 and padded is not None,
        "flat tiles": is_flat(case), "flat tiles, padding": is_flat(case) and padded is not None,
        "flat tiles, a window": is_flat(case) and case.window is not None,
        "flat tiles, causal": is_flat(case) and case.causal, "flat tiles, grouped": is_flat(case) and case.kv_heads < case.heads,
        "flat tiles across segments": is_flat(case) and any(s % case.tile_block and s < case.n for s in case.segments),
        "tiles, zero_pad": case.tile_block > 0 and case.tail_rule == "zero_pad",
        "tiles, head_groups": case.tile_block > 0 and case.mixing == "head_groups",
        "tiles of each batch element": case.tile_block > 0 and len(case.kept) > 1,
        "a row without tiles": case.tile_block > 0 and not case.kept.any(axis=3).all(),
        "many tiles of a row": case.tile_block > 0 and case.kept.shape[3] > 8,
        "large values": float(np.nanmax(np.abs(np.where(np.isfinite(case.v), case.v, 0)))) > 1000,
    }
    return names | {name for name, holds in facts.items() if holds}


TILES = ["flat tiles", "flat tiles, padding", "flat tiles, a window", "flat tiles, causal", "flat tiles, grouped",
         "flat tiles across segments", "tiles", "tiles, causal", "tiles, grouped", "tiles, padding", "tiles, zero_pad", "tiles, head_groups",
         "tiles of each batch element", "a row without tiles", "many tiles of a row"]
REQUIRED = [f"type {t}" for t in VALUE_TYPES] + [f"head_dim {d}" for d in HEAD_DIMS] + [
    "batch 1", "batch 2", "batch 3", "longnet", "head_groups", "mod", "block", "mask", "zero_pad", "count", "once",
    "1 patterns", "5 patterns", "causal", "window 0", "window > n", "scale 0", "negative scale", "large scale",
    "lengths", "key mask", "grouped", "one kv head", "shared kv", "n = 1", "all padded", "garbage", "n < segment",
    "rate > heads", "rate = segment", "ragged rate", "not nested", "huge segment", "pattern twice",
    "more groups than heads", "large values", "sharable", *TILES]


def write(todo, make_one, required, about):
    """Makes all cases and writes the file that the command line names, if enough cases cover each of `required`."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    temporary = arguments.output.with_suffix(".part")
    coverage = Counter()
    with multiprocessing.Pool(arguments.processes) as pool, temporary.open("wb") as file:
        file.write(MAGIC + struct.pack("<q", len(todo)))
        for record, names in pool.imap(make_one, todo, chunksize=8):
            file.write(record)
            coverage.update(names)
    missing = [name for name in required if coverage[name] < LEAST_COVERAGE]
    if missing:
        raise SystemExit(f"fewer than {LEAST_COVERAGE} cases cover each of: {', '.join(missing)}")
    os.replace(temporary, arguments.output)
    print(f"{len(todo)} cases, {arguments.output.stat().st_size >> 20} MiB")


if __name__ == "__main__":
    write(jobs(), make, REQUIRED, __doc__)
