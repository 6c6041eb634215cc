"""An import path of the packages that this one takes the place of."""

from .multihead import MultiheadDilatedAttention

__all__ = ["MultiheadDilatedAttention"]
