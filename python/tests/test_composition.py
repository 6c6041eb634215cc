"""composition: dilated attention out of dense kernels, on the CPU with PyTorch's own, against the float64
definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dilated_attention_pytorch.composition import composed_attention
from float64_reference import assert_within, exact
from hypothesis import given, settings
from hypothesis import strategies as st

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
PRESETS = {
    "longnet": {},
    "torchscale": {"offset_rule": "block", "tail_rule": "zero_pad"},
    "head_groups": {"mixing": "head_groups"},
}
SHAPES = {  # n, heads, kv_heads, segment_lengths, dilation_rates
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


def tensors(
    n: int, heads: int, kv_heads: int, *, batch: int = 2, head_dim: int = 8, dtype: torch.dtype, seed: int = 0
) -> list[torch.Tensor]:
    """query, key, value, grad_out, grad_lse."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return [
        draw(batch, n, heads, head_dim),
        draw(batch, n, kv_heads, head_dim),
        draw(batch, n, kv_heads, head_dim),
        draw(batch, n, heads, head_dim),
        draw(batch, n, heads).to(wide),
    ]


def compare(
    shape: str,
    options: dict[str, Any],
    dtype: torch.dtype,
    *,
    kernels: Any = None,
    key_lengths: Any = None,
    head_dim: int = 8,
    seed: int = 0,
    with_lse: bool = True,
    rounded_weights: bool = True,
    **reference_extra: Any,
) -> None:
    """Forward and backward pass against the definition."""
    n, heads, kv_heads, lengths, rates = SHAPES[shape]
    q, k, v, grad_out, grad_lse = tensors(n, heads, kv_heads, head_dim=head_dim, dtype=dtype, seed=seed)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out, lse = composed_attention(
        *leaves, lengths, rates, return_lse=True, kernels=kernels, key_lengths=key_lengths, **options
    )
    visible = lse > float("-inf")
    grad_lse = torch.where(visible, grad_lse, torch.zeros(())) if with_lse else None
    outputs = (out, lse) if with_lse else (out,)
    grads = torch.autograd.grad(outputs, leaves, (grad_out, grad_lse) if with_lse else (grad_out,))
    known = {name: value for name, value in reference_options(options).items() if not name.startswith("dropout")}
    expected = exact(
        q,
        k,
        v,
        lengths,
        rates,
        grad_out,
        grad_lse,
        dtype=dtype,
        key_lengths=key_lengths,
        rounded_weights=rounded_weights,
        **known,
        **reference_extra,
    )
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


@pytest.mark.parametrize("name", OPTIONS)
def test_options_by_matrix_products(name: str) -> None:
    compare("ragged", OPTIONS[name], torch.float64, kernels=["torch_math"], seed=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["paper", "torchscale", "head groups causal", "once", "window causal"])
@pytest.mark.parametrize("kernel", ["torch_cpu_flash", "torch_math"])
def test_data_types(kernel: str, name: str, dtype: torch.dtype) -> None:
    compare("grouped", OPTIONS[name], dtype, kernels=[kernel], seed=2)


@pytest.mark.parametrize("lengths", [(29, 11), (0, 29), (7, 8), (1, 28), (0, 0)])
@pytest.mark.parametrize(
    "name",
    ["paper", "causal", "torchscale", "window", "window causal", "once causal", "window once", "head groups zero pad"],
)
def test_key_lengths(name: str, lengths: tuple[int, int]) -> None:
    compare("ragged", OPTIONS[name], torch.float64, key_lengths=lengths, seed=3)


def test_padded_keys_are_not_read() -> None:
    q, k, v, grad_out, _ = tensors(29, 5, 5, dtype=torch.float64)
    k[1, 11:], v[1, 11:] = float("nan"), float("nan")
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = composed_attention(*leaves, (7, 10), (2, 3), key_lengths=torch.tensor([29, 11]))
    grads = torch.autograd.grad(out, leaves, grad_out)
    assert not out.isnan().any() and not any(grad.isnan().any() for grad in grads)
    assert not grads[1][1, 11:].any() and not grads[2][1, 11:].any()


