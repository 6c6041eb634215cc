"""An import path of the packages that this one takes the place of."""

from .attention import ImprovedDilatedAttention

__all__ = ["ImprovedDilatedAttention"]
