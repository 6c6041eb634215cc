"""The language model of include/dilated_attention_nn.h by its definition, in float64: loss and gradients of all parameters.

The attention of a layer is multihead_reference.py's, and so are the norms; names and shapes of parameters are the header's.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

import multihead_reference as multihead
from multihead_reference import Module, layer_norm_backward, no_noise, standardise

SEED_STEP = 0x9E3779B97F4A7C15


@dataclass
class Model:
    vocabulary: int
    layers: int
    ffn_dim: int
    module: Module               # of every layer, without weights; its seed is the batch's
    activation: str = "gelu"     # "relu"
    tied: bool = True
    norm_eps: float = 1e-5
    weights: dict = field(default_factory=dict)

    def shapes(self):
        e, f, m = self.module.embed_dim, self.ffn_dim, self.module
        shapes = {"embed.weight": (self.vocabulary, e)}
        for k in range(self.layers):
            layer = {"norm1.weight": (e,), "norm1.bias": (e,)}
            layer |= {f"attention.{name}": shape for name, shape in m.shapes().items()}
            layer |= {"norm2.weight": (e,), "norm2.bias": (e,), "ffn.up.weight": (f, e), "ffn.up.bias": (f,),
                      "ffn.down.weight": (e, f), "ffn.down.bias": (e,)}
            shapes |= {f"layers.{k}.{name}": shape for name, shape in layer.items() if m.bias or not name.startswith("ffn")
                       or name.endswith("weight")}
        shapes |= {"norm.weight": (e,), "norm.bias": (e,)}
        return shapes if self.tied else shapes | {"out.weight": (self.vocabulary, e)}

    def layer_module(self, k):
        prefix = f"layers.{k}.attention."
        own = {name[len(prefix):]: value for name, value in self.weights.items() if name.startswith(prefix)}
        return replace(self.module, weights=own, seed=(self.module.seed + SEED_STEP * (k + 1)) % 2**64)


def activate(kind, z):
    """The activation and its slope."""
    if kind == "relu":
        return np.maximum(z, 0), (z > 0).astype(float)
    below = 0.5 * (1 + np.vectorize(math.erf, [float])(z / math.sqrt(2)))
    return z * below, below + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def linear(x, weight, bias, noise):
    return noise(x @ weight.T + bias, abs(x) @ abs(weight).T + abs(bias))


def linear_backward(x, grad, weight, noise):
    """Gradients of x and of the weight."""
    return (noise(grad @ weight, abs(grad) @ abs(weight)),
            np.einsum("bno,bni->oi", grad, x))


def norm(model, x, name, noise):
    s, _ = standardise(x, model.norm_eps)
    return noise(s * model.weights[f"{name}.weight"] + model.weights[f"{name}.bias"], None)


def forward(model, tokens, targets, noise=no_noise):
    """The loss, and what was on the way. tokens, targets: (batch, n) of integers; a target below 0 is none."""
    w = model.weights
    x, t = w["embed.weight"][tokens], {"tokens": tokens, "layers": []}
    for k in range(model.layers):
        layer, at = {"x": x}, f"layers.{k}"
        y = norm(model, x, f"{at}.norm1", noise)
        out, layer["attention"] = multihead.forward(model.layer_module(k), y, y, y, None, noise)
        x = layer["middle"] = noise(x + out, None)
        layer["normed"] = norm(model, x, f"{at}.norm2", noise)
        z = linear(layer["normed"], w[f"{at}.ffn.up.weight"], w.get(f"{at}.ffn.up.bias", 0.0), noise)
        active, slope = activate(model.activation, z)
        layer["active"], layer["slope"] = noise(active, None), noise(slope, None)
        x = noise(x + linear(layer["active"], w[f"{at}.ffn.down.weight"], w.get(f"{at}.ffn.down.bias", 0.0), noise), None)
        t["layers"].append(layer)
    t["x"], t["normed"] = x, norm(model, x, "norm", noise)
    logits = linear(t["normed"], w["embed.weight" if model.tied else "out.weight"], 0.0, noise)
    highest = logits.max(-1, keepdims=True)
    e = np.exp(logits - highest)
    t["counted"] = targets >= 0
    t["targets"] = np.where(t["counted"], targets, 0)
    t["softmax"] = noise(e / e.sum(-1, keepdims=True), None)
    t["logits"] = logits
    loss = np.log(e.sum(-1)) + highest[..., 0] - np.take_along_axis(logits, t["targets"][..., None], -1)[..., 0]
    return loss[t["counted"]].mean(), t


def backward(model, t, noise=no_noise):
    """Gradients of all parameters by name."""
    w, grads = model.weights, {name: np.zeros(shape) for name, shape in model.shapes().items()}
    head = "embed.weight" if model.tied else "out.weight"

    def through_norm(x, grad, name):
        grad, grads[f"{name}.weight"], grads[f"{name}.bias"] = layer_norm_backward(x, w[f"{name}.weight"], grad,
                                                                                    model.norm_eps, noise)
        return grad

    def through_linear(x, grad, name):
        if f"{name}.bias" in grads:
            grads[f"{name}.bias"] = grad.sum((0, 1))
        grad, grads[f"{name}.weight"] = linear_backward(x, grad, w[f"{name}.weight"], noise)
        return grad

    grad = t["softmax"].copy()
    np.put_along_axis(grad, t["targets"][..., None], np.take_along_axis(grad, t["targets"][..., None], -1) - 1, -1)
    grad *= t["counted"][..., None] / t["counted"].sum()
    grad, grads[head] = linear_backward(t["normed"], grad, w[head], noise)
    grad = through_norm(t["x"], grad, "norm")
    for k in reversed(range(model.layers)):
        layer, at = t["layers"][k], f"layers.{k}"
        inner = through_linear(layer["active"], grad, f"{at}.ffn.down")
        inner = through_linear(layer["normed"], noise(inner * layer["slope"], None), f"{at}.ffn.up")
        grad = noise(grad + through_norm(layer["middle"], inner, f"{at}.norm2"), None)
        inputs, own = multihead.backward(model.layer_module(k), layer["attention"], grad, noise)
        grads |= {f"{at}.attention.{name}": value for name, value in own.items()}
        grad = noise(grad + through_norm(layer["x"], sum(inputs), f"{at}.norm1"), None)
    np.add.at(grads["embed.weight"], t["tokens"], grad)
    return grads
