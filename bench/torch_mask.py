"""The naive way: all n x n scores, plus a mask that holds the logarithm of how often a query sees a key."""
import math

import torch


def _counts(problem, w: int, r: int) -> torch.Tensor:
    """How often each query sees each key by one pattern, (heads, n, n): 0 or 1."""
    position = torch.arange(problem.n)
    same_segment = (position // w)[:, None] == position // w
    if problem.causal:
        same_segment &= position[:, None] >= position
    kept = torch.stack([position % w % r == problem.offset(head, r) for head in range(problem.heads)])
    return (same_segment & kept[:, :, None] & kept[:, None]).float()


def log_counts(problem) -> torch.Tensor:
    """(heads, n, n) in float32; -infinity where a query does not see a key."""
    return sum(_counts(problem, w, r) for w, r in problem.patterns).log()


def masked_attention(q, k, v, mask):
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + mask
    return torch.softmax(scores, -1) @ v


def composed_attention(q, k, v, problem):
    """Each pattern by a mask of its own, mixed by their shares of the logsumexp, which count as constants."""
    outs, lses = [], []
    for w, r in problem.patterns:
        mask = _counts(problem, w, r).log().to(q.dtype)
        empty = (mask == -torch.inf).all(-1, keepdim=True)  # queries that the pattern does not keep
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + mask.masked_fill(empty, 0)
        outs.append(torch.softmax(scores, -1) @ v)
        lses.append(scores.detach().logsumexp(-1, keepdim=True).masked_fill(empty, -torch.inf))
    return sum(out * share for out, share in zip(outs, torch.softmax(torch.stack(lses), 0)))
