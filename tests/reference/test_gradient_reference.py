"""The analytic gradient against central differences of the reference forward, and philox against its authors' vectors."""
import pathlib
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from dilated_attention_gradient import (dilated_attention_dropout, dilated_attention_gradient,  # noqa: E402
                                        dropout_keeps, philox_2x32, philox_4x32)
from dilated_attention_reference import dilated_attention  # noqa: E402

SEGMENTS, RATES = [4, 8, 16], [1, 2, 4]
ONES = 0xFFFFFFFF

OPTIONS = {
    "plain": {},
    "causal": dict(causal=True),
    "window": dict(window=3),
    "causal window": dict(causal=True, window=2),
    "scale": dict(scale=-0.7),
    "head groups": dict(mixing="head_groups"),
    "block offsets": dict(offset_rule="block"),
    "zero pad": dict(tail_rule="zero_pad"),
    "overlap once": dict(overlap="once"),
    "torchscale": dict(offset_rule="block", tail_rule="zero_pad", causal=True),
    "padding": dict(key_padding=np.arange(11)[None] % 3 == 1),
    "padding and zero pad": dict(key_padding=np.arange(11)[None] < 8, tail_rule="zero_pad"),
}


def draw(seed, heads=3, kv_heads=1, n=11, head_dim=3):
    rng = np.random.default_rng(seed)
    q, grad_out = (rng.standard_normal((1, n, heads, head_dim)) for _ in range(2))
    k, v = (rng.standard_normal((1, n, kv_heads, head_dim)) for _ in range(2))
    return q, k, v, grad_out, rng.standard_normal((1, n, heads))


def loss(forward, q, k, v, grad_out, grad_lse, options):
    out, lse = forward(q, k, v, SEGMENTS, RATES, **options)
    return (out * grad_out).sum() + (np.where(np.isinf(lse), 0, lse) * grad_lse).sum()


def central_differences(forward, tensors, grad_out, grad_lse, options, step=1e-5):
    gradients = []
    for x in tensors:
        gradient = np.zeros_like(x)
        for at in np.ndindex(x.shape):
            kept = x[at]
            losses = []
            for moved in (kept + step, kept - step):
                x[at] = moved
                losses.append(loss(forward, *tensors, grad_out, grad_lse, options))
            x[at] = kept
            gradient[at] = (losses[0] - losses[1]) / (2 * step)
        gradients.append(gradient)
    return gradients


@pytest.mark.parametrize("name", OPTIONS)
def test_gradient_against_central_differences(name):
    """The forward pass differentiated is the reference itself, which knows nothing of gradients."""
    options = OPTIONS[name]
    q, k, v, grad_out, grad_lse = draw(1, heads=2)
    numeric = central_differences(dilated_attention, (q, k, v), grad_out, grad_lse, options)
    analytic = dilated_attention_gradient(q, k, v, SEGMENTS, RATES, grad_out, grad_lse, **options)
    for got, expected in zip(analytic, numeric):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["plain", "causal", "head groups", "overlap once"])
def test_gradient_with_dropout(name):
    options = dict(OPTIONS[name], dropout=0.4, seed=77)
    q, k, v, grad_out, grad_lse = draw(2, heads=4, kv_heads=2)
    numeric = central_differences(dilated_attention_dropout, (q, k, v), grad_out, grad_lse, options)
    analytic = dilated_attention_gradient(q, k, v, SEGMENTS, RATES, grad_out, grad_lse, **options)
    for got, expected in zip(analytic, numeric):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", OPTIONS)
def test_forward_without_dropout_is_the_reference(name):
    q, k, v, _, _ = draw(3, heads=4, kv_heads=2)
    for got, expected in zip(dilated_attention_dropout(q, k, v, SEGMENTS, RATES, **OPTIONS[name]),
                             dilated_attention(q, k, v, SEGMENTS, RATES, **OPTIONS[name])):
        np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-13)


def test_dropout_scales_the_kept_weights():
    """With identity values the output is the matrix of weights: each is 0 or its weight without dropout over 0.6."""
    n, seed = 11, 5
    q, k, _, _, _ = draw(4, heads=2, kv_heads=2, head_dim=n)
    v = np.broadcast_to(np.eye(n)[None, :, None], k.shape)
    plain, plain_lse = dilated_attention(q, k, v, SEGMENTS, RATES)
    dropped, lse = dilated_attention_dropout(q, k, v, SEGMENTS, RATES, dropout=0.4, seed=seed)
    assert np.allclose(lse, plain_lse, rtol=1e-14)
    for h in range(2):
        kept = dropout_keeps(0.4, seed, 0, h, *np.indices((n, n)))
        np.testing.assert_allclose(dropped[0, :, h], np.where(kept, plain[0, :, h] / 0.6, 0), rtol=1e-13)


# From kat_vectors of the authors' library Random123: 10 rounds, counter, key, result.
PI = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0]


@pytest.mark.parametrize("counter, key, expected", [
    ((0, 0), 0, (0xFF1DAE59, 0x6CD10DF2)),
    ((ONES, ONES), ONES, (0x2C3F628B, 0xAB4FD7AD)),
    ((PI[0], PI[1]), PI[2], (0xDD7CE038, 0xF62A4C12)),
])
def test_philox_2x32(counter, key, expected):
    assert tuple(int(word) for word in philox_2x32(counter, key)) == expected


@pytest.mark.parametrize("counter, key, expected", [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (tuple(PI[:4]), tuple(PI[4:]), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
])
def test_philox_4x32(counter, key, expected):
    assert tuple(int(word) for word in philox_4x32(counter, key)) == expected
