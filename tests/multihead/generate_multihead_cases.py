"""Write the cases that test_multihead_compare reads: python generate_multihead_cases.py OUTPUT [--processes N]

Every case is a small module with its exact output and gradients, computed by tests/reference/multihead_reference.py in
float64 on inputs and parameters that were rounded to the case's data type first, and what rounding may make of them
(../tolerances.md, "The module"). The output depends on nothing but this file, the reference and ../compare/generate_cases.py;
case_file.h describes the format.
"""
from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import pathlib
import struct
import sys
from dataclasses import dataclass, field

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
sys.dont_write_bytecode = True

import numpy as np  # noqa: E402

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "reference"), str(TESTS / "compare")]
from dilated_attention_reference import dilated_attention  # noqa: E402
from generate_cases import VALUE_TYPES, draw_patterns, padding, rounded  # noqa: E402
from multihead_reference import Module, backward, forward, forward_bound  # noqa: E402

SEED = 20230706
RANDOM_CASES = {"f32": 130, "f64": 110, "bf16": 60, "f16": 60}
LEAST_COVERAGE = 12
SAMPLES = 6
MAGIC = b"DAMULTI1"
UNIT = {"f32": 2.0**-24, "f64": 2.0**-53, "bf16": 2.0**-8, "f16": 2.0**-11}
POSITIONS = ["none", "rope", "xpos"]
# Which inputs are one: all three; key and value; query and value; none.
INPUTS = {"one": (0, 0, 0), "key_is_value": (0, 1, 1), "query_is_value": (0, 1, 0), "three": (0, 1, 2)}


@dataclass
class Case:
    name: str
    value_type: str
    module: Module
    batch: int
    n: int
    inputs: str = "one"
    lengths: list | None = None
    masked: np.ndarray | None = None
    arrays: dict = field(default_factory=dict)

    def padding(self):
        return padding(self.batch, self.n, self.lengths, self.masked)


# ---- drawing -------------------------------------------------------------------------------------------------------

def fill(case, rng):
    m, kind = case.module, case.value_type
    for name, shape in m.shapes().items():
        x = rng.standard_normal(shape)
        if len(shape) == 2:
            x /= math.sqrt(m.embed_dim)
        else:
            x = x * 0.2 + (1 if "bias" not in name else 0)
        m.weights[name] = rounded(x, kind)
    distinct = [rounded(rng.standard_normal((case.batch, case.n, m.embed_dim)), kind) for _ in range(3)]
    case.arrays["inputs"] = [distinct[k] for k in INPUTS[case.inputs]]
    case.arrays["grad_out"] = rounded(rng.standard_normal(distinct[0].shape), kind)
    return case


