"""torchscale's DilatedAttention without its CUDA kernels: a drop-in class, and `patch()` to install it.

    from dilated_attention_pytorch import torchscale
    torchscale.patch()                       # the installed torchscale
    torchscale.patch("gigapath.torchscale")  # a copy inside another package

Constructor, names of parameters, forward arguments and the state of incremental decoding are those of
microsoft/torchscale, `torchscale.component.dilated_attention` and the `MultiheadAttention` that it extends. The numbers
are those of its formulas: offsets in blocks of heads, tails filled with zero keys (preset "torchscale").
docs/python-torchscale.md says where this class does more than theirs.
"""

from __future__ import annotations

import ast
import importlib
import math
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Optional, Union, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import weights
from ._config import Options, normal_options, one_of
from ._visibility import multiplicities
from .functional import dilated_attention

GRADIENTS = ("exact", "torchscale")
PADDINGS = ("mask", "ignore")

# What modules made without these arguments take; patch() sets it.
_defaults = {"gradient": "exact", "padding": "mask"}


# ---- the parts of torchscale's module --------------------------------------------------------------------------------


class MultiwayNetwork(nn.Module):
    """Two copies of a module, the first for the tokens before `split_position`, the second for the rest. torchscale
    sets split_position on every module that has one; -1: all tokens take the first."""

    def __init__(self, first: nn.Module, second: nn.Module, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim
        self.A = first
        self.B = second
        self.split_position = -1

    def forward(self, x: Tensor) -> Tensor:
        if self.split_position == -1:
            return cast(Tensor, self.A(x))
        if self.split_position == 0:
            return cast(Tensor, self.B(x))
        first, second = x.tensor_split([self.split_position], dim=self.dim)
        return torch.cat([self.A(first), self.B(second)], dim=self.dim)


class XPos(nn.Module):
    """torchscale's XPOS: rotary positions that decay with the distance (arXiv:2212.10554), in adjacent pairs.

    Channel pair p of d / 2 turns by position * 10000^(-p / (d / 2)) and is multiplied by zeta_p^((position - middle) /
    scale_base), zeta_p = (2p + 0.4 d) / (1.4 d); keys are divided by it. Computed in f64: torchscale's f32 angles are
    off by up to 0.004 at position 10^5. The buffer `scale` is zeta, which torchscale's checkpoints hold.
    """

    def __init__(self, head_dim: int, scale_base: float = 512) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.scale_base = scale_base
        self.scale: Tensor
        self.register_buffer("scale", self._zeta(torch.device("cpu")).float())

    def _zeta(self, device: torch.device) -> Tensor:
        d = self.head_dim
        return (torch.arange(0, d, 2, dtype=torch.float64, device=device) + 0.4 * d) / (1.4 * d)

    def forward(self, x: Tensor, total: int, downscale: bool = False) -> Tensor:
        """x (batch, n, heads, head_dim): the last n of `total` positions."""
        n, half = x.shape[1], self.head_dim // 2
        position = torch.arange(total - n, total, dtype=torch.float64, device=x.device)[:, None]
        middle = -(-total // 2)
        exponent = (position - middle) / self.scale_base
        size = self._zeta(x.device) ** (-exponent if downscale else exponent)
        angle = position * 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
        cosine, sine = (f(angle).mul(size).to(x.dtype)[None, :, None] for f in (torch.cos, torch.sin))
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], -1).flatten(-2)


def _integers(name: str, value: Any) -> tuple[int, ...]:
    """torchscale's configurations hold lists, or text that Python reads as a list."""
    if value is None or value == "":
        raise ValueError(f"args.{name} is {value!r}; allowed: a list of integers, or such a list as text")
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError) as error:
            raise ValueError(
                f"args.{name} is {value!r}; allowed: a list of integers, or such a list as text"
            ) from error
    return tuple(value) if isinstance(value, Sequence) else (value,)


