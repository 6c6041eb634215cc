"""An import path of the packages that this one takes the place of."""

from .attention import DistributedDilatedAttention
from .multihead import DistributedMultiheadDilatedAttention

__all__ = ["DistributedDilatedAttention", "DistributedMultiheadDilatedAttention"]
