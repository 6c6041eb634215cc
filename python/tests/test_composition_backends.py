"""backends: which kernel is chosen, and that each is called as its library documents.

The libraries' own kernels need a GPU, so here they are made up: functions with their libraries' parameters and
documented meaning (masks aligned to the last query and key, logsumexp (batch, heads, n)), computed plainly on the CPU.
PyTorch's operators check the arguments by their schema before they find that there is no CPU kernel.
"""

from __future__ import annotations

import math
import types
from typing import Any, Callable, Optional

import pytest
import torch
from dilated_attention_pytorch import backends
from dilated_attention_pytorch.backends import Call, Need
from test_composition import OPTIONS, compare
from torch import Tensor

H100, A100, OLD = (9, 0), (8, 0), (7, 0)


# ---- choosing --------------------------------------------------------------------------------------------------------


def need(capability: tuple[int, int] = H100, dtype: Any = None, head_dim: int = 64, **needs: bool) -> Need:
    return Need("cuda", capability, torch.bfloat16 if dtype is None else dtype, head_dim, **needs)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes exactly these libraries importable, as far as backends can see."""

    def install(*names: str) -> None:
        for kernel in backends.KERNELS:
            there = kernel.name in names or kernel.name.startswith("torch_")
            monkeypatch.setattr(
                kernel, "missing", lambda there=there: None if there else "cannot be imported", raising=False
            )

    return install


ALL = ("flash_attention_3", "flash_attention_2", "xformers")


@pytest.mark.parametrize(
    "libraries, wanted, chosen",
    [
        (ALL, {}, "flash_attention_3"),
        (ALL, {"capability": A100}, "flash_attention_2"),
        (ALL, {"capability": (10, 0)}, "flash_attention_2"),
        (ALL[1:], {}, "flash_attention_2"),
        (ALL[2:], {}, "xformers"),
        ((), {}, "torch_flash"),
        (ALL, {"capability": OLD}, "xformers"),
        ((), {"capability": OLD}, "torch_efficient"),
        (ALL, {"dtype": torch.float32}, "xformers"),
        ((), {"dtype": torch.float32}, "torch_efficient"),
        (ALL, {"dtype": torch.float64}, "torch_math"),
        (ALL, {"window": True}, "flash_attention_3"),
        (ALL[2:], {"window": True}, "torch_flash"),
        (ALL, {"window": True, "capability": OLD}, "torch_efficient"),
        (ALL, {"mask": True}, "torch_efficient"),
        (ALL, {"dropout": True}, "torch_math"),
        (ALL, {"head_dim": 300}, "torch_math"),
    ],
)
def test_the_guides_order(installed: Any, libraries: tuple[str, ...], wanted: dict[str, Any], chosen: str) -> None:
    installed(*libraries)
    assert backends.choose(need(**wanted)).name == chosen


def test_cpu_tensors_take_pytorchs_cpu_kernel() -> None:
    assert backends.choose(Need.of(torch.zeros(1, 4, 1, 8))).name == "torch_cpu_flash"


def test_other_devices_take_matrix_products() -> None:
    assert backends.choose(Need("mps", (0, 0), torch.float32, 64)).name == "torch_math"


def test_explain_names_every_reason(installed: Any) -> None:
    installed("flash_attention_2")
    reasons = backends.explain(need(A100, dtype=torch.float32))
    assert list(reasons) == [kernel.name for kernel in backends.KERNELS]
    assert reasons["flash_attention_3"] == "does not run on compute capability 8.0"
    assert reasons["flash_attention_2"] == "does not take torch.float32"
    assert reasons["xformers"] == "cannot be imported"
    assert reasons["torch_cpu_flash"] == "runs on cpu, not on cuda"
    assert reasons["torch_efficient"] == "" and reasons["torch_math"] == ""


def test_a_library_that_is_not_there_is_passed_over() -> None:
    found = {kernel.name: kernel.missing() for kernel in backends.KERNELS}
    for name in ALL:
        if found[name] is not None:
            assert found[name].startswith("cannot be imported")
    assert found["torch_flash"] is None


def test_a_library_that_fails_while_loading_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:
        raise OSError("undefined symbol: _ZN3c104cuda")

    monkeypatch.setattr(backends.importlib, "import_module", fail)
    backends._tried.cache_clear()
    assert "undefined symbol" in (backends.FlashAttention2().missing() or "")
    backends._tried.cache_clear()


# ---- calling: made-up libraries --------------------------------------------------------------------------------------


def hidden(queries: int, keys: int, causal: bool, left: int, right: int) -> Tensor:
    """FlashAttention's mask: aligned to the last query and key; negative sides are open."""
    gap = torch.arange(queries)[:, None] + keys - queries - torch.arange(keys)
    mask = torch.zeros(queries, keys, dtype=torch.bool)
    if causal:
        right = 0
    if left >= 0:
        mask |= gap > left
    if right >= 0:
        mask |= -gap > right
    return mask


