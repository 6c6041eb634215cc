"""Generated multihead modules, beside the float64 reference (tests/reference/multihead_reference.py)."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import multihead_reference as reference
import numpy as np
import torch
from dilated_attention_pytorch.core import create_multihead_dilated_attention

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "multihead"))

import generate_multihead_cases as c_cases

UNITS = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-9, torch.float16: 2.0**-11}


def output_bound(module: reference.Module, kept: dict, dtype: torch.dtype) -> np.ndarray:
    """What rounding can make of each element of the output in f64 and f32 (tests/tolerances.md, "The module"). The
    reference's own roundings are as large as f64's."""
    unit = UNITS[dtype]
    return (2 if dtype == torch.float64 else 1) * reference.forward_bound(module, kept, unit, unit, 0.0) + 1e-300


def output_tolerance(module: reference.Module, inputs: list, expected: np.ndarray, dtype: torch.dtype) -> float:
    """The tolerance of the largest error of the output in bf16 and f16, where PyTorch rounds to the type after every
    operation: three times what six passes with random roundings of every step made of it at most, as for gradients."""
    rng = np.random.default_rng(1)
    sums = (2 * module.embed_dim**0.5 + 8) * UNITS[torch.float32]

    def noise(value, size):
        error = UNITS[dtype] * abs(value) + (sums * size if isinstance(size, np.ndarray) else 0.0)
        return value + rng.uniform(-1, 1, value.shape) * error

    return 3 * max(abs(reference.forward(module, *inputs, noise=noise)[0] - expected).max() for _ in range(6))


def gradient_tolerances(module, inputs, gradients, padding, grad_out) -> dict:
    """For each gradient the tolerance of its largest error in f64, found as for the C module; keys are the numbers of
    the inputs and the names of parameters."""
    batch, n, _ = grad_out.shape
    arrays = {"inputs": inputs, "grad_out": grad_out}
    case = SimpleNamespace(module=module, arrays=arrays, value_type="f64", batch=batch, n=n)
    found = c_cases.gradient_tolerances(case, gradients[0], gradients[1], padding)
    return {key: 2 * value for key, value in found.items()}  # the reference rounds as much


def draw_module(seed: int) -> tuple[reference.Module, np.random.Generator]:
    """A reference module with options that the seed draws, and weights for it."""
    rng = np.random.default_rng(seed)
    pick = rng.choice
    heads = int(pick([1, 2, 3, 4, 6]))
    kv_heads = int(pick([k for k in range(1, heads + 1) if heads % k == 0]))
    position = str(pick(["none", "none", "rope", "xpos"]))
    head_dim = 2 * int(rng.integers(1, 5)) if position != "none" else int(rng.integers(1, 9))
    count = int(rng.integers(1, 4))
    rates = [int(r) for r in rng.integers(1, 5, count)]
    segments = [int(rng.integers(r, 20)) for r in rates]
    mixing = str(pick(["longnet", "longnet", "head_groups"]))
    module = reference.Module(
        heads * head_dim,
        heads,
        kv_heads,
        segments,
        rates,
        bias=bool(pick([True, False])),
        layer_norm=bool(pick([True, False])),
        qk_layer_norm=bool(pick([True, False])),
        position=position,
        rotary_layout=str(pick(["adjacent", "halves"])),
        eps=float(pick([1e-5, 1e-3])),
        rope_base=float(pick([10000.0, 100.0])),
        scale=pick([None, 0.3]),
        causal=bool(pick([True, False])),
        window=pick([None, None, 5]),
        mixing=mixing,
        offset_rule=str(pick(["mod", "block"])) if mixing == "longnet" else "mod",
        tail_rule=str(pick(["mask", "mask", "zero_pad"])) if mixing == "longnet" else "mask",
        overlap=str(pick(["count", "once"])),
    )
    for name, shape in module.shapes().items():
        spread = 1.0 if len(shape) == 1 else shape[1] ** -0.5
        module.weights[name] = rng.standard_normal(shape) * spread + ("_ln.weight" in name or "norm.weight" in name)
    return module, rng


def built(module: reference.Module, implementation: str, **options):
    """The same module in PyTorch, f64 unless options say another."""
    made = create_multihead_dilated_attention(
        implementation,
        module.embed_dim,
        module.num_heads,
        module.segments,
        module.rates,
        kv_heads=module.kv_heads,
        bias=module.bias,
        layer_norm=module.layer_norm,
        qk_layer_norm=module.qk_layer_norm,
        position=module.position,
        rotary_layout=module.rotary_layout,
        layer_norm_eps=module.eps,
        rope_base=module.rope_base,
        softmax_scale=module.scale,
        window=module.window,
        mixing=module.mixing,
        offset_rule=module.offset_rule,
        tail_rule=module.tail_rule,
        overlap=module.overlap,
        **{"dtype": torch.float64, **options},
    )
    made.load_state_dict({name: torch.from_numpy(w) for name, w in module.weights.items()})
    return made


def within(actual, expected: np.ndarray, bound) -> None:
    """No element further from the expected one than its bound, or than the one bound of all."""
    actual = actual.detach().double().numpy() if isinstance(actual, torch.Tensor) else np.asarray(actual)
    assert actual.shape == expected.shape
    assert (np.abs(actual - expected) <= bound).all()
