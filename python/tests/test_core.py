"""The factory: creation, configurations, registration, information, the rules of "auto"."""

import subprocess
import sys

import dilated_attention_pytorch.core as core
import pytest
import torch
from dilated_attention_pytorch import _core
from dilated_attention_pytorch.core import (
    BaseDilatedAttention,
    BaseMultiheadDilatedAttention,
    DilatedAttentionConfig,
    MultiheadConfig,
    create_dilated_attention,
    create_multihead_dilated_attention,
    get_available_implementations,
    get_implementation_info,
    register_attention_implementation,
    register_multihead_attention_implementation,
    registry,
    select_implementation,
)
from torch import nn

SMALL = {"embed_dim": 24, "num_heads": 3, "segment_lengths": [4, 8], "dilation_rates": [1, 2]}
PATTERNS = {"segment_lengths": [4, 8], "dilation_rates": [1, 2]}


@pytest.fixture
def registered():
    """The tables of registered classes, put back after the test."""
    before = dict(registry._attentions), dict(registry._multiheads)
    yield
    for table, old in zip((registry._attentions, registry._multiheads), before):
        table.clear()
        table.update(old)


@pytest.fixture
def missing(monkeypatch):
    """Makes the C library say that an implementation is missing, or there."""
    info = _core.info

    def make(**available):
        def answer(name):
            found = dict(info(name))
            if name in available:
                found.update(available=available[name], reason="" if available[name] else f"no {name} today")
            return found

        monkeypatch.setattr(_core, "info", answer)

    return make


# ---- Creation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, expected", [("standard", "DilatedAttention"), ("improved", "ImprovedDilatedAttention")])
def test_creates_the_class_of_a_name(name, expected):
    made = create_dilated_attention(name, **PATTERNS)
    assert type(made).__name__ == expected and made.config.implementation == name
    around = create_multihead_dilated_attention(name, **SMALL)
    assert type(around.attention) is type(made) and around.attention.config.implementation == name


def test_defaults_are_the_guides():
    made = create_multihead_dilated_attention()
    assert (made.embed_dim, made.num_heads, made.head_dim) == (768, 12, 64)
    assert made.attention.segment_lengths == [2048, 4096, 8192] and made.attention.dilation_rates == [1, 2, 4]
    assert create_dilated_attention().segment_lengths == [2048, 4096, 8192]


def test_configurations_reach_the_module_and_arguments_win():
    attention = DilatedAttentionConfig([4, 8], [1, 2], dropout=0.1, use_tf32=False, window=3)
    multihead = MultiheadConfig(24, 3, bias=False, layer_norm=False, gamma_init=0.5)
    made = create_multihead_dilated_attention(
        "auto", multihead_config=multihead, attention_config=attention, dropout=0.2
    )
    assert made.embed_dim == 24 and made.q_proj.bias is None and made.norm is None and made.gamma_init == 0.5
    assert made.attention.dropout == 0.2 and made.attention.config.window == 3 and not made.attention.config.use_tf32
    assert attention.dropout == 0.1, "the caller's configuration stays as it is"
    wider = create_multihead_dilated_attention("auto", 48, 6, attention_config=attention)
    assert wider.embed_dim == 48 and wider.attention.dropout == 0.1
    assert create_dilated_attention("auto", [6], [3], config=attention).segment_lengths == [6]


def test_device_and_dtype_reach_every_parameter():
    made = create_multihead_dilated_attention("auto", **SMALL, qk_layer_norm=True, dtype=torch.bfloat16, device="meta")
    assert {(p.dtype, p.device.type) for p in made.parameters()} == {(torch.bfloat16, "meta")}
    of_config = create_multihead_dilated_attention(
        "auto", attention_config=DilatedAttentionConfig([4], [1], dtype=torch.float64), embed_dim=8, num_heads=2
    )
    assert of_config.q_proj.weight.dtype == torch.float64
    with pytest.raises(
        ValueError, match=r"multihead_config.dtype is torch.float32, attention_config.dtype torch.float64"
    ):
        create_multihead_dilated_attention(
            "auto",
            multihead_config=MultiheadConfig(8, 2, dtype=torch.float32),
            attention_config=DilatedAttentionConfig([4], [1], dtype=torch.float64),
        )


