"""torchscale: the drop-in DilatedAttention against torchscale's formulas in float64, and patching."""

from __future__ import annotations

import copy
import io
import os
import sys
import textwrap
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchscale_formulas as formulas
from dilated_attention_pytorch import torchscale
from dilated_attention_pytorch.torchscale import DilatedAttention
from float64_reference import head_passes
from torch import Tensor, nn

NEAR = {"rtol": 1e-12, "atol": 1e-12}  # f64 sums of at most 100 terms of size 10


def args_of(segment_length: Any = (4, 16), dilated_ratio: Any = (1, 3), **more: Any) -> Any:
    """What torchscale's configuration objects hold."""
    values = {
        "flash_attention": True,
        "segment_length": segment_length,
        "dilated_ratio": dilated_ratio,
        "seq_parallel": False,
        "multiway": False,
        "layernorm_eps": 1e-5,
        "xpos_rel_pos": False,
        "xpos_scale_base": 512,
    }
    return types.SimpleNamespace(**{**values, **more})


def made(
    embed_dim: int = 24,
    heads: int = 4,
    *,
    args: Any = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    **more: Any,
) -> DilatedAttention:
    torch.manual_seed(seed)
    options = {"self_attention": True, "subln": True, **more}
    attention = DilatedAttention(args_of() if args is None else args, embed_dim, heads, **options).to(dtype)
    for name, parameter in attention.named_parameters():
        if "ln" in name:
            nn.init.normal_(parameter, 1.0, 0.3)
    return attention


def tokens(
    n: int = 19, batch: int = 2, embed_dim: int = 24, seed: int = 1, dtype: torch.dtype = torch.float64
) -> Tensor:
    return torch.randn(batch, n, embed_dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )


def by_formula(attention: DilatedAttention, x: Tensor, **options: Any) -> Tensor:
    return formulas.module(
        dict(attention.named_parameters()),
        x,
        attention.num_heads,
        attention.args.segment_length,
        attention.args.dilated_ratio,
        **options,
    )


# ---- the formulas themselves -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "n, heads, lengths, rates",
    [(16, 4, (4, 8), (1, 2)), (19, 6, (4, 16), (1, 4)), (11, 5, (5, 20), (1, 5)), (30, 3, (8, 32), (2, 4))],
)
def test_the_formulas_are_the_definition(n: int, heads: int, lengths: Any, rates: Any, causal: bool) -> None:
    q, k, v = (
        torch.randn(2, n, heads, 4, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in range(3)
    )
    found = formulas.dilated(q, k, v, lengths, rates, causal)
    for b, h, _, _, _, _, one in head_passes(
        q.numpy(), k.numpy(), v.numpy(), lengths, rates, causal=causal, offset_rule="block", tail_rule="zero_pad"
    ):
        torch.testing.assert_close(found[b, :, h], torch.from_numpy(one.out), **NEAR)


# ---- forward and backward --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("use_xpos", [False, True])
@pytest.mark.parametrize("n", [1, 3, 16, 19, 40])
def test_forward(n: int, use_xpos: bool, causal: bool) -> None:
    attention, x = made(args=args_of(xpos_rel_pos=use_xpos)), tokens(n)
    out, nothing = attention(x, x, x, is_causal=causal)
    assert nothing is None
    torch.testing.assert_close(out, by_formula(attention, x, is_causal=causal, use_xpos=use_xpos), **NEAR)


@pytest.mark.parametrize("gradient", ["exact", "torchscale"])
@pytest.mark.parametrize("causal", [False, True])
def test_gradients(gradient: str, causal: bool) -> None:
    attention, x = made(gradient=gradient), tokens().requires_grad_()
    wanted = [x, *attention.parameters()]
    expected = by_formula(attention, x, is_causal=causal, detach_mixing=gradient == "torchscale")
    out, _ = attention(x, x, x, is_causal=causal)
    torch.testing.assert_close(out, expected, **NEAR)
    direction = tokens(seed=2)
    for found, exact in zip(
        torch.autograd.grad(out, wanted, direction), torch.autograd.grad(expected, wanted, direction)
    ):
        torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)


def test_the_two_gradients_differ() -> None:
    x = tokens().requires_grad_()
    grads = []
    for gradient in ("exact", "torchscale"):
        attention = made(gradient=gradient)
        grads.append(torch.autograd.grad(attention(x, x, x)[0].square().sum(), x)[0])
    assert (grads[0] - grads[1]).abs().max() > 1e-3


