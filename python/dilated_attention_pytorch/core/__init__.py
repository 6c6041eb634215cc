"""The factory: configurations, creation, registration, information. docs/factory_pattern_guide.md shows its use."""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        f"{__name__} needs PyTorch, which is not installed; install it with: pip install torch", name="torch"
    ) from error

from .base import BaseDilatedAttention, BaseMultiheadDilatedAttention
from .config import DilatedAttentionConfig, MultiheadConfig, SparseAttentionConfig, SparsePatternConfig
from .factory import (
    Choice,
    create_adaptive_sparse_attention,
    create_block_sparse_attention,
    create_dilated_attention,
    create_multihead_dilated_attention,
    select_implementation,
)
from .registry import (
    get_available_implementations,
    get_implementation_info,
    register_attention_implementation,
    register_multihead_attention_implementation,
)

__all__ = [
    "BaseDilatedAttention",
    "BaseMultiheadDilatedAttention",
    "Choice",
    "DilatedAttentionConfig",
    "MultiheadConfig",
    "SparseAttentionConfig",
    "SparsePatternConfig",
    "create_adaptive_sparse_attention",
    "create_block_sparse_attention",
    "create_dilated_attention",
    "create_multihead_dilated_attention",
    "get_available_implementations",
    "get_implementation_info",
    "register_attention_implementation",
    "register_multihead_attention_implementation",
    "select_implementation",
]
