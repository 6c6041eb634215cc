"""An import path of the packages that this one takes the place of."""

from .multihead import BlockSparseMultiheadDilatedAttention as BlockSparseRingMultiheadDilatedAttention

__all__ = ["BlockSparseRingMultiheadDilatedAttention"]