def test_a_head_count_that_no_rate_divides() -> None:
    attention, x = made(30, 5, args=args_of((6, 24), (2, 4))), tokens(29, embed_dim=30)
    torch.testing.assert_close(attention(x, x, x)[0], by_formula(attention, x), **NEAR)


def test_without_subln() -> None:
    attention, x = made(subln=False), tokens()
    assert attention.inner_attn_ln is None
    torch.testing.assert_close(attention(x, x, x)[0], by_formula(attention, x), **NEAR)


@pytest.mark.parametrize("text", ["[4, 16]", " [4,16] ", (4, 16), [4, 16]])
def test_configurations_as_text(text: Any) -> None:
    attention, x = made(args=args_of(text)), tokens()
    torch.testing.assert_close(attention(x, x, x)[0], by_formula(made(), x), **NEAR)


def test_flash_attention_is_not_asked_for() -> None:
    attention, x = made(args=args_of(flash_attention=False)), tokens()
    torch.testing.assert_close(attention(x, x, x)[0], by_formula(attention, x), **NEAR)


@pytest.mark.parametrize("dtype, near", [(torch.float32, 2e-6), (torch.bfloat16, 5e-2), (torch.float16, 8e-3)])
def test_data_types(dtype: torch.dtype, near: float) -> None:
    """near: a few roundings of the data type, of results of size 1, through two projections and a norm."""
    exact, x = made(), tokens()
    rounded = copy.deepcopy(exact).to(dtype)
    assert (rounded(*[x.to(dtype)] * 3)[0].double() - by_formula(exact, x)).abs().max() < near


def test_dropout_is_applied_in_training_alone() -> None:
    attention, x = made(dropout=0.5), tokens()
    attention.eval()
    torch.testing.assert_close(attention(x, x, x)[0], by_formula(attention, x), **NEAR)
    attention.train()
    torch.manual_seed(1)
    first = attention(x, x, x)[0]
    torch.manual_seed(1)
    assert torch.equal(attention(x, x, x)[0], first) and not torch.equal(attention(x, x, x)[0], first)


@pytest.mark.parametrize("downscale", [False, True])
@pytest.mark.parametrize("n, total", [(7, 7), (8, 8), (1, 9), (3, 12)])
def test_xpos(n: int, total: int, downscale: bool) -> None:
    x = tokens(n, embed_dim=24).unflatten(-1, (4, 6))
    found = torchscale.XPos(6, 64)(x, total, downscale=downscale)
    torch.testing.assert_close(found, formulas.xpos(x, total - n, downscale, 64), **NEAR)


# ---- masks -----------------------------------------------------------------------------------------------------------


def test_padding_hides_keys() -> None:
    attention, x = made(), tokens()
    mask = torch.arange(19) >= torch.tensor([[19], [12]])
    changed = x.clone()
    changed[1, 12:] = 7.0
    out = attention(x, x, x, key_padding_mask=mask)[0]
    again = attention(changed, changed, changed, key_padding_mask=mask)[0]
    torch.testing.assert_close(out[0], attention(x, x, x)[0][0], **NEAR)
    torch.testing.assert_close(out[1, :12], again[1, :12], **NEAR)
    assert (out[1, :12] - attention(x, x, x)[0][1, :12]).abs().max() > 1e-3


def test_padding_that_is_ignored_as_torchscale_does() -> None:
    attention, x = made(padding="ignore"), tokens()
    mask = torch.ones(2, 19, dtype=torch.bool)
    assert torch.equal(attention(x, x, x, key_padding_mask=mask)[0], attention(x, x, x)[0])


def test_a_mask_that_hides_nothing() -> None:
    attention, x = made(), tokens()
    mask = torch.zeros(2, 19)  # torchscale's encoder gives one always
    assert torch.equal(attention(x, x, x, key_padding_mask=mask)[0], attention(x, x, x)[0])


@pytest.mark.parametrize("hidden", [float("-inf"), -1e8])
def test_the_causal_mask(hidden: float) -> None:
    attention, x = made(), tokens()
    mask = torch.zeros(19, 19).masked_fill(torch.ones(19, 19, dtype=torch.bool).triu(1), hidden)
    expected = attention(x, x, x, is_causal=True)[0]
    assert torch.equal(attention(x, x, x, attn_mask=mask)[0], expected)
    assert torch.equal(attention(x, x, x, attn_mask=mask < 0)[0], expected)


def test_an_empty_attention_mask() -> None:
    attention, x = made(), tokens()
    assert torch.equal(attention(x, x, x, attn_mask=torch.zeros(19, 19))[0], attention(x, x, x)[0])