def test_a_query_without_keys_gives_zero() -> None:
    q, k, v, grad_out, _ = tensors(9, 3, 3, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out, lse = composed_attention(*leaves, (9,), (3,), return_lse=True)  # rate 3: two of three tokens are not kept
    kept = torch.arange(9)[:, None] % 3 == torch.arange(3)
    assert torch.equal(lse.isneginf(), ~kept.expand(2, 9, 3)) and not out[lse.isneginf()].any()
    grads = torch.autograd.grad(out, leaves, torch.where(kept[..., None], grad_out, float("nan")))
    assert all(grad.isfinite().all() for grad in grads) and not grads[0][lse.isneginf()].any()


@pytest.mark.parametrize("name", ["paper", "torchscale", "head groups", "once causal", "window causal"])
def test_dropout_is_the_librarys(name: str) -> None:
    compare(
        "grouped",
        {**OPTIONS[name], "dropout_p": 0.3, "dropout_seed": 2**63 - 5},
        torch.float64,
        seed=4,
        dropout=0.3,
        seed_of_dropout=2**63 - 5,
    )


def test_dropout_draws_from_torchs_generator() -> None:
    q, k, v, _, _ = tensors(16, 2, 2, dtype=torch.float64)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(composed_attention(q, k, v, (16,), (1,), dropout_p=0.5))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_masks_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from dilated_attention_pytorch import composition

    for elements in (1, 7, 40, 200):
        monkeypatch.setattr(composition, "MASK_ELEMENTS", elements)
        compare("nested", OPTIONS["once causal"], torch.float64)


def test_without_a_gradient_of_lse() -> None:
    compare("grouped", OPTIONS["torchscale"], torch.float64, with_lse=False)


@pytest.mark.parametrize("head_dim", [1, 3, 40])
def test_head_dims(head_dim: int) -> None:
    compare("nested", OPTIONS["causal"], torch.float64, head_dim=head_dim)


def test_gradcheck() -> None:
    leaves = [x.requires_grad_() for x in tensors(7, 2, 1, batch=1, head_dim=2, dtype=torch.float64)[:3]]
    assert torch.autograd.gradcheck(
        lambda q, k, v: composed_attention(q, k, v, (3, 6), (1, 2), preset="torchscale", return_lse=True),
        leaves,
        fast_mode=False,
    )


def test_a_second_derivative_is_refused() -> None:
    leaves = [x.requires_grad_() for x in tensors(8, 2, 2, dtype=torch.float64)[:3]]
    (grad,) = torch.autograd.grad(composed_attention(*leaves, (8,), (1,)).sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grad.sum().backward()


def test_a_second_backward_pass() -> None:
    leaves = [x.requires_grad_() for x in tensors(8, 2, 2, dtype=torch.float64)[:3]]
    out = composed_attention(*leaves, (8,), (2,))
    first = torch.autograd.grad(out.sum(), leaves, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(out.sum(), leaves)))


def test_strided_inputs() -> None:
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors(24, 4, 4, dtype=torch.float64)[:3])
    dense = [x.contiguous() for x in (q, k, v)]
    assert torch.equal(composed_attention(q, k, v, (12,), (2,)), composed_attention(*dense, (12,), (2,)))


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"kernels": ["flash"]}, "kernels has 'flash'; allowed: flash_attention_3"),
        ({"kernels": ["flash_attention_2"]}, "flash_attention_2 runs on cuda, not on cpu"),
        ({"kernels": []}, "no attention kernel can do this"),
        ({"kernels": ["torch_cpu_flash"], "dropout_p": 0.1}, "torch_cpu_flash takes no dropout"),
        ({"dropout_p": 1.0}, "dropout_p is 1.0"),
        ({"key_lengths": [8]}, "key_lengths is"),
        ({"key_lengths": [8, 9]}, "allowed: 2 values from 0 to 8"),
        ({"window": -1}, "window is -1"),
        ({"mixing": "sum"}, "mixing is 'sum'"),
        ({"preset": "paper"}, "preset is 'paper'"),
        ({"overlap": "twice"}, "overlap is 'twice'"),
        ({"implementation": "distributed"}, "implementation is 'distributed'"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], words: str) -> None:
    q, k, v, _, _ = tensors(8, 2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="(?s)" + words.replace("(", r"\(")):
        composed_attention(q, k, v, (8,), (2,), **arguments)


