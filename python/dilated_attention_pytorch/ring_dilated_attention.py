"""An import path of the packages that this one takes the place of."""

from .attention import RingDilatedAttention

__all__ = ["RingDilatedAttention"]
