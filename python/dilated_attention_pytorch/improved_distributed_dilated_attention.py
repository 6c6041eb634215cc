"""An import path of the packages that this one takes the place of."""

from .attention import DistributedDilatedAttention as DistributedImprovedDilatedAttention
from .multihead import DistributedMultiheadDilatedAttention as DistributedImprovedMultiheadDilatedAttention

__all__ = ["DistributedImprovedDilatedAttention", "DistributedImprovedMultiheadDilatedAttention"]
