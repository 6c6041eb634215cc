"""The import path of fkodom's package, with its classes. The function of the same name keeps its place in the
package: these names join it there."""

from __future__ import annotations

from typing import Any, Optional

from torch import Tensor

from .attention import DilatedAttention
from .multihead import MultiheadDilatedAttention as _MultiheadDilatedAttention


class MultiheadDilatedAttention(_MultiheadDilatedAttention):
    """The module as fkodom's package has it under this path: a call always returns a pair, the output and the weights,
    which are None unless need_weights=True asks for them."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Optional[Tensor]]:
        result = super().forward(*args, **kwargs)
        return result if isinstance(result, tuple) else (result, None)


__all__ = ["DilatedAttention", "MultiheadDilatedAttention"]