@pytest.mark.parametrize("lengths, rates", [((), ()), ((8,), (1, 2)), ((8,), (9,)), ((8,), (0,))])
def test_patterns_that_are_refused(lengths: Any, rates: Any) -> None:
    q, k, v, _, _ = tensors(8, 2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"segment_lengths|dilation_rates"):
        composed_attention(q, k, v, lengths, rates)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[:, :7],
        lambda x: x[..., :5],
        lambda x: x[0],
        lambda x: x.float(),
        lambda x: x.repeat(1, 1, 2, 1)[:, :, :3],
    ],
)
def test_tensors_that_are_refused(change: Any) -> None:
    q, k, v, _, _ = tensors(8, 2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="key "):
        composed_attention(q, change(k), v, (8,), (2,))


@settings(max_examples=60)
@given(data=st.data())
def test_anything(data: st.DataObject) -> None:
    """Random patterns and options, forward and backward, with every kernel that runs on a CPU."""
    n, repeat, kv_heads = (
        data.draw(st.integers(1, high), name) for name, high in (("n", 20), ("r", 3), ("kv_heads", 3))
    )
    rate = st.integers(1, 9)
    patterns = data.draw(
        st.lists(rate.flatmap(lambda r: st.tuples(st.integers(r, 24), st.just(r))), min_size=1, max_size=3)
    )
    options = {
        "preset": data.draw(st.sampled_from(sorted(PRESETS))),
        "is_causal": data.draw(st.booleans()),
        "overlap": data.draw(st.sampled_from(["count", "once"])),
        "window": data.draw(st.one_of(st.none(), st.integers(0, 12))),
    }
    key_lengths = data.draw(st.one_of(st.none(), st.lists(st.integers(0, n), min_size=2, max_size=2)))
    kernel = data.draw(st.sampled_from(["torch_cpu_flash", "torch_math"]))
    SHAPES["drawn"] = (n, kv_heads * repeat, kv_heads, *zip(*patterns))
    try:
        compare("drawn", options, torch.float64, key_lengths=key_lengths, kernels=[kernel], head_dim=3)
    finally:
        del SHAPES["drawn"]


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_the_operators_on_gpu_tensors(dropout: float) -> None:
    """What torch.ops.dilated_attention does with CUDA tensors, called with CPU tensors: as the C library does it."""
    from dilated_attention_pytorch import _torch_ops as _torch_ops
    from dilated_attention_pytorch._config import encode, normal_options
    from dilated_attention_pytorch.composition import operator_backward, operator_forward

    q, k, v, grad_out, grad_lse = tensors(21, 6, 2, dtype=torch.float64)
    config = encode(normal_options((4, 9, 30), (1, 3, 2), preset="torchscale", is_causal=True))
    rest = (torch.tensor([21, 9]), torch.tensor(-12345) if dropout else None, config, dropout)
    operators = torch.ops.dilated_attention
    for name in ("forward", "backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"dilated_attention::{name}", "CUDA")
    out, lse = operator_forward(q, k, v, *rest)
    for found, expected in zip((out, lse), operators.forward(q, k, v, *rest)):
        torch.testing.assert_close(found, expected)
    for wanted in ([True, True, True], [False, False, True]):
        found = operator_backward(grad_out, grad_lse, q, k, v, out, lse, *rest, wanted)
        expected = operators.backward(grad_out, grad_lse, q, k, v, out, lse, *rest, wanted)
        for mine, theirs in zip(found, expected):
            assert mine.shape == theirs.shape and mine.is_contiguous()
            torch.testing.assert_close(mine, theirs)


def test_an_empty_batch() -> None:
    from dilated_attention_pytorch._config import encode, normal_options
    from dilated_attention_pytorch.composition import operator_backward, operator_forward

    q = torch.zeros(0, 5, 2, 4)
    rest = (None, None, encode(normal_options((5,), (1,))), 0.0)
    out, lse = operator_forward(q, q, q, *rest)
    assert out.shape == q.shape and lse.shape == q.shape[:3]
    grads = operator_backward(out, None, q, q, q, out, lse, *rest, [True, False, True])
    assert [grad.shape for grad in grads] == [q.shape, (0,), q.shape]