def scores_of(q: Tensor, k: Tensor, scale: float, mask: Tensor) -> Tensor:
    return (torch.einsum("bqhd,bkhd->bhqk", q, k) * scale).masked_fill(mask, -math.inf)


def plain_forward(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor) -> tuple[Tensor, Tensor]:
    assert q.shape[-1] % 8 == 0 and q.stride(-1) == 1
    scores = scores_of(q, k, scale, mask)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v), scores.logsumexp(-1)


def plain_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    assert lse.shape == (q.shape[0], q.shape[2], q.shape[1]) and lse.is_contiguous()
    p = (scores_of(q, k, scale, mask) - lse[..., None]).exp()
    dp = torch.einsum("bqhd,bkhd->bhqk", dout, v)
    d = (dout * out).sum(-1).transpose(1, 2)[..., None]
    ds = p * (dp - d) * scale
    return (
        torch.einsum("bhqk,bkhd->bqhd", ds, k),
        torch.einsum("bhqk,bqhd->bkhd", ds, q),
        torch.einsum("bhqk,bqhd->bkhd", p, dout),
    )


def fill(targets: tuple[Tensor, ...], values: tuple[Tensor, ...]) -> None:
    for target, value in zip(targets, values):
        target.copy_(value)


def flash_2_7() -> Any:
    """FlashAttention 2.7 and later."""

    def _flash_attn_forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dropout_p: float,
        softmax_scale: float,
        causal: bool,
        window_size_left: int,
        window_size_right: int,
        softcap: float,
        alibi_slopes: Any,
        return_softmax: bool,
    ) -> Any:
        assert dropout_p == 0 and softcap == 0 and alibi_slopes is None and not return_softmax
        mask = hidden(q.shape[1], k.shape[1], causal, window_size_left, window_size_right)
        out, lse = plain_forward(q, k, v, softmax_scale, mask)
        return out, lse, torch.empty(0), torch.empty(2)

    def _flash_attn_backward(
        dout: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        softmax_lse: Tensor,
        dq: Tensor,
        dk: Tensor,
        dv: Tensor,
        dropout_p: float,
        softmax_scale: float,
        causal: bool,
        window_size_left: int,
        window_size_right: int,
        softcap: float,
        alibi_slopes: Any,
        deterministic: bool,
        rng_state: Any = None,
    ) -> Any:
        mask = hidden(q.shape[1], k.shape[1], causal, window_size_left, window_size_right)
        fill((dq, dk, dv), plain_backward(dout, q, k, v, out, softmax_lse, softmax_scale, mask))
        return torch.empty(0)

    return types.SimpleNamespace(**locals())


