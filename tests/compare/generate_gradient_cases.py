"""Write the cases that test_gradient reads: python generate_gradient_cases.py OUTPUT [--processes N]

Problems are drawn as those of generate_cases.py, then gradients of the output and of the logsumexp, and dropout. The exact
results come from tests/reference/dilated_attention_gradient.py. gradient_file.h describes the format, ../tolerances.md the
figures of which bounds are made.
"""
from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import generate_cases as cases
import numpy as np  # after generate_cases, which sets the number of its threads
from dilated_attention_gradient import head_passes

SEED = 22051413
RANDOM_CASES = 760
CHAIN_CASES = 60
LARGE_CASES = 70
TILE_CASES = 260
LARGE_TILE_CASES = 40
FLAT_TILE_CASES = 110
MAX_ELEMENTS = 4000
MAX_LARGE_ELEMENTS = 14000
MAX_LARGE_N = 900
# Gradients are products of three tensors, which overflow before the tensors do.
LARGEST_VALUE_EXPONENT = 40
LARGEST_F16_GRADIENT = 2.0 ** 14


@dataclass
class Given:
    """What a backward pass has beside the case's tensors."""
    grad_out: np.ndarray
    grad_lse: np.ndarray | None
    dropout: float
    seed: int


def draw_given(case, rng, dropout, with_lse):
    factor = 1.0 if rng.random() < 0.85 else 2.0 ** rng.integers(-6, 7)
    grad_out = cases.rounded(rng.standard_normal(case.q.shape), case.value_type) * factor
    grad_lse = None
    if with_lse:  # every data type of a logsumexp can hold these
        grad_lse = rng.standard_normal(case.q.shape[:3]).astype(np.float32).astype(np.float64) * factor
    return Given(cases.rounded(grad_out, case.value_type), grad_lse, dropout, int(rng.integers(1 << 63)) * 2 + 1)


def draw_dropout(rng):
    return float(rng.choice([0.1, 0.25, 0.5, 0.9, 1 - 2.0 ** -12])) if rng.random() < 0.4 else 0.0


# ---- exact results and the figures of their bounds -------------------------------------------------------------------

# Sums over the pairs of a row of a gradient, by component; the file has the largest over the components.
SUMS = ("magnitude", "products", "softmax", "stored", "grad_out", "lse", "unit")


class GradientRows:
    """One gradient by row (b, i or j, h or kv_head): exact result, figures of its bound, numbers of terms."""

    def __init__(self, shape):
        self.exact = np.zeros(shape)
        self.sums = {name: np.zeros(shape) for name in SUMS}
        self.largest = np.zeros(shape[:3])                  # of the scores' sizes and |lse| that it depends on
        self.terms = np.zeros(shape[:3], np.int64)          # pairs in its sum
        self.softmax_terms = np.zeros(shape[:3], np.int64)  # of the longest softmax that it depends on

    def add(self, at, pairs, x, exact):
        """Adds one head's share. pairs: coefficients' sizes by name, (rows, terms); x: (terms, head_dim)."""
        self.exact[at] += exact
        for name in SUMS:
            if name in pairs.sizes:
                self.sums[name][at] += pairs.sizes[name] @ np.abs(x)
        self.largest[at] = np.maximum(self.largest[at], pairs.largest)
        self.softmax_terms[at] = np.maximum(self.softmax_terms[at], pairs.softmax_terms)
        self.terms[at] += pairs.terms


@dataclass
class PairSizes:
    """Sizes of the coefficients of a gradient's rows, and what their errors depend on."""
    sizes: dict
    largest: np.ndarray
    softmax_terms: np.ndarray
    terms: np.ndarray


def pair_sizes(sizes, of_query, seen, transpose):
    """The sizes for gradients by query, or transposed for those by key."""
    largest, softmax_terms = (np.where(seen, of_query[name][:, None], 0) for name in ("largest", "terms"))
    turn = np.transpose if transpose else np.asarray
    return PairSizes({name: turn(size) for name, size in sizes.items()}, turn(largest).max(1),
                     turn(softmax_terms).max(1), turn(seen).sum(1))


