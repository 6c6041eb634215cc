"""The library's language model in PyTorch: the same parameters, its attention the composition with operations that autograd
goes through."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from longnet import Shape
from torch_composition import differentiable, longnet_attention

# Query, key and value of layer `number`, each (batch, heads, n, head_dim), to what attention makes of them.
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

def _norm(x, w, name):
    return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def _linear(x, w, name):
    return functional.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def _rotate(x):
    """Rotary encoding of adjacent channels; x (batch, heads, n, head_dim)."""
    n, d = x.shape[-2:]
    angle = torch.arange(n, dtype=torch.float64)[:, None] * 10000.0 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack((first * cosine - second * sine, second * cosine + first * sine), -1).flatten(-2)


def composition(shape: Shape) -> Attend:
    return lambda number, q, k, v: longnet_attention(q, k, v, shape.segments, shape.rates, True, differentiable)


def _attention(shape: Shape, number: int, x, w, attend: Attend):
    at = f"layers.{number}.attention"
    q, k, v = (_linear(x, w, f"{at}.{part}_proj").unflatten(-1, (shape.heads, -1)).transpose(1, 2) for part in "qkv")
    out = attend(number, _rotate(q), _rotate(k), v)
    return _linear(_norm(out.transpose(1, 2).flatten(-2), w, f"{at}.norm"), w, f"{at}.out_proj")


def loss(shape: Shape, w: dict[str, torch.Tensor], tokens, targets, attend: Attend | None = None):
    """In nats, of parameters w, with the attention that is given; without, with the composition."""
    x = w["embed.weight"][tokens.long()]
    for k in range(shape.layers):
        at = f"layers.{k}"
        x = x + _attention(shape, k, _norm(x, w, f"{at}.norm1"), w, attend or composition(shape))
        inner = functional.gelu(_linear(_norm(x, w, f"{at}.norm2"), w, f"{at}.ffn.up"))
        x = x + _linear(inner, w, f"{at}.ffn.down")
    logits = functional.linear(_norm(x, w, "norm"), w["embed.weight"])
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten().long())


class Trainer:
    """The same model, clipping and optimiser as the library's defaults."""

    def __init__(self, shape: Shape, parameters: dict[str, torch.Tensor]):
        self.shape = shape
        self.w = {name: x.clone().requires_grad_() for name, x in parameters.items()}
        matrices = [x for x in self.w.values() if x.dim() == 2]
        others = [x for x in self.w.values() if x.dim() == 1]
        self.optimiser = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
                                           betas=(0.9, 0.95), eps=1e-8)

    def backward(self, tokens, targets) -> float:
        self.optimiser.zero_grad(set_to_none=True)
        found = loss(self.shape, self.w, tokens, targets)
        found.backward()
        return found.item()

    def step(self, tokens, targets, rate: float) -> float:
        found = self.backward(tokens, targets)
        torch.nn.utils.clip_grad_norm_(self.w.values(), 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        return found