# ---- decoding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_xpos", [False, True])
@pytest.mark.parametrize("steps", [[1] * 21, [7, 1, 1, 5, 1, 6], [21]])
def test_decoding_gives_the_rows_of_the_whole(steps: list[int], use_xpos: bool) -> None:
    attention = made(args=args_of((4, 10, 16), (1, 2, 4), xpos_rel_pos=use_xpos))
    x = tokens(21)
    whole = attention(x, x, x, is_causal=True)[0]
    state: dict[str, Any] = {}
    done = 0
    for size in steps:
        part = x[:, done : done + size]
        out, _ = attention(part, part, part, incremental_state=state, is_first_step=done == 0, is_causal=True)
        done += size
        assert state["prev_key"].shape == state["prev_value"].shape == (2, 4, done, 6)
        # xPos is centred on the length so far, which no score sees: only differences of positions enter
        torch.testing.assert_close(out, whole[:, done - size : done], rtol=1e-10, atol=1e-10)


def test_decoding_without_causality_sees_the_keys_so_far() -> None:
    attention, x = made(), tokens(11)
    state: dict[str, Any] = {}
    attention(*[x[:, :10]] * 3, incremental_state=state, is_first_step=True)
    out, _ = attention(*[x[:, 10:]] * 3, incremental_state=state)
    torch.testing.assert_close(out, attention(x, x, x)[0][:, 10:], **NEAR)


def test_decoding_where_no_pattern_keeps_the_query() -> None:
    attention, x = made(args=args_of((8,), (4,)), subln=False), tokens(10).requires_grad_()
    whole = attention(x, x, x, is_causal=True)[0]
    state: dict[str, Any] = {}
    attention(*[x[:, :5]] * 3, incremental_state=state, is_first_step=True, is_causal=True)
    out, _ = attention(*[x[:, 5:]] * 3, incremental_state=state, is_causal=True)
    torch.testing.assert_close(out, whole[:, 5:], **NEAR)
    found, expected = (torch.autograd.grad(y[:, -5:].square().sum(), x)[0] for y in (out, whole))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_decoding_with_padding_on_the_left_of_the_new_token() -> None:
    attention, x = made(), tokens(9)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[1, 2:4] = True  # any mask will do where the new token's weights are computed directly
    state: dict[str, Any] = {}
    attention(*[x[:, :8]] * 3, incremental_state=state, is_first_step=True, is_causal=True)
    out, _ = attention(*[x[:, 8:]] * 3, incremental_state=state, is_causal=True, key_padding_mask=mask)
    changed = {"prev_key": state["prev_key"][:, :, :8].clone(), "prev_value": state["prev_value"][:, :, :8].clone()}
    changed["prev_key"][1, :, 2:4], changed["prev_value"][1, :, 2:4] = 3.0, -5.0
    again, _ = attention(*[x[:, 8:]] * 3, incremental_state=changed, is_causal=True, key_padding_mask=mask)
    torch.testing.assert_close(out, again, **NEAR)


# ---- parameters ------------------------------------------------------------------------------------------------------


def test_names_of_parameters() -> None:
    names = set(made(args=args_of(xpos_rel_pos=True)).state_dict())
    assert names == {f"{p}_proj.{w}" for p in ("q", "k", "v", "out") for w in ("weight", "bias")} | {
        "inner_attn_ln.weight",
        "inner_attn_ln.bias",
        "xpos.scale",
    }


def test_multiway() -> None:
    attention, x = made(args=args_of(multiway=True)), tokens()
    assert {name.split(".")[1] for name in attention.state_dict()} == {"A", "B"}
    plain = made()

    def load(part: str) -> Tensor:
        plain.load_state_dict(
            {
                name.replace(f".{part}.", "."): value
                for name, value in attention.state_dict().items()
                if f".{part}." in name
            }
        )
        return plain(x, x, x)[0]

    torch.testing.assert_close(attention(x, x, x)[0], load("A"), **NEAR)
    for module in attention.modules():  # torchscale's set_split_position
        if hasattr(module, "split_position"):
            module.split_position = 0
    torch.testing.assert_close(attention(x, x, x)[0], load("B"), **NEAR)
    for module in attention.modules():
        if hasattr(module, "split_position"):
            module.split_position = 5
    k = attention.k_proj(x)
    torch.testing.assert_close(k, torch.cat([attention.k_proj.A(x[:, :5]), attention.k_proj.B(x[:, 5:])], 1), **NEAR)