def query_sizes(v, head, score, grad_out, grad_lse):
    """By query: what the errors of its own numbers are made of."""
    seen, weighted = head.c > 0, head.p * score
    spread, mean_value = np.zeros(len(v)), np.zeros(len(v))
    for c in range(v.shape[1]):  # a zero key's score is exact, and its value 0
        spread = np.maximum(spread, (weighted * np.abs(head.m * v[:, c] - head.out[:, c, None])).sum(1))
        mean_value = np.maximum(mean_value, (head.p * head.m) @ np.abs(v[:, c]))
    lse = np.where(np.isinf(head.lse), 0, np.abs(head.lse))
    largest_score = np.where(seen, score, 0).max(1)
    return {
        "mean_score": weighted.sum(1), "spread": spread, "mean_value": mean_value, "lse": lse,
        "largest_score": largest_score, "largest": np.maximum(largest_score, lse),
        "terms": seen.sum(1) + head.zeros.astype(np.int64), "grad_lse": np.abs(grad_lse),
        "grad_out": np.abs(grad_out).sum(1), "out_product": (np.abs(grad_out) * np.abs(head.out)).sum(1),
    }


def coefficient_sizes(head, of_query, score, v, grad_out):
    """Sizes of the coefficients p_ij m_ij / g and ds_ij of all pairs, by figure."""
    column = {name: size[:, None] for name, size in of_query.items()}
    dp = head.m * (np.abs(grad_out) @ np.abs(v).T)
    weight, ds = head.p * head.m, np.abs(head.ds)
    scores, lse = score + column["mean_score"], column["lse"] + column["largest"]
    return {"magnitude": weight, "products": weight * scores, "lse": weight * lse, "unit": head.c * head.m}, {
        "magnitude": ds,
        "products": ds * scores + head.p * (dp + column["out_product"] + column["grad_lse"]
                                            + column["grad_out"] * column["spread"]),
        "softmax": head.p * column["grad_out"] * column["mean_value"],
        "stored": head.p * column["out_product"],
        "grad_out": head.p * column["grad_out"],
        "lse": ds * lse,
        "unit": head.c * (dp + column["out_product"] + column["grad_lse"]),
    }


def forward_rows(b, h, head, of_query):
    names = ("largest_score", "mean_score", "spread", "mean_value", "terms")
    return [cases.Row(b, i, h, lse=head.lse[i], out=head.out[i], **{name: of_query[name][i] for name in names})
            for i in range(len(head.lse))]


def exact_results(case, given):
    """The three gradients and the rows of the forward pass, with dropout."""
    scale = 1 / math.sqrt(case.head_dim) if case.scale is None else case.scale
    of_query, of_key, of_value = (GradientRows(x.shape) for x in (case.q, case.k, case.v))
    forward = []
    for b, h, kv, q, k, v, head in head_passes(
            case.q, case.k, case.v, case.segments, case.rates, given.grad_out, given.grad_lse,
            key_padding=case.padding(), dropout=given.dropout, seed=given.seed, **case.options()):
        grad_out, seen = given.grad_out[b, :, h], head.c > 0
        grad_lse = np.zeros(case.n) if given.grad_lse is None else given.grad_lse[b, :, h]
        score = np.abs(q) @ np.abs(k).T * abs(scale)
        sizes = query_sizes(v, head, score, grad_out, grad_lse)
        weight, ds = coefficient_sizes(head, sizes, score, v, grad_out)
        of_query.add(np.s_[b, :, h], pair_sizes(ds, sizes, seen, False), scale * k, scale * head.ds @ k)
        of_key.add(np.s_[b, :, kv], pair_sizes(ds, sizes, seen, True), scale * q, scale * head.ds.T @ q)
        of_value.add(np.s_[b, :, kv], pair_sizes(weight, sizes, seen, True), grad_out, (head.p * head.m).T @ grad_out)
        forward += forward_rows(b, h, head, sizes)
    return (of_query, of_key, of_value), forward


