"""The reference of the module against others: its gradients against central differences and, where PyTorch is installed (make
bench), its output and gradients against PyTorch's operations and autograd in float64."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "reference")]
from generate_multihead_cases import random_case  # noqa: E402
from multihead_reference import backward, counts, dropout_factors, forward, groups_of, turns  # noqa: E402

CASES = [random_case(number, "f64") for number in range(40)]


def name_of(case):
    return case.name


@pytest.mark.parametrize("case", CASES[:16], ids=name_of)
def test_gradients_are_slopes(case):
    """The loss's slope along random directions, of inputs and of parameters."""
    padding, step = case.padding(), 1e-6
    grad_out, inputs, weights = case.arrays["grad_out"], case.arrays["inputs"], case.module.weights
    _, t = forward(case.module, *inputs, padding)
    grad_inputs, grads = backward(case.module, t, grad_out)
    rng = np.random.default_rng(1)

    def loss(moved_inputs, moved_weights):
        module = dataclasses.replace(case.module, weights=moved_weights)
        return (forward(module, *moved_inputs, padding)[0] * grad_out).sum()

    def check(slope, gradient, direction):
        assert abs(slope - (gradient * direction).sum()) <= 1e-6 * (1 + abs(gradient * direction).sum())

    for k in range(3):
        direction = rng.standard_normal(inputs[k].shape)
        sides = [loss([x + side * step * direction if j == k else x for j, x in enumerate(inputs)], weights) for side in (1, -1)]
        check((sides[0] - sides[1]) / (2 * step), grad_inputs[k], direction)
    for name, value in weights.items():
        direction = rng.standard_normal(value.shape)
        sides = [loss(inputs, weights | {name: value + side * step * direction}) for side in (1, -1)]
        check((sides[0] - sides[1]) / (2 * step), grads[name], direction)


def torch_module(torch, m, inputs, w, padding=None):
    """The module by PyTorch's own operations."""
    functional = torch.nn.functional
    b, n, e = inputs[0].shape

    def norm(x, name):
        return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], m.eps)

    def rotate(x, inverse):
        cosine, sine, s = (torch.from_numpy(a)[:, None] for a in turns(m, n))
        s = 1 / s if inverse else s
        adjacent = m.rotary_layout == "adjacent"
        pairs = x.unflatten(-1, (-1, 2)) if adjacent else x.unflatten(-1, (2, -1)).transpose(-1, -2)
        turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * torch.complex(cosine, sine)) * s[..., None]
        return turned.flatten(-2) if adjacent else turned.transpose(-1, -2).flatten(-2)

    heads = {}
    for part, x in zip("qkv", inputs):
        y = functional.linear(x, w[f"{part}_proj.weight"], w.get(f"{part}_proj.bias"))
        if m.qk_layer_norm and part != "v":
            y = norm(y, f"{part}_ln")
        y = y.unflatten(-1, (-1, m.head_dim))
        heads[part] = rotate(y, part == "k") if m.position != "none" and part != "v" else y
    attended = []
    for h in range(m.num_heads):
        kv = h // (m.num_heads // m.kv_heads)
        q, k, v = heads["q"][:, :, h], heads["k"][:, :, kv], heads["v"][:, :, kv]
        c, zeros = (torch.from_numpy(a) for a in counts(m, n, h))
        c = c.expand(b, n, n) if padding is None else c * torch.from_numpy(~padding)[:, None]
        scale = m.head_dim**-0.5 if m.scale is None else m.scale
        weights = c * torch.exp(q @ k.transpose(1, 2) * scale)
        total = weights.sum(-1) + zeros
        weights = weights / torch.where(total > 0, total, 1)[..., None]
        factors = torch.from_numpy(np.stack([dropout_factors(m, n, batch, h) for batch in range(b)]))
        attended.append(weights * factors @ v / groups_of(m))
    a = torch.stack(attended, 2).flatten(2)
    a = norm(a, "norm") if m.layer_norm else a
    return functional.linear(a, w["out_proj.weight"], w.get("out_proj.bias"))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_pytorch_agrees(case):
    torch = pytest.importorskip("torch", reason="PyTorch is installed by `make bench` only")
    inputs = [torch.from_numpy(x).clone().requires_grad_() for x in case.arrays["inputs"]]
    weights = {name: torch.from_numpy(x).clone().requires_grad_() for name, x in case.module.weights.items()}
    out = torch_module(torch, case.module, inputs, weights, case.padding())
    out.backward(torch.from_numpy(case.arrays["grad_out"]))
    ours, t = forward(case.module, *case.arrays["inputs"], case.padding())
    grad_inputs, grads = backward(case.module, t, case.arrays["grad_out"])

    def agree(a, b):
        assert np.abs(a - b).max() <= 1e-10 * max(1, np.abs(b).max())

    agree(ours, out.detach().numpy())
    for x, gradient in zip(inputs, grad_inputs):
        agree(gradient, x.grad.numpy())
    for name, x in weights.items():
        agree(grads[name], x.grad.numpy())
