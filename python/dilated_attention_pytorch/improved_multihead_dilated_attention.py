"""An import path of the packages that this one takes the place of."""

from .multihead import ImprovedMultiheadDilatedAttention

__all__ = ["ImprovedMultiheadDilatedAttention"]