# ---- cases -----------------------------------------------------------------------------------------------------------

def keep_in_range(case):
    """Brings values into a range in which the products of a backward pass neither overflow nor vanish."""
    finite = np.abs(case.v[np.isfinite(case.v)])
    exponent = math.frexp(finite.max(initial=1.0))[1]
    if abs(exponent) > LARGEST_VALUE_EXPONENT:
        case.v = cases.rounded(case.v * 2.0 ** -exponent, case.value_type)


def solve(case, given):
    keep_in_range(case)
    gradients, forward = exact_results(case, given)
    largest = max(np.abs(rows.exact).max() for rows in gradients)
    if case.value_type == "f16" and largest > LARGEST_F16_GRADIENT:
        factor = 2.0 ** -math.ceil(math.log2(largest / LARGEST_F16_GRADIENT))
        given.grad_out = cases.rounded(given.grad_out * factor, "f16")
        given.grad_lse = None if given.grad_lse is None else given.grad_lse * factor
        gradients, forward = exact_results(case, given)
    return gradients, forward


def check_forward(case, forward):
    """The matrices behind the gradients must give what the reference gives, query by query."""
    for row, exact in zip(sorted(forward, key=lambda row: (row.b, row.i, row.h)), cases.all_rows(case)):
        slack = 1e-12 * (1 + exact.largest_score)
        if not (np.allclose(row.out, exact.out, rtol=0, atol=slack * (exact.mean_value + 1e-300))
                and (row.lse == exact.lse or abs(row.lse - exact.lse) <= slack * (1 + abs(exact.lse)))):
            raise AssertionError(f"{case}: query {row.b, row.i, row.h} differs from the reference")