def test_reset_parameters() -> None:
    for multiway in (False, True):
        attention = made(240, 4, args=args_of(multiway=multiway))
        attention.reset_parameters()
        for name, bound in (("q_proj", (6 / 480) ** 0.5 / 2**0.5), ("out_proj", (6 / 480) ** 0.5)):
            for part in getattr(attention, name).modules():
                if isinstance(part, nn.Linear):
                    assert 0.99 * bound < part.weight.abs().max() <= bound
                    assert name != "out_proj" or not part.bias.any()


def test_manners_of_a_module() -> None:
    attention, x = made(args=args_of(xpos_rel_pos=True)), tokens()
    expected = attention(x, x, x)[0]
    file = io.BytesIO()
    torch.save(attention, file)
    file.seek(0)
    for copied in (copy.deepcopy(attention), torch.load(file, weights_only=False)):
        assert torch.equal(copied(x, x, x)[0], expected)
    other = made(args=args_of(xpos_rel_pos=True), seed=5)
    other.load_state_dict(attention.state_dict())
    assert torch.equal(other(x, x, x)[0], expected)
    assert "segment_length=[4, 16], dilated_ratio=[1, 3]" in repr(attention)


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_xpos", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_weights_and_masses(causal: bool, use_xpos: bool) -> None:
    attention, x = made(args=args_of(xpos_rel_pos=use_xpos), subln=False), tokens()
    mask = torch.arange(19) >= torch.tensor([[19], [12]])
    given = {"is_causal": causal, "key_padding_mask": mask}
    weights = attention.attention_weights(x, range(19), **given)
    values = attention.v_proj(x).unflatten(-1, (4, 6))
    out = attention.out_proj(torch.einsum("bhqk,bkhd->bqhd", weights, values).flatten(2))
    torch.testing.assert_close(out, attention(x, x, x, **given)[0], **NEAR)
    torch.testing.assert_close(attention.key_mass(x, **given), weights.sum(2).transpose(1, 2), **NEAR)
    torch.testing.assert_close(
        attention.attention_weights(x, [4], average_heads=True, **given), weights.mean(1)[:, [4]]
    )


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, words",
    [
        ({"self_attention": True, "encoder_decoder_attention": True}, "allowed: one of them True"),
        ({"self_attention": False}, "both False"),
        ({"gradient": "none"}, "gradient is 'none'"),
        ({"padding": "zero"}, "padding is 'zero'"),
        ({"args": args_of(None)}, "args.segment_length is None"),
        ({"args": args_of("four")}, "args.segment_length is 'four'"),
        ({"args": args_of((4, 16), (1, 20))}, r"dilation_rates\[1\] is 20"),
        ({"args": args_of((4,), (1, 2))}, "dilation_rates has 2 values"),
        ({"heads": 5}, "embed_dim is 24; allowed: a multiple of num_heads, which is 5"),
    ],
)
def test_constructors_that_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made(**change)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"rel_pos": torch.zeros(4, 19, 19)}, "rel_pos is given"),
        ({"key": tokens(18)}, "key has shape"),
        ({"value": tokens(19, embed_dim=23)}, "value has shape"),
        ({"query": tokens()[0]}, "query has shape"),
        ({"key_padding_mask": torch.zeros(2, 18)}, "key_padding_mask has shape"),
        ({"key_padding_mask": torch.tensor([[True] + [False] * 18] * 2)}, "padding at the end"),
        ({"attn_mask": torch.randn(19, 19)}, "neither the causal mask nor empty"),
        ({"attn_mask": torch.ones(19, 19, dtype=torch.bool).tril()}, "neither the causal mask nor empty"),
        ({"attn_mask": torch.zeros(18, 18)}, "neither the causal mask nor empty"),
    ],
)
def test_calls_that_are_refused(change: dict[str, Any], words: str) -> None:
    x = tokens()
    with pytest.raises(ValueError, match=words):
        made()(**{"query": x, "key": x, "value": x, **change})


# ---- patching --------------------------------------------------------------------------------------------------------

ATTENTION = """
import torch
class DilatedAttention(torch.nn.Module):
    def __init__(self, args, embed_dim, num_heads, dropout=0.0, self_attention=False, encoder_decoder_attention=False,
                 subln=False):
        super().__init__()
    def forward(self, *args, **kwargs):
        raise AssertionError("no CUDA")
"""
MODEL = """
import torch
from {package}.component.dilated_attention import DilatedAttention
class Layer(torch.nn.Module):
    def __init__(self, args):
        super().__init__()
        self.self_attn = DilatedAttention(args, 24, 4, self_attention=True, subln=True)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package that is laid out as torchscale is."""
    name = "made_up_torchscale"
    for path, text in (
        ("component/dilated_attention.py", ATTENTION),
        ("model/longnet.py", MODEL.format(package=name)),
        ("__init__.py", ""),
        ("component/__init__.py", ""),
        ("model/__init__.py", ""),
    ):
        file = tmp_path / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    torchscale.unpatch()
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        del sys.modules[module]


