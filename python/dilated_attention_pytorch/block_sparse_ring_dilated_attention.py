"""An import path of the packages that this one takes the place of."""

from .attention import BlockSparseDilatedAttention as BlockSparseRingDilatedAttention

__all__ = ["BlockSparseRingDilatedAttention"]