def shrink(case, limit):
    """A smaller problem, where the tensors would be too large for the file."""
    while case.batch * case.n * case.heads * case.head_dim > limit:
        if case.batch > 1:
            case.batch, case.lengths, case.masked, case.shared_kv = 1, None, None, False
        else:
            case.n = max(1, case.n * 3 // 4)
            if case.n == 1:
                break
            case.lengths = None if case.lengths is None else [min(x, case.n) for x in case.lengths]
            case.masked = None if case.masked is None else case.masked[:, :case.n]
    return case


def large_case(rng, name):
    case = cases.large_case(rng, name)
    case.n = min(case.n, MAX_LARGE_N)
    case.lengths = None if case.lengths is None else [min(x, case.n) for x in case.lengths]
    case.masked = None if case.masked is None else case.masked[:, :case.n]
    return shrink(case, MAX_LARGE_ELEMENTS)


def tile_case(rng, name, large):
    case = large_case(rng, name) if large else shrink(cases.tile_case(rng, name), MAX_ELEMENTS)
    cases.draw_tiles(case, rng)  # once more: it may have shrunk
    return case


def flat_tile_case(rng, name):
    case = cases.flat_tile_case(rng, name)
    case.head_dim = min(case.head_dim, 8)
    return cases.fill(case, rng)


def jobs():
    todo = []
    for value_type, head_dim in [("f32", 8), ("f64", 5), ("bf16", 16), ("f16", 9)]:
        todo += [("alone", number, (value_type, head_dim)) for number in range(len(cases.ALONE))]
    todo += [("head_dim", head_dim, (value_type,)) for head_dim in cases.HEAD_DIMS
             for value_type in cases.VALUE_TYPES]
    todo += [("random", number, ()) for number in range(RANDOM_CASES)]
    todo += [("chain", number, ()) for number in range(CHAIN_CASES)]
    todo += [("large", number, ()) for number in range(LARGE_CASES)]
    todo += [("tiles", number, ()) for number in range(TILE_CASES)]
    todo += [("large tiles", number, ()) for number in range(LARGE_TILE_CASES)]
    todo += [("flat tiles", number, ()) for number in range(FLAT_TILE_CASES)]
    return [(index, *job) for index, job in enumerate(todo)]


def make(job):
    index, kind, number, arguments = job
    rng = np.random.default_rng([SEED, index])
    name = f"{kind} {number} {' '.join(map(str, arguments))}"
    dropout, with_lse = draw_dropout(rng), rng.random() < 0.6
    if kind == "random":
        case = shrink(cases.random_case(rng, name), MAX_ELEMENTS)
    elif kind == "chain":
        case = shrink(cases.chain_case(rng, name), MAX_ELEMENTS)
    elif kind == "large":
        case = large_case(rng, name)
    elif kind in ("tiles", "large tiles"):
        case = tile_case(rng, name, kind == "large tiles")
    elif kind == "flat tiles":
        case = flat_tile_case(rng, name)
    elif kind == "head_dim":
        case = cases.alone_case(rng, name, {"n": 13, "heads": 2, "kv_heads": 1, "causal": bool(number % 2)},
                                arguments[0], number)
    else:
        case = cases.alone_case(rng, name, cases.ALONE[number], *arguments)
        dropout, with_lse = dropout if number % 3 == 0 else 0.0, number % 2 == 0
    if case.q.shape != (case.batch, case.n, case.heads, case.head_dim):
        cases.fill(case, rng)  # it shrank
    given = draw_given(case, rng, dropout, with_lse)
    gradients, forward = solve(case, given)
    if index % 8 == 0 and dropout == 0 and not kind.startswith("large"):
        check_forward(case, forward)
    return pack(case, given, gradients, forward), covered(case, given, forward)


# ---- the file --------------------------------------------------------------------------------------------------------

def pack_rows(rows):
    figures = [rows.sums[name].max(-1) for name in SUMS] + [rows.largest]
    integers = np.stack([rows.terms, rows.softmax_terms], -1).astype("<i8").view("<f8")
    return np.concatenate([integers, np.stack(figures, -1), rows.exact], -1).astype("<f8").tobytes()


def pack(case, given, gradients, forward):
    body = cases.pack(case, forward)[8:]
    body += struct.pack("<dQq", given.dropout, given.seed, given.grad_lse is not None)
    body += cases.padded_to_8(cases.encode(given.grad_out, case.value_type))
    if given.grad_lse is not None:
        body += given.grad_lse.astype("<f8").tobytes()
    body += b"".join(pack_rows(rows) for rows in gradients)
    return struct.pack("<q", 8 + len(body)) + body


def covered(case, given, forward):
    names = cases.covered(case)
    dropout = given.dropout > 0
    grouped = case.kv_heads < case.heads
    facts = {
        "dropout": dropout, "nearly all dropped": given.dropout > 0.99, "grad_lse": given.grad_lse is not None,
        "no grad_lse": given.grad_lse is None, "a query without keys": any(row.terms == 0 for row in forward),
        "dropout, causal": dropout and case.causal, "dropout, grouped": dropout and grouped,
        "dropout, padding": dropout and case.padding() is not None, "dropout, once": dropout and case.overlap == "once",
        "dropout, head_groups": dropout and case.mixing == "head_groups",
        "grad_lse, zero_pad": given.grad_lse is not None and case.tail_rule == "zero_pad",
        "window, causal": case.window is not None and case.causal and case.window < case.n,
        "window, grouped": case.window is not None and grouped, "many units": case.n > 300,
        "tiles, dropout": dropout and case.tile_block > 0,
    }
    return names | {name for name, holds in facts.items() if holds}


REQUIRED = [name for name in cases.REQUIRED if not name.startswith("head_dim")] + [
    "dropout", "nearly all dropped", "grad_lse", "no grad_lse", "a query without keys", "dropout, causal",
    "dropout, grouped", "dropout, padding", "dropout, once", "dropout, head_groups", "grad_lse, zero_pad",
    "window, causal", "window, grouped", "many units", "tiles, dropout"]


if __name__ == "__main__":
    cases.write(jobs(), make, REQUIRED, __doc__)
