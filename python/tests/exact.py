"""Problems with their exact results, drawn as for the C tests, and the bounds of tests/tolerances.md."""

import math

import dilated_attention_pytorch
import generate_cases
import generate_gradient_cases as gradient_cases
import numpy as np

ROUNDOFF = {"f32": 2.0**-24, "f64": 2.0**-53, "bf16": 2.0**-8, "f16": 2.0**-11}
TINY = {"f32": 2.0**-126, "f64": 2.0**-1022, "bf16": 2.0**-126, "f16": 2.0**-24}
# These instruction sets round the weights of bf16 tensors to bf16.
ROUNDS_WEIGHTS = dilated_attention_pytorch._core.hardware()["isa"] in ("avx512_bf16", "amx_bf16")


def alone(fields, value_type, head_dim, seed=0):
    """A plain problem but for `fields`."""
    rng = np.random.default_rng([20, seed])
    return generate_cases.alone_case(rng, f"{fields}", fields, value_type, head_dim)


# Those that key_lengths can say; masks are for the modules.
ALONE = [fields for fields in generate_cases.ALONE if "masked" not in fields]


def random_case(seed):
    """Anything, without a mask."""
    rng = np.random.default_rng([21, seed])
    while True:
        case = generate_cases.random_case(rng, f"random {seed}")
        if case.masked is None:
            return case


def options(case):
    """The case's options as `dilated_attention` names them."""
    chosen = dict(is_causal=case.causal, softmax_scale=case.scale, window=case.window, mixing=case.mixing)
    chosen.update(offset_rule=case.offset_rule, tail_rule=case.tail_rule, overlap=case.overlap)
    return dict(chosen, key_lengths=None if case.lengths is None else np.array(case.lengths))


def _in_precision(row, head_dim, u):
    """tests/tolerances.md, 1. to 4.: the errors of out and lse when sums have the roundoff u."""
    score, total = (head_dim + 8) * u, (2 * math.sqrt(row.terms) + 8) * u
    higher_orders = math.exp(2 * score * row.largest_score)
    lse = higher_orders * (score * row.mean_score + total) + 4 * u * (abs(row.lse) + row.largest_score)
    return higher_orders * (score * row.spread + total * row.mean_value), lse


def check_forward(case, rows, out, lse):
    """Every query within its bound: out (batch, n, heads, head_dim) and lse (batch, n, heads) as float64."""
    value_type = case.value_type
    sums, lse_type = ("f64", "f64") if value_type == "f64" else ("f32", "f32")
    for row in rows:
        got, got_lse = out[row.b, row.i, row.h], lse[row.b, row.i, row.h]
        if not row.terms:
            assert (got == 0).all() and got_lse == -math.inf
            continue
        tested, reference = (_in_precision(row, case.head_dim, ROUNDOFF[t]) for t in (sums, "f64"))
        bound = tested[0] + reference[0]
        if value_type == "bf16" and ROUNDS_WEIGHTS:
            bound += ROUNDOFF["bf16"] * row.mean_value
        bound = bound * (1 + ROUNDOFF[value_type]) + ROUNDOFF[value_type] * np.abs(row.out) + TINY[value_type]
        assert (np.abs(got - row.out) <= bound).all(), f"{case}: out of {row.b, row.i, row.h}"
        lse_bound = tested[1] + reference[1] + ROUNDOFF[lse_type] * abs(row.lse) + TINY[lse_type]
        assert abs(got_lse - row.lse) <= lse_bound, f"{case}: lse of {row.b, row.i, row.h}"


def _gradient_in_precision(rows, head_dim, sums, stored, lse, weights):
    u = ROUNDOFF[sums]
    product = (head_dim + 8) * u
    total, softmax = ((2 * np.sqrt(terms) + 8) * u for terms in (rows.terms, rows.softmax_terms))
    figure = {name: values.max(-1) for name, values in rows.sums.items()}
    higher_orders = np.exp((2 * product + 8 * u + lse) * rows.largest)
    return (
        higher_orders
        * (
            (total + softmax + weights) * figure["magnitude"]
            + product * figure["products"]
            + (softmax + weights) * figure["softmax"]
            + stored * figure["stored"]
            + (4 * u + lse) * figure["lse"]
        )
        + TINY[sums] * figure["unit"]
    )


def check_gradient(case, rows, got):
    """tests/tolerances.md, Gradients: every row of one gradient within its bound."""
    value_type = case.value_type
    sums = "f64" if value_type == "f64" else "f32"
    u, exact = ROUNDOFF[value_type], ROUNDOFF["f64"]
    weights = ROUNDOFF["bf16"] if value_type == "bf16" and ROUNDS_WEIGHTS else 0
    bound = _gradient_in_precision(rows, case.head_dim, sums, u, ROUNDOFF[sums], weights)
    bound = bound + _gradient_in_precision(rows, case.head_dim, "f64", exact, exact, 0)
    bound = bound + TINY[value_type] * rows.sums["grad_out"].max(-1)
    bound = np.where(rows.terms > 0, bound, 0)[..., None]
    stored = bound * (1 + u) + u * np.abs(rows.exact) + TINY[value_type]
    assert (np.abs(got - rows.exact) <= np.where(bound > 0, stored, 0)).all(), f"{case}"


def with_gradients(case, seed, dropout=0.0, with_lse=True):
    """(given, (rows of query, key, value), rows of the forward pass) of a backward pass."""
    given = gradient_cases.draw_given(case, np.random.default_rng([22, seed]), dropout, with_lse)
    return given, *gradient_cases.solve(case, given)
