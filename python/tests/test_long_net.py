"""LongNet, its layers and its language model."""

import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from dilated_attention_pytorch.long_net import LongNet, LongNetLM
from dilated_attention_pytorch.rotary import rotate
from dilated_attention_pytorch.transformer import DilatedTransformerDecoderLayer, DilatedTransformerEncoderLayer

PATTERNS = {"segment_lengths": [4, 8, 16], "dilation_rates": [1, 2, 4]}
NET = {"d_model": 32, "nhead": 4, "num_encoder_layers": 2, "num_decoder_layers": 2, "dim_feedforward": 48, **PATTERNS}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small are computed faster by one thread, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def net(cls=LongNet, *first, **options):
    torch.manual_seed(0)
    return cls(*first, **{**NET, "dtype": torch.float64, **options})


def tokens(n=21, batch=2):
    return torch.randn(batch, n, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def words(n=21, batch=2, vocabulary=50):
    return torch.randint(0, vocabulary, (batch, n), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu", torch.tanh])
def test_an_encoder_layer_is_magnetos(is_causal, activation):
    """x + attention(norm x), then x + ff(norm x) with a norm within, written out."""
    torch.manual_seed(0)
    layer = DilatedTransformerEncoderLayer(
        32, 4, **PATTERNS, dim_feedforward=48, dropout=0.0, activation=activation, dtype=torch.float64
    )
    x = tokens()
    middle = x + layer.self_attn(layer.norm1(x), is_causal=is_causal)
    act = activation if callable(activation) else {"relu": F.relu, "gelu": F.gelu}[activation]
    inner = layer.norm3(act(F.linear(layer.norm2(middle), layer.linear1.weight, layer.linear1.bias)))
    expected = middle + F.linear(inner, layer.linear2.weight, layer.linear2.bias)
    torch.testing.assert_close(layer(x, is_causal=is_causal), expected)


def test_a_decoder_layer_reads_its_memory():
    torch.manual_seed(0)
    layer = DilatedTransformerDecoderLayer(32, 4, **PATTERNS, dim_feedforward=48, dropout=0.0, dtype=torch.float64)
    x, memory = tokens(), tokens().flip(1)
    first = x + layer.self_attn(layer.norm1(x), is_causal=True)
    second = first + layer.multihead_attn(layer.norm2(first), memory, memory)
    inner = layer.norm4(F.relu(layer.linear1(layer.norm3(second))))
    torch.testing.assert_close(layer(x, memory, tgt_is_causal=True), second + layer.linear2(inner))
    changed = memory.clone()
    changed[:, -1] += 1
    difference = (layer(x, changed, True, True) - layer(x, memory, True, True)).abs().amax((0, 2))
    assert difference[-1] > 1e-6 and difference[:-1].max() == 0


def test_names_of_parameters_are_those_of_the_packages():
    names = set(net(LongNetLM, 50).state_dict())
    for layer, parts in (
        (
            "encoder",
            (
                "norm1",
                "self_attn.q_proj",
                "self_attn.norm",
                "self_attn.out_proj",
                "norm2",
                "linear1",
                "norm3",
                "linear2",
            ),
        ),
        (
            "decoder",
            (
                "norm1",
                "self_attn.v_proj",
                "norm2",
                "multihead_attn.k_proj",
                "multihead_attn.norm",
                "norm3",
                "linear1",
                "norm4",
                "linear2",
            ),
        ),
    ):
        for part in parts:
            assert {f"long_net.{layer}.layers.1.{part}.weight", f"long_net.{layer}.layers.1.{part}.bias"} <= names
    assert {"token_embedding.weight", "norm.weight", "norm.bias", "out.weight", "out.bias"} <= names


@pytest.mark.parametrize(
    "layers, gains",
    [
        ((3, 2), (math.sqrt(math.log(6) * math.log(6) / 3), math.sqrt(math.log(6)))),
        ((5, 0), (math.sqrt(math.log(10)), None)),
    ],
)
def test_gains_are_magnetos(layers, gains):
    made = net(num_encoder_layers=layers[0], num_decoder_layers=layers[1])
    assert [len(made.encoder.layers), len(made.decoder.layers)] == list(layers)
    assert made.encoder.layers[0].gamma_init == pytest.approx(gains[0])
    assert all(
        layer.gamma_init == layer.self_attn.gamma_init == pytest.approx(gains[1]) for layer in made.decoder.layers
    )
    weights = [layer.linear1.weight for layer in made.encoder.layers]
    assert not torch.equal(weights[0], weights[1]), "each layer is drawn by itself"


@pytest.mark.parametrize("layers", [(2, 2), (2, 0)])
@pytest.mark.parametrize("position", ["rope", "xpos", "none"])
def test_a_causal_model_does_not_see_the_future(layers, position):
    made = net(LongNetLM, 50, num_encoder_layers=layers[0], num_decoder_layers=layers[1], position=position)
    x = words()
    y = made(x)
    changed = x.clone()
    changed[:, 13:] = (changed[:, 13:] + 1) % 50
    difference = (made(changed) - y).abs().amax((0, 2))
    if position != "xpos":  # xPos centres its factors on the length, which has not changed here either
        assert difference[:13].max() == 0
    assert difference[:13].max() < 1e-12 and difference[13:].min() > 1e-6
    assert (made(changed, is_causal=False) - made(x, is_causal=False))[:, :13].abs().max() > 1e-6


@pytest.mark.parametrize("position", ["rope", "none"])
def test_a_prefix_gets_the_same_logits(position):
    made = net(LongNetLM, 50, position=position)
    x = words()
    torch.testing.assert_close(made(x[:, :9]), made(x)[:, :9])


def test_padding_does_not_reach_real_tokens():
    made, x = net(LongNetLM, 50), words()
    filled = x.clone()
    filled[0, 15:] = 0
    y, z = (made(t, is_causal=False, key_lengths=[15, 21]) for t in (x, filled))
    torch.testing.assert_close(y[0, :15], z[0, :15])
    torch.testing.assert_close(y[1], z[1])
    assert (made(x, is_causal=False)[0, :15] - y[0, :15]).abs().max() > 1e-6


def test_the_embedding_position_is_fkodoms():
    """embedding + xPos(embedding), one head as wide as the model; the rest of the model knows no places."""
    made, x = net(LongNetLM, 50, position="embedding"), words()
    e = made.token_embedding(x)
    turned = rotate(e[:, :, None], xpos=True)[:, :, 0]
    n, p = 21, torch.arange(16, dtype=torch.float64)
    i = torch.arange(n, dtype=torch.float64)[:, None]
    angle, scale = i * 10000.0 ** (-p / 16), ((2 * p + 12.8) / 44.8) ** ((i - 11) / 512)
    even, odd = e[..., 0::2], e[..., 1::2]
    expected = torch.stack(
        ((even * angle.cos() - odd * angle.sin()) * scale, (odd * angle.cos() + even * angle.sin()) * scale), -1
    )
    torch.testing.assert_close(turned, expected.flatten(-2))
    torch.testing.assert_close(made(x), made.out(made.norm(made.long_net(e + turned))))


@pytest.mark.parametrize("cls, first", [(LongNet, ()), (LongNetLM, (50,))])
def test_models_are_copied_compiled_and_exported(cls, first):
    made = net(cls, *first)
    x = words() if first else tokens()
    expected = made(x)
    assert torch.equal(pickle.loads(pickle.dumps(made))(x), expected)
    if cls is LongNetLM:  # which holds the other
        torch.testing.assert_close(torch.compile(made, fullgraph=True, backend="aot_eager")(x), expected)
    torch.testing.assert_close(torch.export.export(made, (x,)).module()(x), expected)


def test_options_reach_every_attention():
    made = net(
        LongNetLM, 50, implementation="standard", preset="head_groups", kv_heads=2, encoder_norm=True, dropout=0.1
    )
    attentions = [m for m in made.modules() if hasattr(m, "attention_config")]
    assert len(attentions) == 6
    for each in attentions:
        assert each.attention.config.implementation == "standard" and each.attention.config.preset == "head_groups"
        assert each.kv_heads == 2 and each.attention.dropout == 0.1 and each.multihead_config.position == "rope"
    assert isinstance(made.long_net.encoder.norm, torch.nn.LayerNorm)
    x = words()
    assert torch.equal(made.eval()(x), made(x)) and not torch.equal(made.train()(x), made(x))


def test_the_first_loss_is_that_of_a_guess():
    made, x = net(LongNetLM, 50), words(64, 8)
    loss = F.cross_entropy(made(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(50), abs=0.8)


@pytest.mark.parametrize("layers", [(1, 1), (2, 0)])
def test_a_language_model_learns_a_rule(layers):
    """Token i + 1 is token i - 2: found by attention alone."""
    made = net(
        LongNetLM,
        12,
        num_encoder_layers=layers[0],
        num_decoder_layers=layers[1],
        dtype=torch.float32,
        segment_lengths=[8, 24],
        dilation_rates=[1, 1],
    )
    optimizer = torch.optim.Adam(made.parameters(), 5e-3)
    generator = torch.Generator().manual_seed(2)
    losses = []
    for _ in range(120):
        x = torch.randint(0, 12, (8, 3), generator=generator).repeat(1, 8)
        loss = F.cross_entropy(made(x)[:, 3:-1].flatten(0, 1), x[:, 4:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_encoder_layers": 0}, "num_encoder_layers is 0; allowed: integers from 1"),
        ({"num_decoder_layers": -1}, "num_decoder_layers is -1; allowed: integers from 0"),
        ({"activation": "swish"}, "activation is 'swish'; allowed: 'relu', 'gelu'"),
        ({"nhead": 5}, "embed_dim is 32; allowed: multiples of num_heads, 5"),
        ({"dilation_rates": [1, 2]}, "dilation_rates has 2 values"),
        ({"implementation": "nonsense"}, "allowed: auto, standard"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        net(**options)


def test_wrong_inputs_of_the_language_model():
    made = net(LongNetLM, 50)
    with pytest.raises(ValueError, match="position is 'sine'"):
        net(LongNetLM, 50, position="sine")
    with pytest.raises(ValueError, match=r"x has the shape \(2, 21, 32\)"):
        made(tokens())
    with pytest.raises(ValueError, match=r"data type torch.float32"):
        made(words().float())
