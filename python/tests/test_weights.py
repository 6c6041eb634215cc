"""weights: attention weights and key masses against the float64 definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from dilated_attention_gradient import multiplicities as multiplicities_by_definition
from dilated_attention_pytorch import attention_weights, dilated_attention, key_mass
from dilated_attention_pytorch._config import normal_options
from dilated_attention_pytorch._visibility import multiplicities
from float64_reference import head_passes
from hypothesis import given, settings
from hypothesis import strategies as st
from test_composition import OPTIONS, SHAPES, reference_options, tensors

# An error of a weight is at most a few dozen roundings of sums of head_dim + n terms of size 10: far below this.
NEAR = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 1e-4, torch.float16: 1e-4}


def weights_by_definition(
    q: Any, k: Any, lengths: Any, rates: Any, key_lengths: Any = None, **options: Any
) -> np.ndarray:
    """(batch, heads, n, n), without the division by the groups."""
    q, k = (x.double().numpy() for x in (q, k))
    batch, n, heads, _ = q.shape
    padding = None if key_lengths is None else [[j >= length for j in range(n)] for length in key_lengths]
    p = np.zeros((batch, heads, n, n))
    for b, h, _, _, _, _, one in head_passes(q, k, k, lengths, rates, key_padding=padding, **options):
        p[b, h] = one.p
    return p


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("shape", ["ragged", "grouped"])
def test_all_rows(shape: str, name: str) -> None:
    n, heads, kv_heads, lengths, rates = SHAPES[shape]
    q, k, v, _, _ = tensors(n, heads, kv_heads, dtype=torch.float64)
    key_lengths = (n, n // 3)
    config = {"segment_lengths": lengths, "dilation_rates": rates, "key_lengths": key_lengths, **OPTIONS[name]}
    _, lse = dilated_attention(q, k, v, return_lse=True, **config)
    expected = weights_by_definition(q, k, lengths, rates, key_lengths, **reference_options(OPTIONS[name]))
    weights = attention_weights(q, k, lse, queries=range(n), **config)
    np.testing.assert_allclose(weights.numpy(), expected, rtol=0, atol=NEAR[torch.float64])
    assert np.array_equal(weights.numpy() > 0, expected > 0)
    mass = key_mass(q, k, lse, **config)
    np.testing.assert_allclose(mass.numpy(), expected.sum(2).transpose(0, 2, 1), rtol=0, atol=NEAR[torch.float64])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_data_types(dtype: torch.dtype) -> None:
    q, k, _, _, _ = tensors(24, 4, 2, dtype=dtype)
    expected = weights_by_definition(q, k, (6, 12), (1, 2))
    config: dict[str, Any] = {"segment_lengths": (6, 12), "dilation_rates": (1, 2)}
    weights = attention_weights(q, k, queries=[3, 20], **config)
    assert weights.dtype == torch.float32
    np.testing.assert_allclose(weights.numpy(), expected[:, :, [3, 20]], rtol=0, atol=NEAR[dtype])
    np.testing.assert_allclose(
        key_mass(q, k, **config).numpy(), expected.sum(2).transpose(0, 2, 1), rtol=0, atol=24 * NEAR[dtype]
    )


def test_numpy_arrays() -> None:
    q, k, v, _, _ = (x.numpy() for x in tensors(12, 2, 2, dtype=torch.float64))
    config: dict[str, Any] = {"segment_lengths": (4, 12), "dilation_rates": (1, 2)}
    _, lse = dilated_attention(q, k, v, return_lse=True, **config)
    weights, mass = attention_weights(q, k, lse, queries=range(12), **config), key_mass(q, k, lse, **config)
    assert isinstance(weights, np.ndarray) and isinstance(mass, np.ndarray)
    np.testing.assert_allclose(weights.sum(2).transpose(0, 2, 1), mass, atol=1e-12)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-12)


def test_weights_times_values_are_the_output() -> None:
    q, k, v, _, _ = tensors(15, 4, 2, dtype=torch.float64)
    config: dict[str, Any] = {"segment_lengths": (5, 15), "dilation_rates": (1, 3), "is_causal": True}
    out = dilated_attention(q, k, v, **config)
    weights = attention_weights(q, k, queries=range(15), **config)
    torch.testing.assert_close(torch.einsum("bhqk,bkhd->bqhd", weights, v.repeat_interleave(2, 2)), out)


def test_the_mean_over_heads() -> None:
    q, k, _, _, _ = tensors(10, 3, 3, dtype=torch.float64)
    config: dict[str, Any] = {"queries": [9, 0], "segment_lengths": (10,), "dilation_rates": (2,)}
    torch.testing.assert_close(
        attention_weights(q, k, average_heads=True, **config), attention_weights(q, k, **config).mean(1)
    )


def test_weights_are_differentiable() -> None:
    q, k = (x.requires_grad_() for x in tensors(6, 2, 1, batch=1, head_dim=2, dtype=torch.float64)[:2])
    assert torch.autograd.gradcheck(
        lambda q, k: attention_weights(q, k, queries=[1, 5], segment_lengths=(3, 6), dilation_rates=(1, 2)), (q, k)
    )


@settings(max_examples=40)
@given(
    n=st.integers(1, 33),
    heads=st.integers(1, 5),
    patterns=st.lists(
        st.integers(1, 12).flatmap(lambda r: st.tuples(st.integers(r, 40), st.just(r))), min_size=1, max_size=3
    ),
    preset=st.sampled_from(["longnet", "torchscale", "head_groups"]),
    causal=st.booleans(),
    window=st.one_of(st.none(), st.integers(0, 20)),
)
def test_masses_sum_to_the_queries(n: int, heads: int, patterns: Any, preset: str, causal: bool, window: Any) -> None:
    """All masses together are the sum of all weights, which for rules without zero keys is the number of queries that
    see a key."""
    q, k, v, _, _ = tensors(n, heads, heads, batch=1, head_dim=4, dtype=torch.float64)
    lengths, rates = zip(*patterns)
    config = {
        "segment_lengths": lengths,
        "dilation_rates": rates,
        "preset": preset,
        "is_causal": causal,
        "window": window,
    }
    _, lse = dilated_attention(q, k, v, return_lse=True, **config)
    mass = key_mass(q, k, lse, **config).sum(1)
    weights = attention_weights(q, k, lse, queries=range(n), **config)
    torch.testing.assert_close(mass, weights.sum((2, 3)))
    if preset != "torchscale":
        torch.testing.assert_close(mass, (~lse.isneginf()).double().sum(1))


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"queries": [8]}, "queries has 8; allowed: 0 to 7"),
        ({"queries": [-1]}, "queries has -1"),
        ({"queries": [0], "lse": torch.zeros(2, 8)}, "lse has shape"),
        ({"queries": [0], "preset": "paper"}, "preset is 'paper'"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], words: str) -> None:
    q, k, _, _, _ = tensors(8, 2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=words):
        attention_weights(q, k, segment_lengths=(8,), dilation_rates=(2,), **arguments)


def test_a_query_of_another_rank_is_refused() -> None:
    with pytest.raises(ValueError, match="query has shape"):
        key_mass(torch.zeros(8, 2, 4), torch.zeros(8, 2, 4), segment_lengths=(8,), dilation_rates=(2,))


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_who_sees_whom(shape: str, name: str) -> None:
    """Multiplicities and zero keys of each pair, and of some rows against some keys, are the definition's."""
    n, heads, _, lengths, rates = SHAPES[shape]
    options = normal_options(lengths, rates, **OPTIONS[name])
    count, zeros = multiplicities(options, heads, n, range(n))
    for h in range(heads):
        known = {k: v for k, v in reference_options(OPTIONS[name]).items() if k != "scale"}
        expected = multiplicities_by_definition(n, heads, h, lengths, rates, **known)
        assert np.array_equal(count[h], expected[0]) and np.array_equal(zeros[h], expected[1])
    part, part_zeros = multiplicities(options, heads, n, [n - 1, 3], range(2, n - 1))
    assert np.array_equal(part, count[:, [n - 1, 3], 2 : n - 1]) and np.array_equal(part_zeros, zeros[:, [n - 1, 3]])
