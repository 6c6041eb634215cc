"""composition: dilated attention out of dense kernels, on the CPU with PyTorch's own, against the float64 definition."""
from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from dilated_attention_pytorch import backends  # noqa: E402
from dilated_attention_pytorch.composition import composed_attention  # noqa: E402

from float64_reference import assert_within, exact  # noqa: E402

OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "causal": {"is_causal": True},
    "torchscale": {"preset": "torchscale"},
    "torchscale causal": {"preset": "torchscale", "is_causal": True},
    "head groups": {"preset": "head_groups"},
    "head groups causal": {"preset": "head_groups", "is_causal": True},
    "head groups zero pad": {"preset": "head_groups", "tail_rule": "zero_pad"},
    "block offsets": {"offset_rule": "block"},
    "once": {"overlap": "once"},
    "once causal": {"overlap": "once", "is_causal": True},
    "once torchscale": {"overlap": "once", "preset": "torchscale"},
    "window": {"window": 5},
    "window causal": {"window": 5, "is_causal": True},
    "window 0": {"window": 0, "is_causal": True},
    "window once": {"window": 6, "overlap": "once"},
    "window torchscale": {"window": 3, "preset": "torchscale"},
    "scale": {"softmax_scale": 0.7},
    "negative scale": {"softmax_scale": -0.4},
}
PRESETS = {"longnet": {}, "torchscale": {"offset_rule": "block", "tail_rule": "zero_pad"},
           "head_groups": {"mixing": "head_groups"}}
SHAPES = {   # n, heads, kv_heads, segment_lengths, dilation_rates
    "nested": (24, 4, 4, (6, 12, 24), (1, 2, 4)),
    "ragged": (29, 5, 5, (7, 10), (2, 3)),
    "grouped": (21, 6, 2, (4, 9, 30), (1, 3, 2)),
    "repeated": (13, 2, 1, (5, 5), (2, 2)),
}


def reference_options(options: dict[str, Any]) -> dict[str, Any]:
    """The same options in the definition's words."""
    rest = {name: value for name, value in options.items() if name != "preset"}
    named = {**PRESETS[options.get("preset", "longnet")], **rest}
    renamed = {"is_causal": "causal", "softmax_scale": "scale"}
    return {renamed.get(name, name): value for name, value in named.items()}


def tensors(n: int, heads: int, kv_heads: int, *, batch: int = 2, head_dim: int = 8, dtype: torch.dtype,
            seed: int = 0) -> list[torch.Tensor]:
    """query, key, value, grad_out, grad_lse."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return [draw(batch, n, heads, head_dim), draw(batch, n, kv_heads, head_dim), draw(batch, n, kv_heads, head_dim),
            draw(batch, n, heads, head_dim), draw(batch, n, heads).to(wide)]


def compare(shape: str, options: dict[str, Any], dtype: torch.dtype, *, kernels: Any = None, key_lengths: Any = None,
            head_dim: int = 8, seed: int = 0, with_lse: bool = True, rounded_weights: bool = True,
            **reference_extra: Any) -> None:
    """Forward and backward pass against the definition."""
    n, heads, kv_heads, lengths, rates = SHAPES[shape]
    q, k, v, grad_out, grad_lse = tensors(n, heads, kv_heads, head_dim=head_dim, dtype=dtype, seed=seed)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out, lse = composed_attention(*leaves, lengths, rates, return_lse=True, kernels=kernels, key_lengths=key_lengths,
                                  **options)
    visible = lse > float("-inf")
    grad_lse = torch.where(visible, grad_lse, torch.zeros(())) if with_lse else None
    outputs = (out, lse) if with_lse else (out,)
    grads = torch.autograd.grad(outputs, leaves, (grad_out, grad_lse) if with_lse else (grad_out,))
    known = {name: value for name, value in reference_options(options).items() if not name.startswith("dropout")}
    expected = exact(q, k, v, lengths, rates, grad_out, grad_lse, dtype=dtype, key_lengths=key_lengths,
                     rounded_weights=rounded_weights, **known, **reference_extra)
    assert out.dtype == dtype and lse.dtype == grad_dtype(dtype)
    assert_within("out", out, expected.out, expected.out_bound)
    assert_within("lse", lse, expected.lse, expected.lse_bound)
    for name, grad, exact_grad, bound in zip(("query", "key", "value"), grads, expected.grads, expected.grad_bounds):
        assert_within(f"grad_{name}", grad, exact_grad, bound)


def grad_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str, shape: str) -> None:
    compare(shape, OPTIONS[name], torch.float64)