def flash_2_5() -> Any:
    """FlashAttention 2.3 to 2.6: eight results, and the window as one argument."""

    def _flash_attn_forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dropout_p: float,
        softmax_scale: float,
        causal: bool,
        window_size: tuple[int, int],
        alibi_slopes: Any,
        return_softmax: bool,
    ) -> Any:
        out, lse = plain_forward(q, k, v, softmax_scale, hidden(q.shape[1], k.shape[1], causal, *window_size))
        return out, q, k, v, out, lse, None, torch.empty(2)

    def _flash_attn_backward(
        dout: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        softmax_lse: Tensor,
        dq: Tensor,
        dk: Tensor,
        dv: Tensor,
        dropout_p: float,
        softmax_scale: float,
        causal: bool,
        window_size: tuple[int, int],
        alibi_slopes: Any,
        deterministic: bool,
        rng_state: Any = None,
    ) -> Any:
        mask = hidden(q.shape[1], k.shape[1], causal, *window_size)
        fill((dq, dk, dv), plain_backward(dout, q, k, v, out, softmax_lse, softmax_scale, mask))

    return types.SimpleNamespace(**locals())


def flash_3() -> Any:
    """FlashAttention 3, whose backward pass says is_causal; its functions are custom operators of PyTorch."""

    @torch.library.custom_op("da_test_flash_3::forward", mutates_args=())
    def _flash_attn_forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        k_new: Optional[Tensor] = None,
        softmax_scale: Optional[float] = None,
        causal: bool = False,
        window_size_left: int = -1,
        window_size_right: int = -1,
        attention_chunk: int = 0,
        softcap: float = 0.0,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        assert k_new is None and softmax_scale is not None
        mask = hidden(q.shape[1], k.shape[1], causal, window_size_left, window_size_right)
        out, lse = plain_forward(q, k, v, softmax_scale, mask)
        return out, lse, torch.empty(0), torch.empty(0)

    @torch.library.custom_op("da_test_flash_3::backward", mutates_args=("dq", "dk", "dv"))
    def _flash_attn_backward(
        dout: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        softmax_lse: Tensor,
        dq: Optional[Tensor] = None,
        dk: Optional[Tensor] = None,
        dv: Optional[Tensor] = None,
        softmax_scale: Optional[float] = None,
        is_causal: bool = False,
        window_size_left: int = -1,
        window_size_right: int = -1,
        softcap: float = 0.0,
        deterministic: bool = False,
    ) -> Tensor:
        assert dq is not None and dk is not None and dv is not None and softmax_scale is not None
        mask = hidden(q.shape[1], k.shape[1], is_causal, window_size_left, window_size_right)
        fill((dq, dk, dv), plain_backward(dout, q, k, v, out, softmax_lse, softmax_scale, mask))
        return torch.empty(0)

    return types.SimpleNamespace(_flash_attn_forward=_flash_attn_forward, _flash_attn_backward=_flash_attn_backward)


def xformers_fmha() -> Any:
    """xFormers' functions; some of its kernels pad the logsumexp to 32 rows."""

    class LowerTriangularMask:
        pass

    def mask_of(q: Tensor, k: Tensor, attn_bias: Any) -> Tensor:
        assert attn_bias is None or isinstance(attn_bias, LowerTriangularMask)
        assert attn_bias is None or q.shape[1] == k.shape[1]
        return hidden(q.shape[1], k.shape[1], attn_bias is not None, -1, -1)

    def memory_efficient_attention_forward_requires_grad(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_bias: Any = None,
        p: float = 0.0,
        scale: Any = None,
        *,
        op: Any = None,
    ) -> Any:
        assert p == 0.0
        out, lse = plain_forward(query, key, value, scale, mask_of(query, key, attn_bias))
        return out, torch.nn.functional.pad(lse, (0, -lse.shape[2] % 32), value=math.inf)

    def memory_efficient_attention_backward(
        grad: Tensor,
        output: Tensor,
        lse: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_bias: Any = None,
        p: float = 0.0,
        scale: Any = None,
        *,
        op: Any = None,
    ) -> Any:
        return plain_backward(grad, query, key, value, output, lse, scale, mask_of(query, key, attn_bias))

    return types.SimpleNamespace(
        attn_bias=types.SimpleNamespace(LowerTriangularMask=LowerTriangularMask),
        memory_efficient_attention_forward_requires_grad=memory_efficient_attention_forward_requires_grad,
        memory_efficient_attention_backward=memory_efficient_attention_backward,
    )