def test_patch_and_unpatch(package: str) -> None:
    model = __import__(f"{package}.model.longnet", fromlist=["Layer"])
    original = model.DilatedAttention
    replaced = torchscale.patch(package)
    assert replaced == [
        f"{package}.component.dilated_attention.DilatedAttention",
        f"{package}.model.longnet.DilatedAttention",
    ]
    layer, x = model.Layer(args_of()).double(), tokens()
    torch.testing.assert_close(layer.self_attn(x, x, x)[0], by_formula(layer.self_attn, x), **NEAR)
    assert torchscale.patch(package) == []  # a second time changes nothing
    assert sorted(torchscale.unpatch()) == replaced
    assert model.DilatedAttention is original and torchscale.unpatch() == []


def test_patch_before_the_model_is_imported(package: str) -> None:
    torchscale.patch(package)
    model = __import__(f"{package}.model.longnet", fromlist=["Layer"])
    assert isinstance(model.Layer(args_of()).self_attn, DilatedAttention)


def test_patch_takes_a_module_of_a_package_that_uses_a_copy(package: str) -> None:
    model = __import__(f"{package}.model.longnet", fromlist=["Layer"])
    user = types.ModuleType("made_up_slide_encoder")
    user.DilatedAttention = model.DilatedAttention  # type: ignore[attr-defined]
    sys.modules[user.__name__] = user
    try:
        assert torchscale.patch(user) == ["made_up_slide_encoder.DilatedAttention"]
        assert user.DilatedAttention is DilatedAttention and model.DilatedAttention is not DilatedAttention
    finally:
        torchscale.unpatch()
        del sys.modules[user.__name__]


def test_patch_sets_what_models_take(package: str) -> None:
    model = __import__(f"{package}.model.longnet", fromlist=["Layer"])
    torchscale.patch(package, gradient="torchscale", padding="ignore")
    attention = model.Layer(args_of()).self_attn
    assert (attention.gradient, attention.padding) == ("torchscale", "ignore")
    torchscale.unpatch()
    assert (made().gradient, made().padding) == ("exact", "mask")


def test_patch_of_what_is_not_there() -> None:
    with pytest.raises(ImportError, match="no_such_package"):
        torchscale.patch("no_such_package")
    with pytest.raises(ValueError, match="package is 'json'"):
        torchscale.patch("json")


# ---- an encoder ------------------------------------------------------------------------------------------------------

# DA_SLOW=1: the slide encoder of 12 layers, 768 wide, 16 heads, over 10,000 tiles and the class token.
SIZES = {
    "small": (3, 96, 8, 400, (64, 181, 512), (1, 2, 4)),
    "slide": (12, 768, 16, 10_001, (1024, 5792, 32768, 185363, 1048576), (1, 2, 4, 8, 16)),
}


@pytest.mark.parametrize(
    "size",
    [
        "small",
        pytest.param(
            "slide", marks=pytest.mark.skipif(os.environ.get("DA_SLOW") != "1", reason="takes minutes: set DA_SLOW=1")
        ),
    ],
)
def test_an_encoder_in_f32(size: str) -> None:
    """As close to float64 as 1e-5, which is what results of size 1 allow: 2^-24 times the few dozen roundings of a
    layer, and layers add up."""
    layers, width, heads, n, lengths, rates = SIZES[size]
    torch.manual_seed(3)
    args = args_of(lengths, rates)
    encoder = nn.Sequential(
        *(
            formulas.EncoderLayer(
                DilatedAttention(args, width, heads, self_attention=True, subln=True), width, 4 * width
            )
            for _ in range(layers)
        ),
        nn.LayerNorm(width),
    )
    x = torch.randn(1, n, width)
    start = time.perf_counter()
    with torch.no_grad():
        out = encoder(x)
    seconds = time.perf_counter() - start
    exact = copy.deepcopy(encoder).double()
    for layer, plain in zip(exact[:-1], encoder[:-1]):
        layer.self_attn = formulas.FormulaAttention(plain.self_attn)
    with torch.no_grad():
        expected = exact(x.double())
    error = float((out - expected).abs().max())
    print(f"{size}: {seconds:.2f} s, largest error {error:.2e} of results up to {float(expected.abs().max()):.1f}")
    assert error < 1e-5
