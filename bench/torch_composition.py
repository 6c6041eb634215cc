"""The strongest thing PyTorch users can compose on a CPU today: LongNet attention from PyTorch's own CPU
flash kernel, one call per pattern and offset, mixed by logsumexp. Benchmarks compare with this in one run.

q, k, v: (batch, heads, n, head_dim), contiguous; n a multiple of every segment, and those of their rates.
Returns (batch, heads, n, head_dim). offset = head mod rate.
"""
import torch

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def differentiable(q, k, v, dropout, is_causal):
    """What the flash kernel computes, output and logsumexp, by operations that autograd can go through."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if is_causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), float("-inf"))
    lse = torch.logsumexp(scores, -1)
    return (scores - lse[..., None]).exp() @ v, lse


def longnet_attention(q, k, v, segment_lengths, dilation_rates, is_causal=False, kernel=_flash):
    b, heads, n, d = q.shape
    outs, lses = [], []
    for w, r in zip(segment_lengths, dilation_rates):
        out = q.new_zeros(b, heads, n, d)
        lse = torch.full((b, heads, n), float("-inf"), dtype=torch.promote_types(q.dtype, torch.float32))
        for off in range(min(r, heads)):
            m = len(range(off, heads, r))

            def kept(x):
                x = x[:, off::r].reshape(b, m, n // w, w, -1)[:, :, :, off::r]
                return x.transpose(1, 2).reshape(b * (n // w), m, w // r, d).contiguous()

            o, s = kernel(kept(q), kept(k), kept(v), 0.0, is_causal)[:2]
            o = o.reshape(b, n // w, m, w // r, d).transpose(1, 2)
            s = s.reshape(b, n // w, m, w // r).transpose(1, 2)
            out[:, off::r].view(b, m, n // w, w, d)[:, :, :, off::r] = o
            lse[:, off::r].view(b, m, n // w, w)[:, :, :, off::r] = s
        outs.append(out)
        lses.append(lse)
    weights = torch.softmax(torch.stack(lses), 0).to(q.dtype)
    return sum(o * weights[i][..., None] for i, o in enumerate(outs))
