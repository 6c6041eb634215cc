"""An import path of the packages that this one takes the place of."""

from .multihead import RingMultiheadDilatedAttention

__all__ = ["RingMultiheadDilatedAttention"]
