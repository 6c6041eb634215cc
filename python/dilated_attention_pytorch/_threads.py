"""The number of threads of calls on NumPy arrays. (Those on PyTorch tensors follow torch.set_num_threads.)"""

from __future__ import annotations

import os

from ._config import integer

_MOST = 1024


def _from_environment() -> int:
    """OMP_NUM_THREADS where it is a number, else 0: one per core."""
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(int(text), _MOST) if text.isdigit() else 0


_threads = _from_environment()


def get() -> int:
    """0: one per core that the process may use."""
    return _threads


def set(threads: int) -> None:
    global _threads
    number = integer("threads", threads, 0)
    if number > _MOST:
        raise ValueError(f"threads is {number}; allowed: 0 (one per core) to {_MOST}")
    _threads = number