FLASH_3 = flash_3()
LIBRARIES = {
    "flash 2.7": (backends.FlashAttention2, flash_2_7),
    "flash 2.5": (backends.FlashAttention2, flash_2_5),
    "flash 3": (backends.FlashAttention3, lambda: FLASH_3),
    "xformers": (backends.XFormers, xformers_fmha),
}


def on_the_cpu(monkeypatch: pytest.MonkeyPatch, kind: type[backends.Kernel]) -> backends.Kernel:
    monkeypatch.setattr(kind, "devices", ("cpu",))
    monkeypatch.setattr(kind, "dtypes", (torch.float64,))
    return kind()


WINDOWS = ["window", "window causal", "window 0", "window torchscale"]


@pytest.mark.parametrize(
    "library, name",
    [
        (library, name)
        for library, (kind, _) in LIBRARIES.items()
        for name in ("paper", "causal", "torchscale", "head groups causal", "scale", *(WINDOWS if kind.window else ()))
    ],
)
def test_made_up_libraries(monkeypatch: pytest.MonkeyPatch, library: str, name: str) -> None:
    kind, make = LIBRARIES[library]
    module = make()
    monkeypatch.setattr(backends, "_imported", lambda *names: module)
    kernel = on_the_cpu(monkeypatch, kind)
    compare("ragged", OPTIONS[name], torch.float64, kernels=[kernel], key_lengths=(29, 12), head_dim=5)


# ---- calling: PyTorch's own CUDA operators ---------------------------------------------------------------------------


def checked_by_schema(real: Any, *arguments: Any, **named: Any) -> None:
    """PyTorch refuses arguments that do not fit the operator's schema with another error than a missing CPU kernel."""
    with pytest.raises(NotImplementedError, match="Could not run"):
        real(*arguments, **named)


def torch_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    real_forward, real_backward = (torch.ops.aten._flash_attention_forward, torch.ops.aten._flash_attention_backward)

    def forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cum_q: Any,
        cum_k: Any,
        max_q: int,
        max_k: int,
        dropout: float,
        causal: bool,
        debug: bool,
        *,
        scale: float,
        window_size_left: int,
        window_size_right: int,
    ) -> Any:
        checked_by_schema(
            real_forward,
            q,
            k,
            v,
            cum_q,
            cum_k,
            max_q,
            max_k,
            dropout,
            causal,
            debug,
            scale=scale,
            window_size_left=window_size_left,
            window_size_right=window_size_right,
        )
        assert (max_q, max_k) == (q.shape[1], k.shape[1])
        mask = hidden(max_q, max_k, causal, window_size_left, window_size_right)
        return (*plain_forward(q, k, v, scale, mask), None, None, None)

    def backward(
        g: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        cum_q: Any,
        cum_k: Any,
        max_q: int,
        max_k: int,
        dropout: float,
        causal: bool,
        rng: Tensor,
        unused: Tensor,
        *,
        scale: float,
        window_size_left: int,
        window_size_right: int,
    ) -> Any:
        checked_by_schema(
            real_backward,
            g,
            q,
            k,
            v,
            out,
            lse,
            cum_q,
            cum_k,
            max_q,
            max_k,
            dropout,
            causal,
            rng,
            unused,
            scale=scale,
            window_size_left=window_size_left,
            window_size_right=window_size_right,
        )
        mask = hidden(max_q, max_k, causal, window_size_left, window_size_right)
        return plain_backward(g, q, k, v, out, lse, scale, mask)

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", forward)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_backward", backward)