def _attend_to_all(
    query: Tensor, key: Tensor, value: Tensor, options: Options, padding: Optional[Tensor], dropout_p: float
) -> Tensor:
    """Attention of the last tokens alone: query (batch, t, heads, head_dim) are the last t of key's n positions.

    Straight from the definition, over the keys from the farthest segment's start on; for decoding, where t is 1.
    """
    n, t, heads = key.shape[1], query.shape[1], query.shape[2]
    first = min((n - t) // w * w for w in options.segment_lengths)
    count, zeros = (
        torch.from_numpy(x).to(query.device)
        for x in multiplicities(options, heads, n, range(n - t, n), range(first, n))
    )
    seen = (count > 0)[None]
    if padding is not None:
        seen = seen & ~padding[:, None, None, first:]
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    q, k, v = query.to(wide), key[:, first:].to(wide), value[:, first:].to(wide)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * query.shape[-1] ** -0.5 + count.to(wide).log()
    zero_keys = zeros.to(wide).log()[None, :, :, None].expand(scores.shape[0], -1, -1, 1)
    empty = ~(seen.any(-1, keepdim=True) | (zero_keys > -math.inf))
    scores = torch.cat([scores.masked_fill(~seen, -math.inf), zero_keys], -1).masked_fill(empty, 0)
    shares = F.dropout(scores.softmax(-1)[..., :-1].masked_fill(~seen, 0), dropout_p)
    return torch.einsum("bhqk,bkhd->bqhd", shares, v).to(query.dtype)


def _attend_as_torchscale_differentiates(
    query: Tensor, key: Tensor, value: Tensor, options: Options, **rest: Any
) -> Tensor:
    """The same output, whose gradient takes the mixing weights of the patterns for constants, as torchscale does."""
    outs, lses = [], []
    for w, r in zip(options.segment_lengths, options.dilation_rates):
        out, lse = dilated_attention(
            query, key, value, (w,), (r,), is_causal=options.is_causal, preset="torchscale", return_lse=True, **rest
        )
        outs.append(out)
        lses.append(lse.detach())
    shares = torch.stack(lses).softmax(0).nan_to_num(0)
    return cast(Tensor, sum(out * share[..., None].to(out.dtype) for out, share in zip(outs, shares)))


def _says_causal(attn_mask: Tensor, n: int) -> bool:
    """Whether a mask is the causal one; False for one that hides nothing. ValueError for any other."""
    hidden = attn_mask if attn_mask.dtype == torch.bool else attn_mask <= -1e8
    shown = attn_mask.new_zeros(()) if attn_mask.dtype != torch.bool else False
    if attn_mask.shape[-2:] == (n, n) and bool((hidden | (attn_mask == shown)).all()):
        later = torch.ones(n, n, dtype=torch.bool, device=attn_mask.device).triu(1)
        if bool((hidden == later).all()):
            return True
        if not bool(hidden.any()):
            return False
    raise ValueError(
        f"attn_mask, of shape {tuple(attn_mask.shape)}, is neither the causal mask nor empty; allowed: None, "
        f"or one of these of shape ({n}, {n}). Dilated attention has a pattern of its own"
    )


# ---- the module ------------------------------------------------------------------------------------------------------


class DilatedAttention(nn.Module):
    """torchscale's DilatedAttention (arXiv:2307.02486), on any device.

    args: an object with segment_length and dilated_ratio, lists or text; and, where they are not the defaults, multiway
    (False), layernorm_eps (1e-5), xpos_rel_pos (False), xpos_scale_base (512). args.flash_attention is not looked at.
    gradient: "exact" differentiates the mixing of the patterns as all else; "torchscale" takes its weights for
    constants. padding: "mask" hides the keys that key_padding_mask marks; "ignore" does not look at it, as torchscale.
    None for either: what `patch` was told, otherwise the first.
    """

    def __init__(
        self,
        args: Any,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        self_attention: bool = False,
        encoder_decoder_attention: bool = False,
        subln: bool = False,
        *,
        gradient: Optional[str] = None,
        padding: Optional[str] = None,
    ) -> None:
        super().__init__()
        if self_attention == encoder_decoder_attention:
            raise ValueError(
                f"self_attention and encoder_decoder_attention are both {self_attention}; allowed: one of them True"
            )
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"embed_dim is {embed_dim}; allowed: a multiple of num_heads, which is {num_heads}")
        self.args = args
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.scaling = self.head_dim**-0.5
        self.dropout = dropout
        self.self_attention = self_attention
        self.encoder_decoder_attention = encoder_decoder_attention
        self.gradient = one_of("gradient", _defaults["gradient"] if gradient is None else gradient, GRADIENTS)
        self.padding = one_of("padding", _defaults["padding"] if padding is None else padding, PADDINGS)
        self._options(False)  # refuses args now rather than in forward

        def linear() -> nn.Module:
            return nn.Linear(embed_dim, embed_dim)

        self.k_proj = self._multiway(linear)
        self.v_proj = self._multiway(linear)
        self.q_proj = self._multiway(linear)
        self.out_proj = self._multiway(linear)
        eps = getattr(args, "layernorm_eps", 1e-5)
        self.inner_attn_ln = (
            self._multiway(lambda: nn.LayerNorm(embed_dim, eps=eps)) if subln and self_attention else None
        )
        self.dropout_module = nn.Dropout(dropout)
        self.xpos = (
            XPos(self.head_dim, getattr(args, "xpos_scale_base", 512))
            if getattr(args, "xpos_rel_pos", False) and self_attention
            else None
        )

    def _multiway(self, make: Callable[[], nn.Module]) -> nn.Module:
        first = make()
        return MultiwayNetwork(first, make()) if getattr(self.args, "multiway", False) else first

    def _options(self, is_causal: bool) -> Options:
        return normal_options(
            _integers("segment_length", self.args.segment_length),
            _integers("dilated_ratio", self.args.dilated_ratio),
            is_causal=is_causal,
            preset="torchscale",
        )

    def reset_parameters(self) -> None:
        """torchscale's: Xavier uniform, q, k and v with the gain 1 / sqrt(2), the output's bias 0."""
        for projection, gain in (
            (self.k_proj, 2**-0.5),
            (self.v_proj, 2**-0.5),
            (self.q_proj, 2**-0.5),
            (self.out_proj, 1.0),
        ):
            for part in projection.modules():
                if isinstance(part, nn.Linear):
                    nn.init.xavier_uniform_(part.weight, gain=gain)
                    if projection is self.out_proj:
                        nn.init.zeros_(part.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        incremental_state: Optional[dict[str, Any]] = None,
        key_padding_mask: Optional[Tensor] = None,
        attn_mask: Optional[Tensor] = None,
        rel_pos: Optional[Tensor] = None,
        is_first_step: bool = False,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """query, key, value (batch, n, embed_dim); returns the output, and None where torchscale would put weights.

        incremental_state: a dict that keeps the keys and values of earlier calls, "prev_key" and "prev_value" of shape
        (batch, num_heads, length, head_dim); query, key and value are then the new tokens. key_padding_mask: (batch,
        length), True hides a key. attn_mask: None or the causal mask. rel_pos: None. Raises ValueError.
        """
        self._check(query, key, value, rel_pos)
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, self.head_dim))
            for projection, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        if incremental_state is not None:
            if not is_first_step and "prev_key" in incremental_state:
                k = torch.cat([incremental_state["prev_key"].transpose(1, 2), k], dim=1)
                v = torch.cat([incremental_state["prev_value"].transpose(1, 2), v], dim=1)
            incremental_state["prev_key"], incremental_state["prev_value"] = k.transpose(1, 2), v.transpose(1, 2)
        n = k.shape[1]
        if self.xpos is not None:
            q, k = self.xpos(q, n), self.xpos(k, n, downscale=True)
        if attn_mask is not None:
            is_causal = _says_causal(attn_mask, n) or is_causal
        attention = self._attend(q, k, v, self._options(is_causal), self._padding(key_padding_mask, k)).flatten(2)
        if self.inner_attn_ln is not None:
            attention = self.inner_attn_ln(attention)
        return self.out_proj(attention), None

    def attention_weights(
        self,
        x: Tensor,
        queries: Sequence[int],
        *,
        is_causal: bool = False,
        key_padding_mask: Optional[Tensor] = None,
        average_heads: bool = False,
    ) -> Tensor:
        """What `weights.attention_weights` gives for a forward pass with query, key and value x."""
        found = weights.attention_weights(
            *self._query_and_key(x),
            queries=queries,
            average_heads=average_heads,
            **self._weights_options(x, is_causal, key_padding_mask),
        )
        return cast(Tensor, found)

    def key_mass(self, x: Tensor, *, is_causal: bool = False, key_padding_mask: Optional[Tensor] = None) -> Tensor:
        """What each token of x receives from all queries, `weights.key_mass`: (batch, n, num_heads)."""
        mass = weights.key_mass(*self._query_and_key(x), **self._weights_options(x, is_causal, key_padding_mask))
        return cast(Tensor, mass)

    def _query_and_key(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._check(x, x, x, None)
        q, k = (
            projection(x).unflatten(-1, (self.num_heads, self.head_dim)) for projection in (self.q_proj, self.k_proj)
        )
        if self.xpos is not None:
            q, k = self.xpos(q, x.shape[1]), self.xpos(k, x.shape[1], downscale=True)
        return q, k

    def _weights_options(self, x: Tensor, is_causal: bool, key_padding_mask: Optional[Tensor]) -> dict[str, Any]:
        options = self._options(is_causal)
        return {
            "segment_lengths": options.segment_lengths,
            "dilation_rates": options.dilation_rates,
            "preset": "torchscale",
            "is_causal": is_causal,
            "key_lengths": self._key_lengths(self._padding(key_padding_mask, x)),
        }

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, options: Options, padding: Optional[Tensor]) -> Tensor:
        dropout_p = self.dropout_module.p if self.training else 0.0
        if q.shape[1] < k.shape[1]:
            return _attend_to_all(q, k, v, options, padding, dropout_p)
        rest: dict[str, Any] = {"key_lengths": self._key_lengths(padding), "dropout_p": dropout_p}
        if self.gradient == "torchscale":
            return _attend_as_torchscale_differentiates(q, k, v, options, **rest)
        return cast(
            Tensor,
            dilated_attention(
                q,
                k,
                v,
                options.segment_lengths,
                options.dilation_rates,
                is_causal=options.is_causal,
                preset="torchscale",
                **rest,
            ),
        )

    def _check(self, query: Tensor, key: Tensor, value: Tensor, rel_pos: Optional[Tensor]) -> None:
        if rel_pos is not None:
            raise ValueError("rel_pos is given; allowed: None, since dilated attention takes no bias")
        for name, x in (("query", query), ("key", key), ("value", value)):
            if x.dim() != 3 or x.shape[2] != self.embed_dim or x.shape[:2] != query.shape[:2]:
                raise ValueError(
                    f"{name} has shape {tuple(x.shape)}; allowed: (batch, n, {self.embed_dim}), the same for "
                    "query, key and value: dilated attention is self-attention"
                )
        if (
            getattr(self.args, "seq_parallel", False)
            and torch.distributed.is_available()
            and torch.distributed.is_initialized()
            and torch.distributed.get_world_size() > 1
        ):
            raise ValueError("args.seq_parallel is True in a group of several processes; allowed: False")

    def _padding(self, mask: Optional[Tensor], key: Tensor) -> Optional[Tensor]:
        """The mask as booleans; None if it hides nothing: torchscale's encoder always gives one."""
        if mask is None or self.padding == "ignore":
            return None
        if mask.shape != key.shape[:2]:
            raise ValueError(
                f"key_padding_mask has shape {tuple(mask.shape)}; allowed: (batch, length), {tuple(key.shape[:2])}"
            )
        mask = mask.to(torch.bool)
        return mask if bool(mask.any()) else None

    @staticmethod
    def _key_lengths(mask: Optional[Tensor]) -> Optional[Tensor]:
        if mask is None:
            return None
        lengths = (~mask).sum(1)
        if not torch.equal(mask, torch.arange(mask.shape[1], device=mask.device) >= lengths[:, None]):
            raise ValueError(
                "key_padding_mask hides keys before others that it shows; allowed: padding at the end of each "
                "sequence (or padding='ignore', which does not look at it, as torchscale)"
            )
        return lengths

    def extra_repr(self) -> str:
        return (
            f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, "
            f"segment_length={list(_integers('segment_length', self.args.segment_length))}, "
            f"dilated_ratio={list(_integers('dilated_ratio', self.args.dilated_ratio))}, "
            f"gradient={self.gradient!r}, padding={self.padding!r}"
        )


