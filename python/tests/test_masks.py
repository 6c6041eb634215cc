"""Masks in the library's terms: what is recognised, and what is refused with which reason."""

import pytest
import torch
from dilated_attention_pytorch.masks import causal_and_window, key_lengths_of
from hypothesis import given
from hypothesis import strategies as st


def band(n, future, past):
    """True where key j is hidden from query i: j > i + future, or j < i - past."""
    back = torch.arange(n)[:, None] - torch.arange(n)
    return (back < -future) | (back > past)


def as_float(mask):
    return torch.zeros(mask.shape).masked_fill(mask, float("-inf"))


@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), st.booleans())
def test_a_hidden_suffix_is_a_length(lengths, floating):
    mask = torch.arange(12) >= torch.tensor(lengths)[:, None]
    assert key_lengths_of(as_float(mask) if floating else mask, len(lengths), 12).tolist() == lengths


@given(st.integers(1, 12), st.integers(0, 13), st.booleans(), st.booleans())
def test_bands_are_recognised(n, past, causal, floating):
    mask = band(n, 0 if causal else n, past)
    found = causal_and_window(as_float(mask) if floating else mask, n, False)
    assert found == (causal and n > 1, past if past < n - 1 else None)


@given(st.integers(3, 10), st.data())
def test_one_bit_off_is_refused(n, data):
    mask = band(n, 0, n)
    i, j = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    mask[i, j] = ~mask[i, j]
    if (i, j) == (n - 1, 0):  # hiding the corner makes a window
        assert causal_and_window(mask, n, False) == (True, n - 2)
    else:
        with pytest.raises(ValueError, match="attn_mask is no causal mask and no window"):
            causal_and_window(mask, n, False)


def test_pytorchs_own_causal_mask():
    assert causal_and_window(torch.nn.Transformer.generate_square_subsequent_mask(9), 9, False) == (True, None)
    assert causal_and_window(torch.nn.Transformer.generate_square_subsequent_mask(9), 9, True) == (True, None)
    assert causal_and_window(torch.zeros(9, 9, dtype=torch.bool), 9, True) == (True, None)
    assert causal_and_window(torch.zeros(1, 1, 9, 9), 9, False) == (False, None)


def test_a_hole_in_the_padding_is_refused():
    mask = torch.tensor([[False, False, True], [True, False, True]])
    with pytest.raises(ValueError, match="hides key 0 of sequence 1 and not key 1; allowed: masks that hide a suffix"):
        key_lengths_of(mask, 2, 3)


@pytest.mark.parametrize(
    "mask, error, message",
    [
        (torch.zeros(2, 4, dtype=torch.bool), ValueError, r"shape \(2, 4\); allowed: \(batch, n\), here \(2, 3\)"),
        (torch.zeros(2, 3, dtype=torch.int64), TypeError, "data type torch.int64"),
        (torch.full((2, 3), 0.5), ValueError, "values other than 0 and -inf"),
        ([[False] * 3] * 2, TypeError, "is a list"),
    ],
)
def test_padding_masks_that_are_none(mask, error, message):
    with pytest.raises(error, match=f"key_padding_mask .*{message}"):
        key_lengths_of(mask, 2, 3)


@pytest.mark.parametrize(
    "mask, error, message",
    [
        (torch.zeros(3, 4, dtype=torch.bool), ValueError, r"shape \(3, 4\)"),
        (torch.zeros(2, 3, 3, dtype=torch.bool), ValueError, r"shape \(2, 3, 3\)"),
        (torch.zeros(3, 3, dtype=torch.uint8), TypeError, "data type torch.uint8"),
        (torch.full((3, 3), -1.0), ValueError, "values other than 0 and -inf"),
        (torch.ones(3, 3, dtype=torch.bool), ValueError, "no causal mask and no window"),
    ],
)
def test_attention_masks_that_cannot_be_expressed(mask, error, message):
    with pytest.raises(error, match=f"attn_mask .*{message}"):
        causal_and_window(mask, 3, False)
