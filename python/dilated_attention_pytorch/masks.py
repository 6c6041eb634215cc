"""Masks as PyTorch's modules take them, in the terms of the library: key lengths, causal, window.

The library knows no matrix of pairs: nothing grows with the square of the length. A mask that says no more than "keys
end here" or "no key from the future" is recognised; any other one is refused, with what it holds that cannot be
expressed.

Recognising looks at the mask's values. While PyTorch compiles or exports there are none: then a padding mask is checked
when the compiled program runs (RuntimeError), and an attention mask needs is_causal=True beside it, PyTorch's own sign
that it is the causal one.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

_SUFFIXES = (
    "allowed: masks that hide a suffix of each sequence (padding at the end), since tokens keep their places in the "
    "segments"
)


def _hidden(name: str, mask: Any) -> Tensor:
    """A bool tensor, True where the mask hides a key: bool masks as they are, float masks where they are -infinity."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name} is a {type(mask).__name__}; allowed: None, bool and floating-point tensors")
    if mask.dtype == torch.bool:
        return mask
    if not mask.is_floating_point():
        raise TypeError(
            f"{name} has the data type {mask.dtype}; allowed: torch.bool (True: hidden), floating point "
            "(-inf: hidden, 0: seen)"
        )
    hidden = torch.isneginf(mask)
    if not torch.compiler.is_compiling() and not bool((hidden | (mask == 0)).all()):
        raise ValueError(
            f"{name} holds values other than 0 and -inf; allowed: 0 and -inf, since scores have no bias here"
        )
    return hidden


def hidden_keys(key_padding_mask: Any, batch: int, n: int) -> Tensor:
    """A (batch, n) bool tensor, True where the mask hides a key. ValueError for another shape."""
    hidden = _hidden("key_padding_mask", key_padding_mask)
    if tuple(hidden.shape) != (batch, n):
        raise ValueError(
            f"key_padding_mask has the shape {tuple(hidden.shape)}; allowed: (batch, n), here ({batch}, {n})"
        )
    return hidden


def key_lengths_of(key_padding_mask: Any, batch: int, n: int) -> Tensor:
    """Number of keys of each sequence, for a (batch, n) mask that hides a suffix of each (True or -inf: hidden).

    ValueError for another shape, and for a mask that hides a key before one that is seen."""
    hidden = hidden_keys(key_padding_mask, batch, n)
    uncovered = hidden[:, :-1] & ~hidden[:, 1:]
    if torch.compiler.is_compiling():
        torch._assert_async(~uncovered.any(), f"key_padding_mask hides a key before one that it does not; {_SUFFIXES}")
    elif bool(uncovered.any()):
        row, place = (int(i) for i in uncovered.nonzero()[0])
        raise ValueError(f"key_padding_mask hides key {place} of sequence {row} and not key {place + 1}; {_SUFFIXES}")
    return (~hidden).sum(1)


def causal_and_window(attn_mask: Any, n: int, is_causal: bool) -> tuple[bool, Optional[int]]:
    """What an (n, n) mask of query and key (True or -inf: hidden) says: causal or not, and the window or None.

    Recognised: nothing hidden; the future hidden; keys further back than a window hidden; both of the latter.
    ValueError for any other mask."""
    hidden = _hidden("attn_mask", attn_mask)
    if tuple(hidden.shape[-2:]) != (n, n) or hidden[..., 0, 0].numel() != 1:
        raise ValueError(
            f"attn_mask has the shape {tuple(hidden.shape)}; allowed: (n, n), here ({n}, {n}), one for all "
            "sequences and heads"
        )
    if torch.compiler.is_compiling():
        if not is_causal:
            raise ValueError(
                "attn_mask without is_causal=True; allowed while compiling: attn_mask=None, or is_causal=True "
                "beside the causal mask"
            )
        return True, None
    hidden = hidden.reshape(n, n)
    back = torch.arange(n, device=hidden.device)[:, None] - torch.arange(n, device=hidden.device)
    causal = is_causal or (n > 1 and bool(hidden[back < 0].all()))
    seen = ~hidden & (back >= 0)
    reach = int(back[seen].max()) if bool(seen.any()) else -1
    window = None if reach == n - 1 else reach
    expressed = (back > (n - 1 if window is None else window)) | (back < 0 if causal else torch.zeros_like(hidden))
    given = hidden | (back < 0) if is_causal else hidden
    if reach < 0 or not torch.equal(expressed, given):
        raise ValueError(
            "attn_mask is no causal mask and no window; allowed: None, masks that hide the keys j > i (causal), "
            "the keys j < i - W for one W (window), or both. Padding goes into key_padding_mask or key_lengths; "
            "other masks would need an n x n matrix, which dilated attention avoids"
        )
    return causal, window
