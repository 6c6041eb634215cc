"""Checkpoints of the packages that this one takes the place of: their names, and what their modules computed with
them."""

import pytest
import torch
import torch.nn.functional as F
from dilated_attention_pytorch import functional
from dilated_attention_pytorch.checkpoints import load_checkpoint, own_names, read_state_dict, save_checkpoint
from dilated_attention_pytorch.core import create_multihead_dilated_attention
from dilated_attention_pytorch.long_net import LongNet, LongNetLM

PATTERNS = {"segment_lengths": [4, 8], "dilation_rates": [1, 2]}
E = 24


def multihead(**options):
    return create_multihead_dilated_attention("improved", E, 4, **PATTERNS, **{"dtype": torch.float64, **options})


def linear(*names, rows=E, columns=E):
    """Random weights and biases for these names."""
    state = {}
    for name in names:
        state[f"{name}.weight"] = torch.randn(rows, columns, dtype=torch.float64)
        state[f"{name}.bias"] = torch.randn(rows, dtype=torch.float64)
    return state


def norms(*names, width=E):
    return {f"{name}.{kind}": torch.randn(width, dtype=torch.float64) for name in names for kind in ("weight", "bias")}


def apply(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def norm(state, name, x):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def attend(q, k, v, **options):
    heads = [x.unflatten(-1, (4, -1)) for x in (q, k, v)]
    return functional.dilated_attention(*heads, **PATTERNS, **options).flatten(-2)


def tokens(width=E):
    return torch.randn(2, 19, width, dtype=torch.float64)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def of_torchscale(prefix=""):
    state = linear("q_proj", "k_proj", "v_proj", "out_proj") | norms("inner_attn_ln")
    return {prefix + name: tensor for name, tensor in state.items()}


def test_fkodoms_module():
    state = linear("q_proj", "k_proj", "v_proj", "out_proj") | norms("norm")
    made, x = multihead(preset="head_groups"), tokens()
    load_checkpoint(made, state)
    attended = attend(*(apply(state, f"{part}_proj", x) for part in "qkv"), preset="head_groups")
    torch.testing.assert_close(made(x), apply(state, "out_proj", norm(state, "norm", attended)))


def test_darcstars_standard_module_shares_a_norm():
    state = linear("q_proj", "k_proj", "v_proj", "out_proj") | norms("q_ln", "k_ln")
    made, x = multihead(preset="head_groups", qk_layer_norm=True), tokens()
    load_checkpoint(made, state)
    q, k = (norm(state, f"{part}_ln", apply(state, f"{part}_proj", x)) for part in "qk")
    attended = attend(q, k, apply(state, "v_proj", x), preset="head_groups")
    torch.testing.assert_close(made(x), apply(state, "out_proj", norm(state, "q_ln", attended)))


def test_darcstars_fused_module():
    state = linear("qkv_proj", rows=3 * E) | linear("out_proj") | norms("q_ln", "k_ln")
    made, x = multihead(preset="head_groups"), tokens()
    load_checkpoint(made, state)
    attended = attend(*apply(state, "qkv_proj", x).chunk(3, -1), preset="head_groups")
    torch.testing.assert_close(made(x), apply(state, "out_proj", norm(state, "q_ln", attended)))


def test_torchscales_module_below_a_prefix():
    state = of_torchscale("encoder.layers.3.self_attn.") | of_torchscale("encoder.layers.2.self_attn.")
    made, x = multihead(preset="torchscale"), tokens()
    load_checkpoint(made, state, prefix="encoder.layers.3.self_attn.")
    own = {name.removeprefix("encoder.layers.3.self_attn."): t for name, t in state.items() if "layers.3" in name}
    attended = attend(*(apply(own, f"{part}_proj", x) for part in "qkv"), preset="torchscale")
    torch.testing.assert_close(made(x), apply(own, "out_proj", norm(own, "inner_attn_ln", attended)))


def encoder_of_torchscale(layers=2, wide=40):
    state = norms("layer_norm")
    for number in range(layers):
        layer = {f"self_attn.{name}": t for name, t in of_torchscale().items()}
        layer |= norms("self_attn_layer_norm", "final_layer_norm") | norms("ffn.ffn_layernorm", width=wide)
        layer |= linear("ffn.fc1", rows=wide) | linear("ffn.fc2", columns=wide)
        state |= {f"layers.{number}.{name}": 0.3 * t for name, t in layer.items()}
    return state


def test_torchscales_encoder():
    """The whole encoder, and its formulas written out: pre-norm, sub-norms, gelu."""
    state, x = encoder_of_torchscale(), tokens()
    made = LongNet(
        E, 4, 2, 0, 40, **PATTERNS, activation="gelu", encoder_norm=True, preset="torchscale", dtype=torch.float64
    )
    load_checkpoint(made.encoder, state)
    y = x
    for number in range(2):
        below = f"layers.{number}."
        own = {name.removeprefix(below): t for name, t in state.items() if name.startswith(below)}
        h = norm(own, "self_attn_layer_norm", y)
        attended = attend(*(apply(own, f"self_attn.{part}_proj", h) for part in "qkv"), preset="torchscale")
        y = y + apply(own, "self_attn.out_proj", norm(own, "self_attn.inner_attn_ln", attended))
        h = F.gelu(apply(own, "ffn.fc1", norm(own, "final_layer_norm", y)))
        y = y + apply(own, "ffn.fc2", norm(own, "ffn.ffn_layernorm", h))
    torch.testing.assert_close(made(x, is_causal=False), norm(state, "layer_norm", y))


def language_model(**options):
    return LongNetLM(50, E, 4, 1, 1, 40, **PATTERNS, dtype=torch.float64, **options)


def test_fkodoms_language_model_with_its_constant():
    source, made = language_model(position="embedding"), language_model(position="embedding")
    state = dict(source.state_dict()) | {"pos_embedding.scale": torch.ones(E // 2)}
    load_checkpoint(made, state)
    x = torch.randint(0, 50, (2, 13))
    assert torch.equal(made(x), source(x))


def test_darcstars_decoder_lacks_a_norm():
    made = language_model(decoder_self_attn_layer_norm=False)
    assert "long_net.decoder.layers.0.self_attn.norm.weight" not in made.state_dict()
    with pytest.raises(ValueError, match=r"missing: long_net.decoder.layers.0.self_attn.norm.bias"):
        load_checkpoint(language_model(), made.state_dict())
    load_checkpoint(language_model(decoder_self_attn_layer_norm=False), made.state_dict())


# ---- Files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_files_come_back(suffix, tmp_path):
    if suffix == "safetensors":
        pytest.importorskip("safetensors")
    made, other = multihead(qk_layer_norm=True), multihead(qk_layer_norm=True)
    path = tmp_path / f"weights.{suffix}"
    save_checkpoint(made, path)
    save_checkpoint(made, path)
    load_checkpoint(other, path)
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), other.state_dict().values()))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("wrapped", [{"state_dict": 0}, {"model": 0, "epoch": 3}, {"state_dict": {"module": 0}}])
def test_tensors_are_found_where_training_programs_put_them(wrapped, tmp_path):
    made = multihead()

    def filled(value):
        return {k: filled(v) for k, v in value.items()} if isinstance(value, dict) else value or made.state_dict()

    path = tmp_path / "c.pth"
    torch.save(filled(wrapped), path)
    assert read_state_dict(path).keys() == made.state_dict().keys()


