"""Who is compared: each competitor as a function without arguments that returns the result."""
from __future__ import annotations

from typing import Callable

import torch

from library import Attention, Context
from problems import Problem, dense
from torch_composition import longnet_attention
from torch_mask import log_counts, masked_attention
from torch_torchscale import torchscale_attention

Pass = Callable[[], torch.Tensor]
TITLES = {
    "library": "this library",
    "composition": "PyTorch composition",
    "torchscale": "PyTorch composition for torchscale's shape",
    "autograd": "PyTorch composition by autograd",
    "dense": "PyTorch dense attention",
    "mask": "PyTorch, n x n mask",
}


def library_pass(context: Context, problem: Problem, tensors, implementation: str = "improved", out=None) -> Pass:
    attention = Attention(context, implementation, problem.segments, problem.rates, causal=problem.causal,
                          preset=problem.preset)
    return attention.forward(*tensors, torch.zeros_like(tensors[0]) if out is None else out)


def rival_pass(name: str, problem: Problem, tensors) -> tuple[Pass, Problem]:
    """The competitor, and the problem that it solves (dense attention solves another one)."""
    q, k, v = tensors
    if name == "composition":
        return lambda: longnet_attention(q, k, v, problem.segments, problem.rates, problem.causal), problem
    if name == "torchscale":
        return lambda: torchscale_attention(q, k, v, problem.segments, problem.rates), problem
    if name == "dense":
        attention = torch.nn.functional.scaled_dot_product_attention
        return lambda: attention(q, k, v, is_causal=problem.causal), dense(problem)
    if name == "mask":
        mask = log_counts(problem)
        return lambda: masked_attention(q, k, v, mask), problem
    raise ValueError(name)