@pytest.mark.parametrize("create", [create_dilated_attention, create_multihead_dilated_attention])
@pytest.mark.parametrize("name", ["nonsense", "", "Improved", "auto "])
def test_unknown_names_are_refused_with_the_known_ones(create, name):
    with pytest.raises(ValueError, match=r"allowed: auto, standard, improved, ring, distributed, block_sparse"):
        create(name)


@pytest.mark.parametrize("create", [create_dilated_attention, create_multihead_dilated_attention])
@pytest.mark.parametrize("name", ["ring", "distributed", "block_sparse"])
def test_an_unavailable_implementation_says_why(create, name, missing):
    missing(**{name: False})
    with pytest.raises(
        ValueError, match=f"'{name}' is not available: no {name} today; available: auto, standard, improved"
    ):
        create(name)


@pytest.mark.parametrize("name", ["ring", "distributed", "block_sparse"])
def test_an_implementation_is_created_as_soon_as_the_library_has_it(name, missing):
    missing(**{name: True})
    assert name in get_available_implementations()
    made = create_multihead_dilated_attention(name, **SMALL)
    assert made.attention.config.implementation == name and type(made).__name__.lower().startswith(
        name.replace("_", "")
    )


@pytest.mark.parametrize("name", ["ring", "distributed", "block_sparse"])
def test_the_librarys_own_answer(name):
    info = get_implementation_info(name)
    if info["available"]:
        assert create_dilated_attention(name, **PATTERNS).config.implementation == name
    else:
        assert info["reason"]
        with pytest.raises(ValueError, match="is not available"):
            create_dilated_attention(name, **PATTERNS)


@pytest.mark.parametrize("create", [create_dilated_attention, create_multihead_dilated_attention])
def test_unknown_arguments_are_named(create):
    with pytest.raises(TypeError, match=r"got the argument 'dropuot'; allowed: .*dropout"):
        create("auto", dropuot=0.1)
    with pytest.raises(TypeError, match="'implementation'"):
        create("auto", implementation="ring")


def test_configurations_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="allowed: MultiheadConfig"):
        create_multihead_dilated_attention("auto", multihead_config={"embed_dim": 8})
    with pytest.raises(TypeError, match="allowed: DilatedAttentionConfig"):
        create_dilated_attention("auto", config=MultiheadConfig(8, 2))


# ---- Configurations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, error, message",
    [
        ({"segment_lengths": [4]}, ValueError, "segment_lengths"),
        ({"segment_lengths": [], "dilation_rates": []}, ValueError, "0 values"),
        ({"segment_lengths": [4, 0]}, ValueError, r"segment_lengths\[1\] is 0"),
        ({"dilation_rates": [1, 9]}, ValueError, r"dilation_rates\[1\] is 9"),
        ({"segment_lengths": [4.0, 8]}, TypeError, r"segment_lengths\[0\] is 4.0"),
        ({"segment_lengths": 4}, TypeError, "segment_lengths is 4"),
        ({"dropout": 1.0}, ValueError, "dropout is 1.0"),
        ({"dropout": -0.1}, ValueError, "dropout is -0.1"),
        ({"dropout": "much"}, TypeError, "dropout is 'much'"),
        ({"dropout": float("nan")}, ValueError, "dropout is nan"),
        ({"window": -1}, ValueError, "window is -1"),
        ({"softmax_scale": float("inf")}, ValueError, "softmax_scale is inf"),
        ({"preset": "long_net"}, ValueError, "preset is 'long_net'; allowed: .*'head_groups'"),
        ({"mixing": "sum"}, ValueError, "mixing is 'sum'"),
        ({"offset_rule": "none"}, ValueError, "offset_rule is 'none'"),
        ({"tail_rule": "wrap"}, ValueError, "tail_rule is 'wrap'"),
        ({"overlap": "twice"}, ValueError, "overlap is 'twice'"),
        ({"partition": "ring"}, ValueError, "partition is 'ring'; allowed: .*'zigzag'"),
        ({"stripe": -1}, ValueError, "stripe is -1"),
        ({"stripe": 2.0}, TypeError, "stripe is 2.0"),
        ({"is_causal": 1}, TypeError, "is_causal is 1"),
        ({"use_tf32": "yes"}, TypeError, "use_tf32 is 'yes'"),
        ({"dtype": torch.int32}, ValueError, "dtype is torch.int32"),
        ({"device": "toaster"}, ValueError, "device is 'toaster'"),
    ],
)
def test_attention_configurations_are_checked(fields, error, message):
    with pytest.raises(error, match=message):
        DilatedAttentionConfig(**{**PATTERNS, **fields})


