"""LongNet's dilated attention (arXiv:2307.02486) for NumPy and PyTorch, over a C library.

    import dilated_attention_pytorch
    out = dilated_attention_pytorch.dilated_attention(q, k, v, [2048, 4096, 8192], [1, 2, 4])

Importing this package does not import PyTorch; names that need it are loaded when they are first used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import _core
from ._config import explain
from ._rates import set_rank_rates
from ._threads import get as get_num_threads
from ._threads import set as set_num_threads
from .functional import dilated_attention
from .tiles import SparseProfile, SparseReport, TileMask, attention_tiles, profile_attention

if TYPE_CHECKING:
    from .block_sparse_ring_dilated_attention import BlockSparseRingDilatedAttention as BlockSparseRingDilatedAttention
    from .block_sparse_ring_multihead_dilated_attention import (
        BlockSparseRingMultiheadDilatedAttention as BlockSparseRingMultiheadDilatedAttention,
    )
    from .composition import composed_attention as composed_attention
    from .core import BaseDilatedAttention as BaseDilatedAttention
    from .core import BaseMultiheadDilatedAttention as BaseMultiheadDilatedAttention
    from .core import DilatedAttentionConfig as DilatedAttentionConfig
    from .core import MultiheadConfig as MultiheadConfig
    from .core import SparseAttentionConfig as SparseAttentionConfig
    from .core import SparsePatternConfig as SparsePatternConfig
    from .core import create_adaptive_sparse_attention as create_adaptive_sparse_attention
    from .core import create_block_sparse_attention as create_block_sparse_attention
    from .core import create_dilated_attention as create_dilated_attention
    from .core import create_multihead_dilated_attention as create_multihead_dilated_attention
    from .core import get_available_implementations as get_available_implementations
    from .core import get_implementation_info as get_implementation_info
    from .core import register_attention_implementation as register_attention_implementation
    from .core import register_multihead_attention_implementation as register_multihead_attention_implementation
    from .dilated_attention import DilatedAttention as DilatedAttention
    from .improved_dilated_attention import ImprovedDilatedAttention as ImprovedDilatedAttention
    from .improved_multihead_dilated_attention import (
        ImprovedMultiheadDilatedAttention as ImprovedMultiheadDilatedAttention,
    )
    from .long_net import LongNet as LongNet
    from .long_net import LongNetLM as LongNetLM
    from .multihead_dilated_attention import MultiheadDilatedAttention as MultiheadDilatedAttention
    from .ranks import shard_sequence as shard_sequence
    from .ranks import unshard_sequence as unshard_sequence
    from .ring_dilated_attention import RingDilatedAttention as RingDilatedAttention
    from .ring_multihead_dilated_attention import RingMultiheadDilatedAttention as RingMultiheadDilatedAttention
    from .weights import attention_weights as attention_weights
    from .weights import key_mass as key_mass

__version__ = _core.version()

# Names that need PyTorch, and the module of this package that holds each.
_LAZY = {
    "BaseDilatedAttention": "core",
    "BaseMultiheadDilatedAttention": "core",
    "DilatedAttention": "dilated_attention",
    "DilatedAttentionConfig": "core",
    "ImprovedDilatedAttention": "improved_dilated_attention",
    "ImprovedMultiheadDilatedAttention": "improved_multihead_dilated_attention",
    "LongNet": "long_net",
    "LongNetLM": "long_net",
    "MultiheadConfig": "core",
    "MultiheadDilatedAttention": "multihead_dilated_attention",
    "RingDilatedAttention": "ring_dilated_attention",
    "RingMultiheadDilatedAttention": "ring_multihead_dilated_attention",
    "BlockSparseRingDilatedAttention": "block_sparse_ring_dilated_attention",
    "BlockSparseRingMultiheadDilatedAttention": "block_sparse_ring_multihead_dilated_attention",
    "SparseAttentionConfig": "core",
    "SparsePatternConfig": "core",
    "create_adaptive_sparse_attention": "core",
    "create_block_sparse_attention": "core",
    "attention_weights": "weights",
    "composed_attention": "composition",
    "create_dilated_attention": "core",
    "create_multihead_dilated_attention": "core",
    "get_available_implementations": "core",
    "get_implementation_info": "core",
    "key_mass": "weights",
    "register_attention_implementation": "core",
    "register_multihead_attention_implementation": "core",
    "shard_sequence": "ranks",
    "unshard_sequence": "ranks",
}

__all__ = [
    "SparseProfile",
    "SparseReport",
    "TileMask",
    "attention_tiles",
    "dilated_attention",
    "explain",
    "get_num_threads",
    "profile_attention",
    "set_num_threads",
    "set_rank_rates",
    *_LAZY,
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f".{_LAZY[name]}", __name__)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        message = f"{__name__}.{name} needs PyTorch, which is not installed; install it with: pip install torch"
        raise ImportError(message) from error
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """`dilated_attention` is the function, and also a module that code written for other packages imports classes from.
    Importing the module would put it in the function's place; here its names join the function instead."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "dilated_attention" and isinstance(value, ModuleType):
            for each in getattr(value, "__all__", ()):
                setattr(dilated_attention, each, getattr(value, each))
        else:
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