# ---- patching --------------------------------------------------------------------------------------------------------

# (module, name, class that was there), in the order of patching
_patched: list[tuple[ModuleType, str, type]] = []


def _is_torchscales(value: Any) -> bool:
    return (
        isinstance(value, type)
        and value.__name__ == "DilatedAttention"
        and value is not DilatedAttention
        and issubclass(value, nn.Module)
        and value.__module__.rpartition(".")[2].endswith("dilated_attention")
        and not value.__module__.startswith(__package__ + ".")
    )


def patch(
    package: Union[str, ModuleType] = "torchscale", *, gradient: str = "exact", padding: str = "mask"
) -> list[str]:
    """Puts this module's DilatedAttention in the place of torchscale's, for models that are built from now on.

    package: the installed torchscale, by default; otherwise the name, or the module, of a package that holds a copy of
    it or uses it. All of its modules that are imported are gone through, and its component.dilated_attention is
    imported if it has one. gradient, padding: what models take that are built from now on, as in `DilatedAttention`.
    Returns the names that were replaced, "torchscale.model.longnet.DilatedAttention" for example; `unpatch` puts them
    back. ImportError if the package cannot be imported, ValueError if there is nothing to replace in it.
    """
    one_of("gradient", gradient, GRADIENTS)
    one_of("padding", padding, PADDINGS)
    name = package if isinstance(package, str) else package.__name__
    importlib.import_module(name)
    try:
        importlib.import_module(f"{name}.component.dilated_attention")
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.component.dilated_attention".startswith(error.name):
            raise
    replaced = []
    for module_name, module in sorted(sys.modules.items()):
        if module_name != name and not module_name.startswith(name + "."):
            continue
        for attribute, value in list(vars(module).items()) if isinstance(module, ModuleType) else ():
            if _is_torchscales(value):
                setattr(module, attribute, DilatedAttention)
                _patched.append((module, attribute, value))
                replaced.append(f"{module_name}.{attribute}")
    if not replaced and not any(
        module.__name__ == name or module.__name__.startswith(name + ".") for module, _, _ in _patched
    ):
        raise ValueError(
            f"package is {name!r}, which has no DilatedAttention among its imported modules; allowed: "
            "torchscale from its repository (the release 0.3.0 has none), or a package that holds a copy"
        )
    _defaults.update(gradient=gradient, padding=padding)
    return replaced


def unpatch() -> list[str]:
    """Puts back what `patch` replaced, everywhere, and returns the names."""
    restored = []
    while _patched:
        module, attribute, original = _patched.pop()
        setattr(module, attribute, original)
        restored.append(f"{module.__name__}.{attribute}")
    _defaults.update(gradient="exact", padding="mask")
    return restored