@pytest.mark.parametrize(
    "fields, error, message",
    [
        ({"embed_dim": 25}, ValueError, "embed_dim is 25; allowed: multiples of num_heads, 3"),
        ({"embed_dim": 0}, ValueError, "embed_dim is 0"),
        ({"num_heads": 2.0}, TypeError, "num_heads is 2.0"),
        ({"embed_dim": 900}, ValueError, "300; allowed: 1 to 256"),
        ({"kv_heads": 2}, ValueError, "kv_heads is 2; allowed: None, divisors of num_heads, 3"),
        ({"bias": None}, TypeError, "bias is None"),
        ({"layer_norm_eps": 0.0}, ValueError, "layer_norm_eps is 0.0"),
        ({"gamma_init": -1.0}, ValueError, "gamma_init is -1.0"),
        ({"rope_base": 1.0}, ValueError, "rope_base is 1.0"),
        ({"xpos_scale_base": 0}, ValueError, "xpos_scale_base is 0"),
        ({"position": "sine"}, ValueError, "position is 'sine'; allowed: 'none', 'rope', 'xpos'"),
        ({"embed_dim": 27, "position": "rope"}, ValueError, "9; allowed with position 'rope': even"),
        ({"rotary_layout": "mixed"}, ValueError, "rotary_layout is 'mixed'"),
        ({"dtype": "float32"}, ValueError, "dtype is 'float32'"),
    ],
)
def test_multihead_configurations_are_checked(fields, error, message):
    with pytest.raises(error, match=message):
        MultiheadConfig(**{"embed_dim": 24, "num_heads": 3, **fields})


def test_what_configurations_derive():
    config = DilatedAttentionConfig((4, 16, 8), (1, 2, 4), device="cpu")
    assert config.num_groups == 3 and config.max_segment_length == 16 and config.device == torch.device("cpu")
    assert MultiheadConfig(24, 6, kv_heads=2).head_dim == 4 and MultiheadConfig(24, 6, kv_heads=2).key_width == 8


# ---- Your own implementations --------------------------------------------------------------------------------------


class Doubled(BaseDilatedAttention):
    """Twice the value."""

    def forward(self, q, k, v, **kwargs):
        self.seen = kwargs
        return 2 * v


def test_a_registered_class_is_created_and_called(registered):
    register_attention_implementation("doubled", Doubled)
    made = create_dilated_attention("doubled", **PATTERNS, dropout=0.25)
    assert type(made) is Doubled and made.segment_lengths == [4, 8] and made.dropout == 0.25
    v = torch.randn(1, 5, 2, 4)
    assert torch.equal(made(v, v, v), 2 * v)
    info = get_implementation_info("doubled")
    assert info["description"] == "Twice the value." and info["available"] and not info["built_in"]
    assert get_available_implementations()[-1] == "doubled"


def test_a_registered_class_computes_within_a_multihead_module(registered):
    register_attention_implementation("doubled", Doubled)
    made = create_multihead_dilated_attention("doubled", **SMALL, layer_norm=False)
    x = torch.randn(2, 9, 24)
    torch.testing.assert_close(made(x, key_lengths=[9, 4], is_causal=True), made.out_proj(2 * made.v_proj(x)))
    assert made.attention.seen == {"is_causal": True, "key_lengths": [9, 4]}
    with pytest.raises(ValueError, match="need_weights=True with Doubled"):
        made(x, need_weights=True)


