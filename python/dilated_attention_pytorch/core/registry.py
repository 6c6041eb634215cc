"""The names of implementations: the C library's, and classes registered from Python."""

from __future__ import annotations

import importlib
import threading
from typing import Any

from .. import _core
from ..ranks import Group, size_of
from .base import BaseDilatedAttention, BaseMultiheadDilatedAttention

# Name of an implementation of the C library -> module and class, of the attention and of the multihead module.
BUILT_IN = {
    "standard": (("attention", "DilatedAttention"), ("multihead", "MultiheadDilatedAttention")),
    "improved": (("attention", "ImprovedDilatedAttention"), ("multihead", "ImprovedMultiheadDilatedAttention")),
    "ring": (("attention", "RingDilatedAttention"), ("multihead", "RingMultiheadDilatedAttention")),
    "distributed": (
        ("attention", "DistributedDilatedAttention"),
        ("multihead", "DistributedMultiheadDilatedAttention"),
    ),
    "block_sparse": (
        ("attention", "BlockSparseDilatedAttention"),
        ("multihead", "BlockSparseMultiheadDilatedAttention"),
    ),
}
AUTO = {
    "name": "auto",
    "description": "chooses by the hardware, the length of the sequence and the libraries that are installed",
    "best_for": "general use",
}

_lock = threading.Lock()
_attentions: dict[str, type[BaseDilatedAttention]] = {}
_multiheads: dict[str, type[BaseMultiheadDilatedAttention]] = {}


def _register(name: str, cls: Any, base: type, table: dict[str, Any]) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name is {name!r}; allowed: a string")
    if not name or not name.replace("_", "").replace("-", "").isalnum() or not name.isascii() or len(name) > 63:
        raise ValueError(f"name is {name!r}; allowed: 1 to 63 letters, digits, '_' and '-'")
    if not isinstance(cls, type) or not issubclass(cls, base):
        raise TypeError(f"the implementation of {name!r} is {cls!r}; allowed: subclasses of {base.__name__}")
    with _lock:
        if name == "auto" or name in BUILT_IN:
            raise ValueError(f"name is {name!r}, which is built in; allowed: a name that is free")
        if table.get(name, cls) is not cls and table[name].__qualname__ != cls.__qualname__:
            raise ValueError(
                f"name is {name!r}, under which {table[name].__qualname__} is registered; allowed: a name that is "
                "free (the same class may be registered again)"
            )
        table[name] = cls


def register_attention_implementation(name: str, cls: type[BaseDilatedAttention]) -> None:
    """Makes create_dilated_attention(name, ...) create `cls`, by cls.from_config(config).

    Multihead modules can be created with that name too: they have `cls` within. "auto" never picks it. The class may be
    registered again under its name, also when it was defined anew, as in a notebook.
    ValueError: a name that is taken, or not allowed. TypeError: no subclass of BaseDilatedAttention."""
    _register(name, cls, BaseDilatedAttention, _attentions)


def register_multihead_attention_implementation(name: str, cls: type[BaseMultiheadDilatedAttention]) -> None:
    """Makes create_multihead_dilated_attention(name, ...) create `cls`, by cls.from_config(multihead_config,
    attention_config). Otherwise like register_attention_implementation."""
    _register(name, cls, BaseMultiheadDilatedAttention, _multiheads)


def attention_class(name: str, process_group: Group = None) -> type[BaseDilatedAttention]:
    """The class of an implementation that can run here; ValueError otherwise."""
    require_available(name, process_group)
    with _lock:
        if name in _attentions:
            return _attentions[name]
    if name not in BUILT_IN:
        raise ValueError(f"{name!r} is a multihead implementation only; use create_multihead_dilated_attention")
    return _load(BUILT_IN[name][0])  # type: ignore[no-any-return]


def multihead_class(name: str, process_group: Group = None) -> type[BaseMultiheadDilatedAttention]:
    """The multihead class of an implementation; the standard module where only an attention is registered."""
    require_available(name, process_group)
    with _lock:
        if name in _multiheads:
            return _multiheads[name]
    return _load(BUILT_IN.get(name, BUILT_IN["standard"])[1])  # type: ignore[no-any-return]


def _load(place: tuple[str, str]) -> Any:
    package = __name__.rsplit(".", 2)[0]
    return getattr(importlib.import_module(f"{package}.{place[0]}"), place[1])


def _registered() -> list[str]:
    with _lock:
        return list(dict.fromkeys([*_attentions, *_multiheads]))


def get_available_implementations(process_group: Group = None) -> list[str]:
    """Names that the factory's functions create here, built-in ones first. "auto" is not among them: it chooses one of
    them. What is known but cannot run here: get_implementation_info says why. process_group: the ranks that are to
    compute together, see DilatedAttentionConfig."""
    return [name for name in BUILT_IN if _core_info(name, process_group)["available"]] + _registered()


def get_implementation_info(name: str, process_group: Group = None) -> dict[str, Any]:
    """What is known of an implementation: name, description, best_for, memory, built_in, available, reason (why it is
    not), backward, and for built-in ones features and dtypes; attention and multihead say which of the two it can be
    created as. process_group: the ranks that are to compute together, see DilatedAttentionConfig.

    ValueError: an unknown name; the message lists the known ones."""
    if name == "auto":
        return {
            **AUTO,
            "memory": "that of the one chosen",
            "built_in": True,
            "available": True,
            "reason": "",
            "backward": True,
            "attention": True,
            "multihead": True,
        }
    if name in BUILT_IN:
        return {**_core_info(name, process_group), "attention": True, "multihead": True}
    with _lock:
        cls = _attentions.get(name, _multiheads.get(name))
        attention = name in _attentions
    if cls is None:
        raise ValueError(f"implementation is {name!r}; allowed: {', '.join(['auto', *BUILT_IN, *_registered()])}")
    own = cls.__doc__ is not None and cls.__doc__ != (cls.__mro__[1].__doc__ or "")
    return {
        "name": name,
        "description": (cls.__doc__ or "").strip().split("\n")[0] if own else cls.__qualname__,
        "best_for": "",
        "memory": "",
        "built_in": False,
        "available": True,
        "reason": "",
        "backward": True,
        "attention": attention,
        "multihead": True,
    }


def _core_info(name: str, process_group: Group) -> dict[str, Any]:
    found = {"available": False, "reason": "the C library does not know it", **_core.info(name)}
    if name == "distributed" and size_of(process_group) > 1:  # which the library was not told
        found["available"], found["reason"] = True, ""
    return found


def require_available(name: str, process_group: Group = None) -> None:
    """ValueError where no module of that name can be created here: why, and which can."""
    if not isinstance(name, str):
        raise TypeError(f"implementation is {name!r}; allowed: a string")
    info = get_implementation_info(name, process_group)
    if not info["available"]:
        raise ValueError(
            f"implementation {name!r} is not available: {info['reason']}; available: "
            f"{', '.join(['auto', *get_available_implementations(process_group)])}"
        )
