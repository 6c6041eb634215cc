"""Which attention kernels there are for a device, and how each is called.

A kernel computes dense attention of (batch, n, heads, head_dim) tensors and its logsumexp; `composition` makes dilated
attention of it. The order is that of the factory's guide: FlashAttention 3 on H100, FlashAttention 2, xFormers,
PyTorch's own. The backward pass of each is called with an output and a logsumexp over more keys than the call has,
which gives this call's share of the gradient: a pair's weight is exp(score - logsumexp), and the sum of its row,
<grad_out_i, out_i>, holds all keys (Dao et al., arXiv:2205.14135, appendix B; ring attention, arXiv:2310.01889, rests
on the same).

Facts used: FlashAttention's window (left, right) and its causal mask are aligned to the last query and key; a causal
mask is only ever asked for with as many queries as keys, where all agree. Kernels want head_dim a multiple of 8: zero
columns are appended, which change no score. PyTorch's memory-efficient kernel keeps the logsumexp in rows padded to 32.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Optional

import torch
from torch import Tensor
from torch.nn.functional import pad

Forward = tuple[Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, Tensor]
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Need:
    """What a composition asks of a kernel."""

    device: str  # "cuda", "cpu", ...
    capability: tuple[int, int]  # (0, 0) where there is none
    dtype: torch.dtype
    head_dim: int
    window: bool = False
    mask: bool = False
    dropout: bool = False

    @staticmethod
    def of(query: Tensor, **needs: bool) -> Need:
        device = query.device
        capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
        return Need(device.type, capability, query.dtype, query.shape[-1], **needs)


@dataclass(frozen=True)
class Call:
    """What goes with the tensors. mask: (batch, heads, queries, keys), added to the scores. factor: like mask,
    multiplies the weights after the softmax (dropout)."""

    scale: float
    causal: bool = False
    window: Optional[int] = None  # query a sees key b only if a + shift - b <= window
    shift: int = 0  # of the first query against the first key
    mask: Optional[Tensor] = None
    factor: Optional[Tensor] = None


class Kernel:
    """One kernel. Subclasses say what it takes and how it is called."""

    name: str = ""
    devices: tuple[str, ...] = ("cuda",)
    dtypes: tuple[torch.dtype, ...] = HALF
    min_capability: tuple[int, int] = (0, 0)
    max_capability: tuple[int, int] = (99, 99)
    max_head_dim: int = 256
    window: bool = False
    mask: bool = False
    dropout: bool = False
    alignment: int = 8  # head_dim is filled up to a multiple of it
    keeps_scores: bool = False  # the scores of a call are all in memory at once

    def missing(self) -> Optional[str]:
        """Why its library cannot be used; None if it can."""
        return None

    def refusal(self, need: Need) -> Optional[str]:
        """Why it cannot do what is needed; None if it can."""
        if need.device not in self.devices:
            return f"runs on {', '.join(self.devices)}, not on {need.device}"
        if need.device == "cuda" and not self.min_capability <= need.capability <= self.max_capability:
            return f"does not run on compute capability {need.capability[0]}.{need.capability[1]}"
        if need.dtype not in self.dtypes:
            return f"does not take {need.dtype}"
        if need.head_dim > self.max_head_dim:
            return f"takes head_dim up to {self.max_head_dim}, not {need.head_dim}"
        for feature in ("window", "mask", "dropout"):
            if getattr(need, feature) and not (getattr(self, feature) or (feature == "window" and self.mask)):
                return f"takes no {feature}"
        return self.missing()

    def forward(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Forward:
        """Output, and logsumexp (batch, n, heads)."""
        head_dim = query.shape[-1]
        out, lse = self._forward(self._aligned(query), self._aligned(key), self._aligned(value), call)
        return out[..., :head_dim], lse

    def backward(
        self, grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, call: Call
    ) -> Gradients:
        """This call's share of the gradients; out and lse may be those of a softmax over further keys, too."""
        head_dim = query.shape[-1]
        grad_out, query, key, value, out = map(self._aligned, (grad_out, query, key, value, out))
        grads = self._backward(grad_out, query, key, value, out, lse, call)
        return grads[0][..., :head_dim], grads[1][..., :head_dim], grads[2][..., :head_dim]

    def _aligned(self, x: Tensor) -> Tensor:
        missing = -x.shape[-1] % self.alignment
        return pad(x, (0, missing)) if missing else x

    def _forward(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Forward:
        raise NotImplementedError(f"{type(self).__name__} must define _forward")

    def _backward(
        self, grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, call: Call
    ) -> Gradients:
        raise NotImplementedError(f"{type(self).__name__} must define _backward")


@cache
def _tried(names: tuple[str, ...]) -> Any:
    """The first of these modules that can be imported, or a text that says why none can.

    Remembered, since looking for a library that is not there takes as long as attending to a short sequence. Libraries
    of compiled kernels may also fail with an OSError or RuntimeError, when they were built for another PyTorch.
    """
    reason = ""
    for name in names:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            reason = str(error)
    return reason


def _imported(*names: str) -> Any:
    """The first of these modules that can be imported; ImportError if none can."""
    found = _tried(names)
    if isinstance(found, str):
        raise ImportError(found)
    return found


def _accepted(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that this version of a library's function knows. PyTorch's custom operators hide the
    signature of the function that they wrap."""
    known = inspect.signature(getattr(function, "_init_fn", function)).parameters
    return {name: value for name, value in arguments.items() if name in known}


def _window_sides(call: Call, queries: int, keys: int) -> tuple[int, int]:
    """(left, right) of FlashAttention: key b is seen by query a if a + keys - queries - left <= b. -1: no limit."""
    left = -1 if call.window is None else call.window - call.shift + keys - queries
    return left, (0 if call.causal else -1)


class _FlashAttention(Kernel):
    """What FlashAttention 2 and 3 have in common: functions whose parameters changed their names and order over
    versions, so that they are called by name."""

    window = True

    def _functions(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        raise NotImplementedError(f"{type(self).__name__} must define _functions")

    def missing(self) -> Optional[str]:
        try:
            self._functions()
        except (ImportError, AttributeError) as error:
            return f"cannot be imported ({error})"
        return None

    def _options(self, function: Callable[..., Any], call: Call, queries: int, keys: int) -> dict[str, Any]:
        left, right = _window_sides(call, queries, keys)
        return _accepted(
            function,
            {
                "dropout_p": 0.0,
                "softmax_scale": call.scale,
                "causal": call.causal,
                "is_causal": call.causal,
                "window_size": (left, right),
                "window_size_left": left,
                "window_size_right": right,
                "softcap": 0.0,
                "alibi_slopes": None,
                "return_softmax": False,
                "deterministic": False,
            },
        )

    def _forward(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Forward:
        function = self._functions()[0]
        result = function(query, key, value, **self._options(function, call, query.shape[1], key.shape[1]))
        # (out, lse, ...), and up to FlashAttention 2.6 (out, q, k, v, out_padded, lse, ...)
        out, lse = (result[0], result[5]) if len(result) == 8 else (result[0], result[1])
        return out, lse[:, :, : query.shape[1]].transpose(1, 2)

    def _backward(
        self, grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, call: Call
    ) -> Gradients:
        function = self._functions()[1]
        grads = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        function(
            grad_out,
            query,
            key,
            value,
            out,
            lse.transpose(1, 2).contiguous(),
            dq=grads[0],
            dk=grads[1],
            dv=grads[2],
            **self._options(function, call, query.shape[1], key.shape[1]),
        )
        return grads


class FlashAttention3(_FlashAttention):
    name = "flash_attention_3"
    min_capability, max_capability = (9, 0), (9, 0)

    def _functions(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        module = _imported("flash_attn_interface", "flash_attn_3.flash_attn_interface")
        return module._flash_attn_forward, module._flash_attn_backward


class FlashAttention2(_FlashAttention):
    name = "flash_attention_2"
    min_capability = (8, 0)

    def _functions(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        module = _imported("flash_attn.flash_attn_interface")
        return module._flash_attn_forward, module._flash_attn_backward


class XFormers(Kernel):
    name = "xformers"
    dtypes = (*HALF, torch.float32)
    min_capability = (6, 0)

    def missing(self) -> Optional[str]:
        try:
            self._module()
        except ImportError as error:
            return f"cannot be imported ({error})"
        return None

    def _module(self) -> Any:
        return _imported("xformers.ops.fmha")

    def _bias(self, call: Call) -> Any:
        return self._module().attn_bias.LowerTriangularMask() if call.causal else None

    def _forward(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Forward:
        out, lse = self._module().memory_efficient_attention_forward_requires_grad(
            query, key, value, attn_bias=self._bias(call), p=0.0, scale=call.scale
        )
        return out, lse[:, :, : query.shape[1]].transpose(1, 2)

    def _backward(
        self, grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, call: Call
    ) -> Gradients:
        grads = self._module().memory_efficient_attention_backward(
            grad_out.contiguous(),
            out.contiguous(),
            lse.transpose(1, 2).contiguous(),
            query,
            key,
            value,
            attn_bias=self._bias(call),
            p=0.0,
            scale=call.scale,
        )
        return grads[0], grads[1], grads[2]


class TorchFlash(Kernel):
    """PyTorch's copy of FlashAttention 2."""

    name = "torch_flash"
    min_capability = (8, 0)
    window = True

    def _forward(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Forward:
        left, right = _window_sides(call, query.shape[1], key.shape[1])
        result = torch.ops.aten._flash_attention_forward(
            query,
            key,
            value,
            None,
            None,
            query.shape[1],
            key.shape[1],
            0.0,
            call.causal,
            False,
            scale=call.scale,
            window_size_left=left,
            window_size_right=right,
        )
        return result[0], result[1].transpose(1, 2)

    def _backward(
        self, grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, call: Call
    ) -> Gradients:
        left, right = _window_sides(call, query.shape[1], key.shape[1])
        unused = torch.zeros(2, dtype=torch.uint64, device=query.device)  # of the random numbers: there is no dropout
        grads = torch.ops.aten._flash_attention_backward(
            grad_out.contiguous(),
            query,
            key,
            value,
            out,
            lse.transpose(1, 2).contiguous(),
            None,
            None,
            query.shape[1],
            key.shape[1],
            0.0,
            call.causal,
            unused,
            unused,
            scale=call.scale,
            window_size_left=left,
            window_size_right=right,
        )
        return grads[0], grads[1], grads[2]


class TorchEfficient(Kernel):
    """PyTorch's memory-efficient kernel."""

    name = "torch_efficient"
    dtypes = (*HALF, torch.float32)
    min_capability = (5, 0)
    mask = True

    def _bias(self, call: Call) -> Optional[Tensor]:
        """The mask, with rows that begin at multiples of 16 bytes, as the kernel wants."""
        if call.mask is None:
            return None
        keys = call.mask.shape[-1]
        return pad(call.mask, (0, -keys % 8))[..., :keys]

    def _forward(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Forward:
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        result = torch.ops.aten._scaled_dot_product_efficient_attention(
            q, k, v, self._bias(call), True, 0.0, call.causal, scale=call.scale
        )
        return result[0].transpose(1, 2), result[1][:, :, : query.shape[1]].transpose(1, 2)

    def _backward(
        self, grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, call: Call
    ) -> Gradients:
        g, q, k, v, o = (x.transpose(1, 2) for x in (grad_out, query, key, value, out))
        padded = pad(lse.transpose(1, 2), (0, -lse.shape[1] % 32), value=math.inf).contiguous()
        unused = torch.zeros((), dtype=torch.int64, device=query.device)
        grads = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
            g,
            q,
            k,
            v,
            self._bias(call),
            o,
            padded,
            unused,
            unused,
            0.0,
            [True, True, True, False],
            call.causal,
            scale=call.scale,
        )
        return grads[0].transpose(1, 2), grads[1].transpose(1, 2), grads[2].transpose(1, 2)


class TorchCpuFlash(Kernel):
    """PyTorch's flash attention for CPUs. The C library is faster; this makes the composition run without a GPU."""

    name = "torch_cpu_flash"
    devices = ("cpu",)
    dtypes = (*HALF, torch.float32, torch.float64)
    mask = True
    alignment = 1

    def _forward(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Forward:
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, call.causal, attn_mask=call.mask, scale=call.scale
        )
        return out.transpose(1, 2), lse.transpose(1, 2)

    def _backward(
        self, grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, call: Call
    ) -> Gradients:
        g, q, k, v, o, m = (x.transpose(1, 2) for x in (grad_out, query, key, value, out, lse))
        grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            g, q, k, v, o, m, 0.0, call.causal, attn_mask=call.mask, scale=call.scale
        )
        return grads[0].transpose(1, 2), grads[1].transpose(1, 2), grads[2].transpose(1, 2)


class TorchMath(Kernel):
    """Matrix products and a softmax: any device and data type, masks and dropout, with the whole matrix of scores of a
    call in memory, so that calls are made small; it is asked last."""

    name = "torch_math"
    dtypes = (*HALF, torch.float32, torch.float64)
    mask = True
    dropout = True
    alignment = 1
    keeps_scores = True

    def refusal(self, need: Need) -> Optional[str]:
        return None if need.dtype in self.dtypes else f"does not take {need.dtype}"

    @staticmethod
    def _wide(*tensors: Tensor) -> list[Tensor]:
        """(batch, heads, n, head_dim), in f32 or f64."""
        return [(x if x.dtype == torch.float64 else x.float()).transpose(1, 2) for x in tensors]

    @staticmethod
    def _scores(q: Tensor, k: Tensor, call: Call) -> Tensor:
        scores = q @ k.transpose(-1, -2) * call.scale
        if call.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        return scores if call.mask is None else scores + call.mask

    def _forward(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Forward:
        q, k, v = self._wide(query, key, value)
        scores = self._scores(q, k, call)
        lse = scores.logsumexp(-1)
        weights = (scores - torch.where(lse.isneginf(), 0, lse)[..., None]).exp()
        if call.factor is not None:
            weights = weights * call.factor
        return (weights @ v).transpose(1, 2).to(query.dtype), lse.transpose(1, 2)

    def _backward(
        self, grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, call: Call
    ) -> Gradients:
        g, q, k, v, o = self._wide(grad_out, query, key, value, out)
        weights = (self._scores(q, k, call) - lse.transpose(1, 2)[..., None]).exp()
        factor = 1.0 if call.factor is None else call.factor
        grad_weights = factor * (g @ v.transpose(-1, -2))
        grad_scores = weights * (grad_weights - (g * o).sum(-1, keepdim=True)) * call.scale
        grads = grad_scores @ k, grad_scores.transpose(-1, -2) @ q, (weights * factor).transpose(-1, -2) @ g
        return (
            grads[0].transpose(1, 2).to(query.dtype),
            grads[1].transpose(1, 2).to(key.dtype),
            grads[2].transpose(1, 2).to(value.dtype),
        )


KERNELS: tuple[Kernel, ...] = (
    FlashAttention3(),
    FlashAttention2(),
    XFormers(),
    TorchFlash(),
    TorchEfficient(),
    TorchCpuFlash(),
    TorchMath(),
)


def explain(need: Need, kernels: Optional[Sequence[Kernel]] = None) -> dict[str, str]:
    """Of each kernel, in the order they are asked: "" if it can do what is needed, otherwise why not."""
    return {kernel.name: kernel.refusal(need) or "" for kernel in (KERNELS if kernels is None else kernels)}


def choose(need: Need, kernels: Optional[Sequence[Kernel]] = None) -> Kernel:
    """The first kernel that can do what is needed. ValueError, with the reason of each, if there is none."""
    candidates = KERNELS if kernels is None else tuple(kernels)
    for kernel in candidates:
        if kernel.refusal(need) is None:
            return kernel
    reasons = "; ".join(f"{name} {reason}" for name, reason in explain(need, candidates).items())
    raise ValueError(f"no attention kernel can do this: {reasons or 'none was given'}")


def by_name(names: Sequence[str]) -> tuple[Kernel, ...]:
    """Kernels of these names. ValueError for a name that is not known."""
    table = {kernel.name: kernel for kernel in KERNELS}
    for name in names:
        if name not in table:
            raise ValueError(f"kernels has {name!r}; allowed: {', '.join(table)}")
    return tuple(table[name] for name in names)