def test_a_registered_multihead_class(registered):
    class Summed(BaseMultiheadDilatedAttention):
        def forward(self, query, key=None, value=None, **kwargs):
            q, k, v = self.split_heads(*self.project(query, query, query))
            return self.merge_heads(self.attention(q, k, v))

    register_multihead_attention_implementation("summed", Summed)
    made = create_multihead_dilated_attention("summed", **SMALL, bias=False)
    assert type(made) is Summed and made.attention.config.implementation in ("improved", "standard")
    like = create_multihead_dilated_attention("improved", **SMALL, bias=False)
    like.load_state_dict(made.state_dict())
    x = torch.randn(2, 9, 24)
    torch.testing.assert_close(made(x), like(x))
    with pytest.raises(ValueError, match="multihead implementation only"):
        create_dilated_attention("summed", **PATTERNS)


def test_auto_never_picks_what_was_registered(registered, missing):
    register_attention_implementation("zzz", Doubled)
    for lengths in (None, 10, 60_000, 200_000):
        assert select_implementation(lengths, 4).implementation != "zzz"
    missing(standard=False, improved=False, ring=False, distributed=False, block_sparse=False)
    with pytest.raises(ValueError, match="no built-in implementation is available"):
        select_implementation(10)


@pytest.mark.parametrize(
    "name, error",
    [
        ("auto", ValueError),
        ("improved", ValueError),
        ("a b", ValueError),
        ("", ValueError),
        ("x" * 64, ValueError),
        ("é", ValueError),
        (7, TypeError),
    ],
)
def test_names_that_cannot_be_registered(name, error, registered):
    with pytest.raises(error, match="name is"):
        register_attention_implementation(name, Doubled)


@pytest.mark.parametrize(
    "cls", [nn.Linear, Doubled(DilatedAttentionConfig([4], [1])), BaseMultiheadDilatedAttention, None]
)
def test_classes_that_cannot_be_registered(cls, registered):
    with pytest.raises(TypeError, match="allowed: subclasses of BaseDilatedAttention"):
        register_attention_implementation("mine", cls)


def test_a_taken_name_is_refused_but_the_same_class_may_come_again(registered):
    register_attention_implementation("doubled", Doubled)
    register_attention_implementation("doubled", Doubled)
    with pytest.raises(ValueError, match="under which Doubled is registered"):
        register_attention_implementation("doubled", type("Other", (Doubled,), {}))


def test_a_class_without_forward_cannot_be_created(registered):
    register_attention_implementation("empty", type("Empty", (BaseDilatedAttention,), {}))
    with pytest.raises(TypeError, match="abstract"):
        create_dilated_attention("empty", **PATTERNS)


# ---- Information and the choice ------------------------------------------------------------------------------------


def test_information():
    assert {"standard", "improved", "ring"} <= set(get_available_implementations())
    for name in ("auto", "standard", "improved", "ring", "distributed", "block_sparse"):
        info = get_implementation_info(name)
        assert info["name"] == name and info["description"] and info["best_for"] and info["built_in"]
        assert bool(info["reason"]) == (not info["available"])
    assert "causal" in get_implementation_info("improved")["features"]
    with pytest.raises(ValueError, match="allowed: auto, standard"):
        get_implementation_info("nonsense")


def test_the_rules_of_auto(missing):
    missing(ring=True, distributed=True)
    assert select_implementation(100).implementation == "improved"
    assert select_implementation(100_000).implementation == "improved"
    assert select_implementation(100_001).implementation == "ring"
    assert select_implementation(60_000, num_gpus=2).implementation == "distributed"
    assert select_implementation(60_000, num_gpus=1).implementation == "improved"
    assert "100,001 tokens" in select_implementation(100_001).reason
    assert create_dilated_attention("auto", sequence_length=200_000, **PATTERNS).config.implementation == "ring"
    missing(ring=False, distributed=False)
    choice = select_implementation(100_001)
    assert choice.implementation == "improved" and "ring is not available" in choice.reason
    missing(improved=False)
    assert select_implementation(10).implementation == "standard"
    with pytest.raises(ValueError, match="sequence_length is 0"):
        select_implementation(0)


def test_everything_is_exported():
    for name in core.__all__:
        assert getattr(core, name) is not None


def test_without_pytorch_the_factory_says_what_to_install():
    program = "import sys; sys.modules['torch'] = None; import dilated_attention_pytorch.core"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "pip install torch" in result.stderr.splitlines()[-1]
