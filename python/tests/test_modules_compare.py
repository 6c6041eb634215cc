"""Multihead modules against the float64 reference: generated options, forward and all gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from module_cases import built, draw_module, gradient_tolerances, output_bound, output_tolerance, reference, within

IMPLEMENTATIONS = ("standard", "improved", "ring")


def compare(module, rng, made, n, batch, joint, padded):
    shape = (batch, n, module.embed_dim)
    inputs = [rng.standard_normal(shape)] * 3 if joint else [rng.standard_normal(shape) for _ in range(3)]
    lengths = rng.integers(0, n + 1, batch) if padded else None
    padding = None if lengths is None else np.arange(n) >= lengths[:, None]
    if n % 2:
        made.joined_from = 0  # one product for the three projections, however short
    expected, kept = reference.forward(module, *inputs, padding)
    grad_out = rng.standard_normal(shape)
    grad_inputs, grad_weights = reference.backward(module, kept, grad_out)

    tensors = [torch.from_numpy(x).requires_grad_() for x in inputs[: 1 if joint else 3]]
    mask = None if padding is None else torch.from_numpy(padding)
    out = made(*tensors, key_padding_mask=mask, is_causal=module.causal)
    within(out, expected, output_bound(module, kept, torch.float64))
    out.backward(torch.from_numpy(grad_out))
    tolerances = gradient_tolerances(module, inputs, (grad_inputs, grad_weights), padding, grad_out)
    if joint:
        within(tensors[0].grad, sum(grad_inputs), sum(tolerances[part] for part in range(3)))
    else:
        for part, (tensor, grad) in enumerate(zip(tensors, grad_inputs)):
            within(tensor.grad, grad, tolerances[part])
    parameters = dict(made.named_parameters())
    assert parameters.keys() == grad_weights.keys() == module.weights.keys()
    for name, parameter in parameters.items():
        within(parameter.grad, grad_weights[name], tolerances[name])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("seed", range(24))
def test_generated_options(seed, implementation):
    module, rng = draw_module(seed)
    n, batch = int(rng.integers(1, 40)), int(rng.integers(1, 4))
    compare(module, rng, built(module, implementation), n, batch, joint=seed % 2 == 0, padded=seed % 3 == 0)


@settings(max_examples=30)
@given(st.integers(1000, 10**6), st.integers(1, 50), st.booleans(), st.booleans(), st.sampled_from(IMPLEMENTATIONS))
def test_any_options(seed, n, joint, padded, implementation):
    module, rng = draw_module(seed)
    compare(module, rng, built(module, implementation), n, 2, joint, padded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", range(6))
def test_other_data_types(seed, dtype):
    """Parameters and inputs are rounded to the type first: what is left are the roundings on the way."""
    module, rng = draw_module(100 + seed)
    made = built(module, "improved").to(dtype)
    for name, tensor in made.state_dict().items():
        module.weights[name] = tensor.double().numpy()
    x = torch.from_numpy(rng.standard_normal((2, 30, module.embed_dim))).to(dtype)
    inputs = [x.double().numpy()] * 3
    expected, kept = reference.forward(module, *inputs)
    small = dtype != torch.float32
    bound = output_tolerance(module, inputs, expected, dtype) if small else output_bound(module, kept, dtype)
    within(made(x, is_causal=module.causal), expected, bound)


def test_wrong_weights_are_noticed():
    """The comparison itself: one weight off by a little must not pass."""
    module, rng = draw_module(3)
    made = built(module, "standard")
    with torch.no_grad():
        made.k_proj.weight[0, 0] += 1e-9
        made.out_proj.weight[0, 0] += 1e-9
    with pytest.raises(AssertionError):
        compare(module, rng, made, 20, 2, True, False)
