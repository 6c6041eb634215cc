"""Write the cases that test_longnet_compare reads: python generate_longnet_cases.py OUTPUT [--processes N]

Every case is a small language model with its exact loss and gradients, computed by tests/reference/longnet_reference.py in
float64 on parameters that were rounded to the case's data type first, and what rounding may make of them (../tolerances.md,
"The language model"). The output depends on nothing but this file, the reference and what they import; longnet_cases.h
describes the format.
"""
from __future__ import annotations

import math
import pathlib
import struct
import sys
from dataclasses import dataclass, replace

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "multihead"), str(TESTS / "reference")]
from generate_multihead_cases import UNIT, VALUE_TYPES, array, draw_module, module_words, noise_at, rounded, write  # noqa: E402

import numpy as np  # noqa: E402

from longnet_reference import Model, backward, forward  # noqa: E402
from multihead_reference import Module  # noqa: E402

SEED = 20230707
RANDOM_CASES = {"f32": 40, "f64": 40}
LEAST_COVERAGE = 8
SAMPLES, LARGE_SAMPLES, LARGE = 6, 2, 1000
MAGIC = b"DALNGNT1"
NAME = 64


@dataclass
class Case:
    name: str
    value_type: str
    model: Model
    tokens: np.ndarray
    targets: np.ndarray


# ---- drawing -------------------------------------------------------------------------------------------------------

def fill(name, value_type, model, batch, n, rng):
    for parameter, shape in model.shapes().items():
        x = rng.standard_normal(shape)
        x = x / math.sqrt(shape[-1]) if len(shape) == 2 else x * 0.2 + (1 if "bias" not in parameter else 0)
        model.weights[parameter] = rounded(x, value_type)
    tokens, targets = (rng.integers(0, model.vocabulary, (batch, n)) for _ in range(2))
    targets[rng.random((batch, n)) < 0.2] = -1
    targets[0, 0] = 0  # one at least
    return Case(name, value_type, model, tokens, targets)


def random_case(number, value_type):
    rng = np.random.default_rng([SEED, number, VALUE_TYPES[value_type]])
    n = int(rng.integers(1, 27))
    module = replace(draw_module(rng, n), causal=True)
    model = Model(int(rng.integers(2, 41)), int(rng.integers(1, 4)), int(rng.integers(1, 70)), module,
                  activation=str(rng.choice(["gelu", "relu"])), tied=bool(rng.random() < 0.5),
                  norm_eps=float(rng.choice([1e-5, 1e-3])))
    return fill(f"{value_type}-{number}", value_type, model, int(rng.integers(1, 4)), n, rng)


def large_cases():
    """Sequences beyond the library's blocks and chunks of rows, words and inner features beyond a block of features."""
    rng = np.random.default_rng([SEED, 1])
    common = dict(causal=True, position="rope")
    long = dict(segments=[256, 1024, 5120], rates=[1, 3, 10])
    return [
        fill("rows-5000", "f64", Model(256, 1, 24, Module(12, 2, 1, **long, **common)), 1, 5000, rng),
        fill("rows-5003", "f32", Model(256, 1, 24, Module(12, 2, 2, **long, **common)), 1, 5003, rng),
        fill("rows-3x300", "f32", Model(50, 2, 300, Module(16, 2, 2, [64, 300], [1, 3], **common)), 3, 300, rng),
        fill("words-3000", "f64", Model(3000, 2, 260, Module(16, 2, 2, [64, 300], [1, 3], **common), tied=False), 2, 150, rng),
    ]


def check_coverage(cases):
    """Every value of every option in at least LEAST_COVERAGE cases."""
    seen = {}
    for case in cases:
        m = case.model.module
        values = {key: getattr(m, key) for key in ("bias", "layer_norm", "qk_layer_norm", "position", "mixing", "tail_rule",
                                                   "overlap")}
        values |= {key: getattr(case.model, key) for key in ("activation", "tied", "layers", "norm_eps")}
        values |= {"type": case.value_type, "dropout": m.dropout > 0, "window": m.window is not None,
                   "grouped": m.kv_heads < m.num_heads}
        for pair in values.items():
            seen[pair] = seen.get(pair, 0) + 1
    rare = {pair: count for pair, count in seen.items() if count < LEAST_COVERAGE}
    if rare or len(seen) < 32:
        raise AssertionError(f"options in too few cases: {rare}, {len(seen)}")


# ---- exact results and what rounding may make of them --------------------------------------------------------------

def tolerances_of(case, loss, grads):
    """As in generate_multihead_cases.py: three times what random roundings made of each at most, and its own rounding."""
    u, terms = UNIT[case.value_type], max(case.model.module.embed_dim, case.model.ffn_dim)
    noise = noise_at(np.random.default_rng([SEED, 2]), u, u, (2 * math.sqrt(terms) + 8) * u)
    exact, worst = grads | {"loss": np.array(loss)}, {}
    for _ in range(LARGE_SAMPLES if case.tokens.size > LARGE else SAMPLES):
        noisy_loss, t = forward(case.model, case.tokens, case.targets, noise)
        for name, value in (backward(case.model, t, noise) | {"loss": np.array(noisy_loss)}).items():
            worst[name] = max(worst.get(name, 0.0), float(abs(value - exact[name]).max()))
    rows = case.tokens.size
    return {name: 3 * worst[name] + (2 + 2 * math.sqrt(rows)) * u * float(abs(exact[name]).max()) + 1e-300 for name in exact}


def compute(case):
    """The case as bytes."""
    model, m = case.model, case.model.module
    loss, t = forward(model, case.tokens, case.targets)
    grads = backward(model, t)
    tolerances = tolerances_of(case, loss, grads)
    words = [VALUE_TYPES[case.value_type], *case.tokens.shape, model.vocabulary, model.layers, model.ffn_dim,
             ["gelu", "relu"].index(model.activation), model.tied]
    options, patterns, numbers = module_words(m)
    words += options + patterns
    body = case.name.encode().ljust(NAME, b"\0") + struct.pack(f"<{len(words)}q", *map(int, words))
    body += array(numbers) + array([model.norm_eps, loss, tolerances["loss"]]) + array(case.tokens) + array(case.targets)
    body += struct.pack("<q", len(model.weights))
    for name, value in model.weights.items():
        body += name.encode().ljust(NAME, b"\0") + array(value) + array(grads[name]) + array([tolerances[name]])
    return body


def main():
    cases = large_cases() + [random_case(k, kind) for kind, count in RANDOM_CASES.items() for k in range(count)]
    check_coverage(cases)
    write(cases, compute, MAGIC, __doc__)


if __name__ == "__main__":
    main()
