"""PyTorch's FlexAttention, compiled for the CPU, over given tiles."""
from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

SHAPE = 128  # of FlexAttention's own tiles, and so the smallest that it is asked for here


@functools.cache
def _compiled():
    return torch.compile(flex_attention, dynamic=False)


def block_mask(kept: torch.Tensor, block: int) -> BlockMask:
    """From a Boolean (batch, heads, blocks, blocks); tiles that are kept are computed whole, without a mask inside."""
    count = kept.sum(-1, dtype=torch.int32)
    columns = kept.int().argsort(dim=-1, descending=True, stable=True).int()
    return BlockMask.from_kv_blocks(torch.zeros_like(count), torch.zeros_like(columns), count, columns, BLOCK_SIZE=(block, block))


def flex_pass(q, k, v, kept: torch.Tensor, block: int) -> Callable[[], torch.Tensor]:
    """q, k, v (batch, heads, n, head_dim). Compiles at the first call."""
    mask = block_mask(kept, block)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return _compiled()(q, k, v, block_mask=mask)
    return run