def torch_efficient(monkeypatch: pytest.MonkeyPatch) -> None:
    aten = torch.ops.aten
    real_forward = aten._scaled_dot_product_efficient_attention
    real_backward = aten._scaled_dot_product_efficient_attention_backward

    def swapped(*tensors: Tensor) -> list[Tensor]:
        return [x.transpose(1, 2) for x in tensors]

    def plain_mask(q: Tensor, k: Tensor, bias: Any, causal: bool) -> Tensor:
        if bias is not None:
            assert not causal and bias.stride(2) % 8 == 0 and bias.dtype == q.dtype
            return bias.isneginf()
        return hidden(q.shape[2], k.shape[2], causal, -1, -1)

    def forward(
        q: Tensor, k: Tensor, v: Tensor, bias: Any, compute_lse: bool, dropout: float, causal: bool, *, scale: float
    ) -> Any:
        checked_by_schema(real_forward, q, k, v, bias, compute_lse, dropout, causal, scale=scale)
        assert compute_lse
        scores = scores_of(*swapped(q, k), scale, plain_mask(q, k, bias, causal))
        lse = scores.logsumexp(-1)
        out = scores.softmax(-1).nan_to_num(0) @ v
        return out, torch.nn.functional.pad(lse, (0, -lse.shape[2] % 32), value=math.inf), None, None

    def backward(
        g: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Any,
        out: Tensor,
        lse: Tensor,
        seed: Tensor,
        offset: Tensor,
        dropout: float,
        wanted: list[bool],
        causal: bool,
        *,
        scale: float,
    ) -> Any:
        # the schema has a tensor for the bias, and takes None
        checked_by_schema(real_backward, g, q, k, v, bias, out, lse, seed, offset, dropout, wanted, causal, scale=scale)
        assert lse.shape[2] % 32 == 0 and wanted == [True, True, True, False]
        grads = plain_backward(
            *swapped(g, q, k, v, out), lse[:, :, : q.shape[2]].contiguous(), scale, plain_mask(q, k, bias, causal)
        )
        return (*swapped(*grads), None)

    monkeypatch.setattr(aten, "_scaled_dot_product_efficient_attention", forward)
    monkeypatch.setattr(aten, "_scaled_dot_product_efficient_attention_backward", backward)


@pytest.mark.parametrize("name", ["paper", "causal", "torchscale", *WINDOWS])
def test_pytorchs_flash_operators(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    torch_flash(monkeypatch)
    kernel = on_the_cpu(monkeypatch, backends.TorchFlash)
    compare("ragged", OPTIONS[name], torch.float64, kernels=[kernel], key_lengths=(29, 12), head_dim=5)


@pytest.mark.parametrize("name", ["paper", "causal", "torchscale", "once", "once causal", "window once", *WINDOWS])
def test_pytorchs_efficient_operators(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    torch_efficient(monkeypatch)
    kernel = on_the_cpu(monkeypatch, backends.TorchEfficient)
    compare("ragged", OPTIONS[name], torch.float64, kernels=[kernel], key_lengths=(29, 12), head_dim=5)


# ---- the kernels that run here ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [backends.TorchCpuFlash(), backends.TorchMath()], ids=lambda k: k.name)
def test_two_halves_of_the_keys_make_one_softmax(kernel: backends.Kernel) -> None:
    """The backward pass with a logsumexp over more keys: what all of composition rests on."""
    generator = torch.Generator().manual_seed(5)
    q, k, v, g = (torch.randn(2, 6, 3, 4, generator=generator, dtype=torch.float64) for _ in range(4))
    whole = Call(0.5)
    out, lse = kernel.forward(q, torch.cat([k, k + 1], 1), torch.cat([v, v - 1], 1), whole)
    expected = kernel.backward(g, q, torch.cat([k, k + 1], 1), torch.cat([v, v - 1], 1), out, lse, whole)
    first = kernel.backward(g, q, k, v, out, lse, whole)
    second = kernel.backward(g, q, k + 1, v - 1, out, lse, whole)
    torch.testing.assert_close(first[0] + second[0], expected[0])
    torch.testing.assert_close(torch.cat([first[1], second[1]], 1), expected[1])
    torch.testing.assert_close(torch.cat([first[2], second[2]], 1), expected[2])


def test_a_users_kernel() -> None:
    class Mine(backends.TorchMath):
        name = "mine"
        calls = 0

        def _forward(self, *arguments: Any) -> Any:
            Mine.calls += 1
            return super()._forward(*arguments)

    compare("ragged", OPTIONS["torchscale"], torch.float64, kernels=[Mine()])
    assert Mine.calls > 0
