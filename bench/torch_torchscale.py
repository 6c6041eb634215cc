"""torchscale's dilated attention (preset torchscale: offsets in blocks of heads, tails filled with zero tokens) from
PyTorch's CPU flash kernel: one call per pattern, all heads at once, mixed by logsumexp.

q, k, v: (batch, heads, n, head_dim), contiguous; heads a multiple of every rate. Returns the same shape.
"""
import math

import torch

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def _filled(x, length):
    """x with zero tokens appended up to a length; x itself if it has that length."""
    missing = length - x.shape[-2]
    return torch.nn.functional.pad(x, (0, 0, 0, missing)) if missing else x


def _pattern(q, k, v, w, r):
    """Output and logsumexp of one pattern; -infinity where the pattern does not keep the token."""
    b, heads, n, d = q.shape
    w = min(w, n)
    segments, kept = math.ceil(n / w), math.ceil(w / r)

    def diagonal(x):
        # Heads in r blocks, tokens in r residues: block i keeps residue i, which is the diagonal.
        return x.view(b, r, heads // r, segments, kept, r, -1).diagonal(0, 1, 5)

    def padded(x):
        return _filled(_filled(x, segments * w).view(b, heads, segments, w, -1), kept * r)

    def gathered(x):
        x = diagonal(padded(x)).permute(0, 2, 5, 1, 3, 4)  # from (b, heads / r, segments, kept, d, r)
        return x.reshape(b * segments, heads, kept, d)

    def scattered(x, like):
        x = x.reshape(b, segments, r, heads // r, kept, -1).permute(0, 3, 1, 4, 5, 2)
        diagonal(like).copy_(x)
        return like.view(b, heads, segments, kept * r, -1)[:, :, :, :w].reshape(b, heads, segments * w, -1)[:, :, :n]

    out, lse = _flash(gathered(q), gathered(k), gathered(v), 0.0, False)[:2]
    size = (b, heads, segments, kept * r)
    return (scattered(out, q.new_zeros(*size, d)),
            scattered(lse[..., None], torch.full((*size, 1), float("-inf"), dtype=lse.dtype)))


def torchscale_attention(q, k, v, segment_lengths, dilation_rates):
    outs, lses = zip(*(_pattern(q, k, v, w, r) for w, r in zip(segment_lengths, dilation_rates)))
    weights = torch.softmax(torch.stack(lses), 0).to(q.dtype)
    return sum(out * weight for out, weight in zip(outs, weights))
