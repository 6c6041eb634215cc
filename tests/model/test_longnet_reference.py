"""The language model's reference against others: its gradients against central differences and, where PyTorch is installed
(make bench), its loss and gradients against PyTorch's operations and autograd in float64."""

import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "multihead"), str(HERE.parent / "reference")]
from generate_longnet_cases import random_case  # noqa: E402
from longnet_reference import backward, forward  # noqa: E402
from test_multihead_reference import torch_module  # noqa: E402

CASES = [random_case(number, "f64") for number in range(30)]


def name_of(case):
    return case.name


@pytest.mark.parametrize("case", CASES[:12], ids=name_of)
def test_gradients_are_slopes(case):
    """The loss's slope along a random direction of every parameter; relu's kinks are rare enough to be avoided."""
    model, step = case.model, 1e-6
    grads = backward(model, forward(model, case.tokens, case.targets)[1])
    rng = np.random.default_rng(1)
    assert grads.keys() == model.weights.keys()
    for name, value in list(model.weights.items()):
        direction = rng.standard_normal(value.shape)
        sides = []
        for side in (1, -1):
            model.weights[name] = value + side * step * direction
            sides.append(forward(model, case.tokens, case.targets)[0])
        model.weights[name] = value
        slope, along = (sides[0] - sides[1]) / (2 * step), (grads[name] * direction).sum()
        assert abs(slope - along) <= 2e-6 * (1 + abs(along)), name


def torch_loss(torch, model, tokens, targets, w):
    functional = torch.nn.functional

    def norm(x, name):
        return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], model.norm_eps)

    x = w["embed.weight"][tokens]
    for k in range(model.layers):
        at = f"layers.{k}"
        prefix = f"{at}.attention."
        y = norm(x, f"{at}.norm1")
        x = x + torch_module(torch, model.layer_module(k), [y, y, y],
                             {name[len(prefix):]: value for name, value in w.items() if name.startswith(prefix)})
        z = functional.linear(norm(x, f"{at}.norm2"), w[f"{at}.ffn.up.weight"], w.get(f"{at}.ffn.up.bias"))
        x = x + functional.linear(getattr(functional, model.activation)(z), w[f"{at}.ffn.down.weight"],
                                  w.get(f"{at}.ffn.down.bias"))
    logits = functional.linear(norm(x, "norm"), w["embed.weight" if model.tied else "out.weight"])
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_pytorch_agrees(case):
    torch = pytest.importorskip("torch", reason="PyTorch is installed by `make bench` only")
    weights = {name: torch.from_numpy(x).clone().requires_grad_() for name, x in case.model.weights.items()}
    theirs = torch_loss(torch, case.model, *map(torch.from_numpy, (case.tokens, case.targets)), weights)
    theirs.backward()
    ours, t = forward(case.model, case.tokens, case.targets)
    assert abs(ours - theirs.item()) <= 1e-12 * ours
    most = max(abs(x.grad).max().item() for x in weights.values())
    for name, gradient in backward(case.model, t).items():
        theirs = weights[name].grad.numpy()
        assert np.abs(gradient - theirs).max() <= 1e-10 * max(np.abs(theirs).max(), 1e-3 * most), name
