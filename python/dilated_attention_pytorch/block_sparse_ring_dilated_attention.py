"""An import path of the packages that this one takes the place of."""

from .attention import BlockSparseDilatedAttention as BlockSparseRingDilatedAttention
from .core.config import SparsePatternConfig

__all__ = ["BlockSparseRingDilatedAttention", "SparsePatternConfig"]