def draw_module(rng, n):
    kv_heads, share = int(rng.choice([1, 1, 2, 3, 4])), int(rng.choice([1, 1, 1, 2, 3]))
    heads = kv_heads * share
    position = str(rng.choice(POSITIONS))
    head_dim = int(rng.choice([2, 4, 6, 8, 16])) if position != "none" else int(rng.choice([1, 2, 3, 4, 5, 8, 16]))
    while heads * head_dim > 64:
        head_dim = max(2, head_dim // 2 // 2 * 2)
    segments, rates = draw_patterns(rng, n)
    return Module(
        heads * head_dim, heads, kv_heads, segments, rates,
        bias=bool(rng.random() < 0.7), layer_norm=bool(rng.random() < 0.6), qk_layer_norm=bool(rng.random() < 0.4),
        position=position, rotary_layout=str(rng.choice(["adjacent", "halves"])),
        eps=float(rng.choice([1e-5, 1e-5, 1e-3])), rope_base=float(rng.choice([10000, 10000, 100])),
        xpos_scale_base=float(rng.choice([512, 512, 16])), scale=None if rng.random() < 0.8 else float(rng.uniform(0.05, 0.7)),
        causal=bool(rng.random() < 0.4), window=None if rng.random() < 0.8 else int(rng.integers(0, n + 1)),
        mixing="longnet" if rng.random() < 0.75 else "head_groups", offset_rule=str(rng.choice(["mod", "block"])),
        tail_rule="mask" if rng.random() < 0.65 else "zero_pad", overlap="count" if rng.random() < 0.75 else "once",
        dropout=0.0 if rng.random() < 0.8 else float(rng.uniform(0.05, 0.6)), seed=int(rng.integers(0, 2**63)))


def random_case(number, value_type):
    rng = np.random.default_rng([SEED, number, VALUE_TYPES[value_type]])
    batch, n = int(rng.integers(1, 4)), int(rng.integers(1, 27))
    case = Case(f"{value_type}-{number}", value_type, draw_module(rng, n), batch, n, str(rng.choice(list(INPUTS))))
    if rng.random() < 0.25:
        case.lengths = [int(x) for x in rng.integers(0, n + 1, batch)]
    if rng.random() < 0.2:
        case.masked = rng.random((batch, n)) < 0.3
    return fill(case, rng)


def large_cases():
    """Rows beyond a block and a chunk of the library, and features beyond a block of it."""
    rng = np.random.default_rng([SEED, 1])
    common = dict(segments=[64, 256, 1024], rates=[1, 3, 8])
    cases = [
        Case("rows-300", "f32", Module(8, 2, 2, **common), 1, 300),
        Case("rows-600", "f64", Module(12, 3, 1, **common, position="xpos", causal=True), 2, 600, "three"),
        Case("rows-2100", "f32", Module(6, 2, 2, **common, qk_layer_norm=True), 1, 2100, "one", [2000]),
        Case("rows-2100", "f64", Module(4, 2, 1, **common, position="rope", qk_layer_norm=True), 1, 2100, "key_is_value"),
        Case("rows-120x20", "f64", Module(4, 2, 1, [5, 9], [1, 2], position="rope", qk_layer_norm=True), 120, 20, "three"),
        Case("rows-130x17", "f32", Module(6, 2, 2, [5, 9], [1, 2]), 130, 17),
        Case("rows-700x4", "bf16", Module(4, 1, 1, **common), 4, 700, "query_is_value", [700, 3, 0, 699]),
        Case("features-272", "f64", Module(272, 4, 2, [5, 9], [1, 2], position="rope", qk_layer_norm=True), 2, 11),
        Case("features-300", "f32", Module(300, 3, 3, [5, 9], [1, 2]), 1, 20, "three"),
        Case("features-256", "bf16", Module(256, 2, 1, [7], [2], position="rope", rotary_layout="halves"), 2, 9),
        Case("one-token", "f32", Module(16, 4, 4, [3], [1]), 1, 1),
        Case("one-channel", "f64", Module(1, 1, 1, [3], [1]), 2, 5),
    ]
    return [fill(case, rng) for case in cases]


def check_coverage(cases):
    """Every value of every option in at least LEAST_COVERAGE cases."""
    seen = {}
    for case in cases:
        m = case.module
        values = {key: getattr(m, key) for key in ("bias", "layer_norm", "qk_layer_norm", "position", "rotary_layout", "causal",
                                                   "mixing", "offset_rule", "tail_rule", "overlap")}
        values |= {"inputs": case.inputs, "type": case.value_type, "window": m.window is not None, "dropout": m.dropout > 0,
                   "lengths": case.lengths is not None, "mask": case.masked is not None, "scale": m.scale is not None,
                   "grouped": m.kv_heads < m.num_heads}
        for pair in values.items():
            seen[pair] = seen.get(pair, 0) + 1
    rare = {pair: count for pair, count in seen.items() if count < LEAST_COVERAGE}
    if rare or len(seen) < 2 * 16:
        raise AssertionError(f"options in too few cases: {rare}")


# ---- exact results and what rounding may make of them --------------------------------------------------------------

def noise_at(rng, u, stored, sums):
    """Rounding as the library has it: random, of the size of its bound at each place."""
    def noise(value, size):
        r = rng.uniform(-1, 1, value.shape)
        if isinstance(size, str):
            return value * (1 + stored * r)
        return value * (1 + 8 * u * r) if size is None else value + sums * size * r
    return noise


def noise_of(case, rng):
    u, stored = UNIT["f64" if case.value_type == "f64" else "f32"], UNIT[case.value_type]
    return noise_at(rng, u, stored,
                    (2 * math.sqrt(case.module.embed_dim) + 8) * u + (stored if case.value_type == "bf16" else 0))


def gradient_tolerances(case, inputs, grads, padding):
    """For each gradient as a whole: three times what random roundings made of it at most, and the rounding of the result."""
    rng = np.random.default_rng([SEED, 2])
    noise = noise_of(case, rng)
    worst = {}
    exact = dict(enumerate(inputs)) | grads
    for _ in range(SAMPLES):
        _, t = forward(case.module, *case.arrays["inputs"], padding, noise)
        noisy_inputs, noisy = backward(case.module, t, case.arrays["grad_out"], noise)
        for key, value in (dict(enumerate(noisy_inputs)) | noisy).items():
            worst[key] = max(worst.get(key, 0.0), float(abs(value - exact[key]).max()))
    stored = {key: UNIT[case.value_type] if isinstance(key, int) else UNIT["f64" if case.value_type == "f64" else "f32"]
              for key in exact}
    rows = case.batch * case.n  # a weight's gradient is a sum over rows
    return {key: 3 * worst[key] + (2 * stored[key] + 2 * math.sqrt(rows) * UNIT["f64" if case.value_type == "f64" else "f32"])
            * float(abs(exact[key]).max()) + 1e-300 for key in exact}


def check_attention(case, t, padding):
    """The module's own attention must be the reference's."""
    m = case.module
    if m.dropout > 0 or case.n > 100:
        return
    out, _ = dilated_attention(t["q"], t["k"], t["v"], m.segments, m.rates, causal=m.causal, scale=m.scale, mixing=m.mixing,
                               offset_rule=m.offset_rule, tail_rule=m.tail_rule, overlap=m.overlap, key_padding=padding,
                               window=m.window)
    if not np.allclose(out, t["a"], rtol=1e-11, atol=1e-12):
        raise AssertionError(f"{case.name}: the module's attention differs from the reference")


def compute(case):
    """The case as bytes."""
    padding = case.padding()
    m, a = case.module, case.arrays
    a["out"], t = forward(m, *a["inputs"], padding)
    check_attention(case, t, padding)
    u, stored = UNIT["f64" if case.value_type == "f64" else "f32"], UNIT[case.value_type]
    bound = forward_bound(m, t, u, stored, stored if case.value_type == "bf16" else 0.0)
    # The reference rounds too; below a type's normal range errors are absolute.
    a["bound"] = bound * (2 if case.value_type == "f64" else 1) + {"f16": 2.0**-22}.get(case.value_type, 1e-37 if u > 1e-10 else 0)
    inputs, grads = backward(m, t, a["grad_out"])
    tolerances = gradient_tolerances(case, inputs, grads, padding)
    return encode(case, inputs, grads, tolerances)


# ---- the file ------------------------------------------------------------------------------------------------------

def array(x):
    x = np.ascontiguousarray(x, "<f8")
    return struct.pack("<q", x.size) + x.tobytes()


def module_words(m):
    """A module's options as integers, its patterns apart, and its options as numbers."""
    names = {"longnet": 0, "head_groups": 1, "mod": 0, "block": 1, "mask": 0, "zero_pad": 1, "count": 0, "once": 1}
    words = [m.embed_dim, m.num_heads, m.kv_heads, m.bias, m.layer_norm, m.qk_layer_norm, POSITIONS.index(m.position),
             ["adjacent", "halves"].index(m.rotary_layout), m.causal, -1 if m.window is None else m.window, names[m.mixing],
             names[m.offset_rule], names[m.tail_rule], names[m.overlap], m.scale is not None, m.seed]
    return words, [len(m.segments), *m.segments, *m.rates], [m.eps, m.rope_base, m.xpos_scale_base, m.scale or 0.0, m.dropout]


def encode(case, inputs, grads, tolerances):
    m = case.module
    words, patterns, numbers = module_words(m)
    words = [VALUE_TYPES[case.value_type], case.batch, case.n, *words, *INPUTS[case.inputs], *patterns]
    body = case.name.encode().ljust(32, b"\0") + struct.pack("<q", len(words)) + struct.pack(f"<{len(words)}q", *map(int, words))
    body += array(numbers) + array([] if case.lengths is None else case.lengths) + array([] if case.masked is None else case.masked)
    body += b"".join(array(x) for x in case.arrays["inputs"]) + array(case.arrays["out"]) + array(case.arrays["bound"])
    body += array(case.arrays["grad_out"]) + b"".join(array(x) for x in inputs) + array([tolerances[k] for k in range(3)])
    body += struct.pack("<q", len(m.weights))
    for name, value in m.weights.items():
        body += name.encode().ljust(32, b"\0") + array(value) + array(grads[name]) + array([tolerances[name]])
    return body


def write(cases, compute_one, magic, about):
    """Computes the cases, and writes the file that the command line names: the magic, their number, one after the other."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    with multiprocessing.Pool(arguments.processes) as pool:
        bodies = pool.map(compute_one, cases, chunksize=1)
    temporary = arguments.output.with_suffix(".part")
    temporary.write_bytes(magic + struct.pack("<q", len(bodies)) + b"".join(bodies))
    temporary.replace(arguments.output)
    print(f"{len(bodies)} cases, {temporary.name}: {arguments.output.stat().st_size} bytes")


def main():
    cases = [random_case(k, kind) for kind, count in RANDOM_CASES.items() for k in range(count)] + large_cases()
    check_coverage(cases)
    write(cases, compute, MAGIC, __doc__)


if __name__ == "__main__":
    main()