def test_a_file_does_not_run_code(tmp_path):
    path = tmp_path / "evil.pt"
    torch.save({"model": print}, path)
    with pytest.raises(Exception, match="Weights only load failed"):
        read_state_dict(path)


def test_torchscales_names_are_written(tmp_path):
    made = multihead()
    save_checkpoint(made, tmp_path / "t.pt", names="torchscale")
    written = torch.load(tmp_path / "t.pt", weights_only=True)
    assert written.keys() == of_torchscale().keys()
    encoder = LongNet(E, 4, 2, 0, 40, **PATTERNS, encoder_norm=True, dtype=torch.float64).encoder
    save_checkpoint(encoder, tmp_path / "e.pt", names="torchscale")
    assert torch.load(tmp_path / "e.pt", weights_only=True).keys() == encoder_of_torchscale().keys()
    assert own_names(torch.load(tmp_path / "e.pt", weights_only=True)).keys() == encoder.state_dict().keys()


@pytest.mark.parametrize(
    "module, message",
    [
        (lambda: multihead(qk_layer_norm=True), "has no k_ln|has no q_ln"),
        (lambda: LongNet(E, 4, 1, 1, 40, **PATTERNS), "belongs to a decoder"),
    ],
)
def test_what_torchscale_has_no_name_for(module, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_checkpoint(module(), tmp_path / "x.pt", names="torchscale")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="names is 'fairseq'; allowed: own, torchscale"):
        save_checkpoint(module(), tmp_path / "x.pt", names="fairseq")


# ---- What does not fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("q_proj.bias"), "missing: q_proj.bias"),
        (lambda s: s.update(extra=torch.ones(2)), "no parameter here: extra"),
        (
            lambda s: s.update({"out_proj.weight": torch.ones(3, E)}),
            r"another shape: out_proj.weight is \(3, 24\), here \(24, 24\)",
        ),
        (
            lambda s: s.update({"q_ln.weight": torch.ones(E), "q_ln.bias": torch.ones(E)}),
            "no parameter here: q_ln.bias, q_ln.weight",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_changes_nothing(change, message):
    made, state = multihead(), dict(multihead().state_dict())
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(made, state)
    assert all(torch.equal(before[name], tensor) for name, tensor in made.state_dict().items())


def test_types_are_converted():
    state = {name: tensor.half() for name, tensor in multihead().state_dict().items()}
    made = multihead(dtype=torch.float32)
    load_checkpoint(made, state)
    assert made.q_proj.weight.dtype == torch.float32 and torch.equal(made.q_proj.weight, state["q_proj.weight"].float())


def test_nothing_to_read():
    with pytest.raises(ValueError, match="the mapping holds no tensors"):
        load_checkpoint(multihead(), {"epoch": 3})
    with pytest.raises(ValueError, match=r"prefix is 'decoder.', and no tensor's name starts with it"):
        load_checkpoint(multihead(), multihead().state_dict(), prefix="decoder.")
    with pytest.raises(ValueError, match=r"qkv_proj.weight has 25 rows; allowed: a multiple of 3"):
        load_checkpoint(multihead(), linear("qkv_proj", rows=25))
