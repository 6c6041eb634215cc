"""Modules as PyTorch's users treat them: state, copies, types, masks, weights, compilation, old imports."""

import copy
import importlib
import io
import pickle
import warnings

import dilated_attention_pytorch
import numpy as np
import pytest
import torch
from dilated_attention_pytorch import functional
from dilated_attention_pytorch.core import create_dilated_attention, create_multihead_dilated_attention
from dilated_attention_pytorch.improved_multihead_dilated_attention import ImprovedMultiheadDilatedAttention
from dilated_attention_pytorch.multihead_dilated_attention import MultiheadDilatedAttention
from module_cases import built, draw_module, output_bound, reference, within
from torch import nn

PATTERNS = {"segment_lengths": [4, 8], "dilation_rates": [1, 2]}
SMALL = {"embed_dim": 24, "num_heads": 3, **PATTERNS}


def small(name="improved", **options):
    torch.manual_seed(0)
    return create_multihead_dilated_attention(name, **{**SMALL, "dtype": torch.float64, **options})


def tokens(n=19, batch=2, width=24, seed=1):
    return torch.randn(batch, n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- State ---------------------------------------------------------------------------------------------------------


def test_names_and_shapes_of_parameters_are_those_of_the_c_module():
    module, _ = draw_module(5)
    made = built(module, "improved")
    assert {name: tuple(p.shape) for name, p in made.named_parameters()} == module.shapes()
    assert not list(made.buffers())


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("name", ["standard", "improved", "ring"])
def test_copies_compute_the_same_and_share_nothing(duplicate, name):
    made = small(name, qk_layer_norm=True, position="rope")
    x = tokens()
    twin = duplicate(made)
    assert torch.equal(twin(x), made(x))
    with torch.no_grad():
        twin.q_proj.weight.zero_()
    assert not torch.equal(twin(x), made(x))


def test_state_dicts_and_saved_files():
    made, other = small(), small("standard")
    nn.init.normal_(made.norm.weight)
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = tokens()
    torch.testing.assert_close(other(x), made(x), rtol=1e-12, atol=1e-12)
    with pytest.raises(RuntimeError, match=r"norm.weight"):
        small(layer_norm=False).load_state_dict(made.state_dict())


def test_to_another_type_and_back():
    made = small()
    assert {p.dtype for p in made.to(torch.bfloat16).parameters()} == {torch.bfloat16}
    assert made(tokens().bfloat16()).dtype == torch.bfloat16
    assert made.half()(tokens().half()).dtype == torch.float16


def test_representations_say_what_is_not_default():
    made = small(position="rope", window=5, dropout=0.1)
    text = repr(made)
    assert "embed_dim=24" in text and "position='rope'" in text and "window=5" in text and "dropout=0.1" in text
    assert "layer_norm_eps" not in text.split("(attention)")[0]


@pytest.mark.parametrize("gamma", [1.0, 0.25, 3.0])
def test_initialisation_is_magnetos(gamma):
    torch.manual_seed(3)
    made = create_multihead_dilated_attention(
        "improved", 256, 8, [4], [1], kv_heads=2, gamma_init=gamma, qk_layer_norm=True
    )
    for name, gain in (("q_proj", 1.0), ("k_proj", 1.0), ("v_proj", gamma), ("out_proj", gamma)):
        weight, bias = getattr(made, name).weight, getattr(made, name).bias
        expected = gain * (2 / sum(weight.shape)) ** 0.5
        error = expected / (2 * weight.numel()) ** 0.5  # deviation of a sample's deviation
        assert abs(weight.std().item() - expected) < 5 * error
        assert abs(weight.mean().item()) < 5 * expected / weight.numel() ** 0.5
        assert not bias.any()
    for norm in (made.norm, made.q_ln, made.k_ln):
        assert (norm.weight == 1).all() and not norm.bias.any()


def test_reset_parameters_draws_anew():
    made = small()
    before = made.q_proj.weight.clone()
    made.reset_parameters()
    assert not torch.equal(before, made.q_proj.weight)


# ---- Calls ---------------------------------------------------------------------------------------------------------


def test_key_and_value_default_to_query_and_key():
    made, x, y = small(), tokens(), tokens(seed=2)
    torch.testing.assert_close(made(x), made(x, x.clone(), x.clone()))
    torch.testing.assert_close(made(x, y), made(x, y, y))


def test_causal_by_call_by_configuration_and_by_mask():
    x = tokens()
    made, fixed = small(), small(is_causal=True)
    expected = made(x, is_causal=True)
    assert not torch.equal(expected, made(x))
    assert torch.equal(fixed(x), expected)
    assert torch.equal(made(x, attn_mask=torch.ones(19, 19, dtype=torch.bool).triu(1)), expected)
    changed = x.clone()
    changed[:, 10:] += 1
    torch.testing.assert_close(made(changed, is_causal=True)[:, :10], expected[:, :10])


def test_windows_by_mask_and_by_configuration_meet():
    x, back = tokens(), torch.arange(19)[:, None] - torch.arange(19)
    three, five = small(window=3), small(window=5)
    assert torch.equal(small()(x, attn_mask=back > 3), three(x))
    assert torch.equal(five(x, attn_mask=back > 3), three(x)) and torch.equal(three(x, attn_mask=back > 5), three(x))


@pytest.mark.parametrize("name", ["standard", "improved", "ring"])
def test_padding_hides_keys_whatever_they_hold(name):
    made, x = small(name), tokens()
    mask = torch.arange(19) >= torch.tensor([[12], [19]])
    expected = made(x, key_padding_mask=mask)
    assert torch.equal(made(x, key_lengths=[12, 19]), expected)
    assert torch.equal(made(x, key_lengths=torch.tensor([12, 19])), expected)
    assert torch.equal(made(x, key_padding_mask=torch.zeros(2, 19).masked_fill(mask, float("-inf"))), expected)
    filled = torch.where(mask[..., None], torch.nan, x)
    torch.testing.assert_close(
        made(x, filled, filled, key_lengths=[12, 19]), made(x, x.clone(), x.clone(), key_lengths=[12, 19])
    )
    with pytest.raises(ValueError, match="both given"):
        made(x, key_padding_mask=mask, key_lengths=[12, 19])


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((torch.randn(2, 5, 23),), ValueError, r"query has the shape \(2, 5, 23\)"),
        ((torch.randn(5, 24),), ValueError, r"query has the shape \(5, 24\)"),
        ((torch.randn(2, 5, 24), torch.randn(2, 6, 24)), ValueError, r"key has the shape \(2, 6, 24\)"),
        (
            (torch.randn(2, 5, 24), torch.randn(2, 5, 24), torch.randn(1, 5, 24)),
            ValueError,
            r"value has the shape \(1, 5, 24\)",
        ),
        ((np.zeros((2, 5, 24)),), TypeError, "query is a ndarray"),
    ],
)
def test_wrong_inputs_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        small(dtype=torch.float32)(*arguments)


def test_one_product_is_three_products():
    """`improved` multiplies once where the inputs are one long tensor; replaced and hooked projections are called."""
    made, x = small(kv_heads=1), tokens(100)
    assert made._joins(x, (made.q_proj,)) and not made._joins(x[:, :50], (made.q_proj,))
    expected = made(x)
    torch.testing.assert_close(made(x, x.clone(), x.clone()), expected)

    class Tripled(nn.Linear):
        def forward(self, x):
            return 3 * super().forward(x)

    hooked = copy.deepcopy(made)
    hooked.q_proj.register_forward_hook(lambda module, inputs, output: 3 * output)
    replaced = copy.deepcopy(made)
    replaced.q_proj = Tripled(24, 24, dtype=torch.float64)
    replaced.q_proj.load_state_dict(made.q_proj.state_dict())
    assert not torch.allclose(hooked(x), expected)
    torch.testing.assert_close(replaced(x), hooked(x))


@pytest.mark.parametrize("name", ["standard", "improved", "ring"])
def test_dropout_acts_in_training_only_and_by_pytorchs_seed(name):
    made, x = small(name, dropout=0.4, layer_norm=False), tokens()
    plain = small(name, layer_norm=False)(x)
    torch.manual_seed(5)
    first, second = made(x), made(x)
    torch.manual_seed(5)
    assert torch.equal(made(x), first) and not torch.equal(first, second) and not torch.allclose(first, plain)
    assert torch.equal(made.eval()(x), plain)
    q, k, v = made.split_heads(*made.project(x, x, x))
    torch.manual_seed(5)
    attended = functional.dilated_attention(q, k, v, **PATTERNS, dropout_p=0.4, implementation=name)
    torch.testing.assert_close(made.merge_heads(attended), first)


def test_second_backward_passes_and_repeated_calls_are_independent():
    made, x = small(), tokens().requires_grad_()
    first, second = made(x), made(2 * x)
    (grad,) = torch.autograd.grad(first.sum(), x, retain_graph=True)
    second.sum().backward()
    (again,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(grad, again)


@pytest.mark.parametrize("options", [{}, {"position": "xpos", "qk_layer_norm": True, "kv_heads": 1}])
def test_gradcheck(options):
    made, x = small(**options), tokens(9, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: made(x, is_causal=True, key_lengths=[8]), (x,))


def test_xpos_beyond_the_range_of_numbers_is_refused():
    made = small(position="xpos", xpos_scale_base=2.0, dtype=torch.float32)
    with pytest.raises(ValueError, match="n is 300: position 'xpos' multiplies by up to 2"):
        made(torch.randn(1, 300, 24))


def test_compiles_and_exports_whole():
    made, x = small(position="rope"), tokens()
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, is_causal=True), made(x, is_causal=True))
    mask = torch.arange(19) >= torch.tensor([[12], [19]])
    torch.testing.assert_close(compiled(x, key_padding_mask=mask), made(x, key_padding_mask=mask))
    with pytest.raises(RuntimeError, match="key_padding_mask hides a key before one"):
        compiled(x, key_padding_mask=~mask)
    exported = torch.export.export(made, (x,))
    torch.testing.assert_close(exported.module()(x), made(x))


def test_autocast_computes_in_bf16():
    made, x = small(dtype=torch.float32), tokens().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = made(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), made(x), rtol=0.1, atol=0.1)


def test_trains():
    made, x = small(), tokens()
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = (made(x) - x.roll(1, 1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


# ---- The attention modules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["standard", "improved", "ring"])
@pytest.mark.parametrize("preset", ["longnet", "torchscale", "head_groups"])
def test_attention_modules_are_the_function(name, preset):
    made = create_dilated_attention(name, **PATTERNS, preset=preset, softmax_scale=0.2, overlap="once")
    q, k, v = (torch.randn(2, 21, 4, 5, dtype=torch.float64) for _ in range(3))
    options = {**PATTERNS, "preset": preset, "softmax_scale": 0.2, "overlap": "once", "implementation": name}
    assert torch.equal(made(q, k, v), functional.dilated_attention(q, k, v, **options))
    out, lse = made(q, k, v, True, key_lengths=[3, 21], return_lse=True)
    expected = functional.dilated_attention(q, k, v, **options, is_causal=True, key_lengths=[3, 21], return_lse=True)
    assert torch.equal(out, expected[0]) and torch.equal(lse, expected[1])
    mask = torch.arange(21) >= torch.tensor([[3], [21]])
    causal = torch.ones(21, 21, dtype=torch.bool).triu(1)
    assert torch.equal(made(q, k, v, attention_mask=causal, key_padding_mask=mask), out)


# ---- Attention weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_weights_of_chosen_queries(seed):
    pytest.importorskip("dilated_attention_pytorch.weights")
    module, rng = draw_module(200 + seed)
    made, n = built(module, "improved"), 23
    x = rng.standard_normal((2, n, module.embed_dim))
    padding = np.arange(n) >= np.array([[n], [15]])
    _, kept = reference.forward(module, x, x, x, padding)
    queries = [0, 7, 22]
    out, weights = made(
        torch.from_numpy(x),
        need_weights=True,
        weight_queries=queries,
        average_attn_weights=False,
        is_causal=module.causal,
        key_padding_mask=torch.from_numpy(padding),
    )
    within(out, kept["out"], output_bound(module, kept, torch.float64))
    assert not weights.requires_grad
    within(weights, kept["p"][:, :, queries], 1e-12)  # of 1: scores off by 1e-13 at most, and 23 terms in a sum
    _, averaged = made(torch.from_numpy(x), need_weights=True, is_causal=module.causal, key_lengths=[n, 15])
    within(averaged, kept["p"].mean(1), 1e-12)


def test_weights_are_not_given_where_they_would_not_fit():
    made = small(dtype=torch.float32)
    with pytest.raises(
        ValueError, match=r"would return 75,000,000 weights; allowed: up to 67,108,864, or weight_queries"
    ):
        made(torch.zeros(1, 5000, 24), need_weights=True)
    with pytest.raises(ValueError, match="weight_queries is given without need_weights=True"):
        made(torch.zeros(1, 5, 24), weight_queries=[1])


# ---- Imports of the other packages ---------------------------------------------------------------------------------

OLD_IMPORTS = [
    ("dilated_attention", "DilatedAttention"),
    ("dilated_attention", "MultiheadDilatedAttention"),
    ("multihead_dilated_attention", "MultiheadDilatedAttention"),
    ("improved_dilated_attention", "ImprovedDilatedAttention"),
    ("improved_multihead_dilated_attention", "ImprovedMultiheadDilatedAttention"),
    ("long_net", "LongNet"),
    ("long_net", "LongNetLM"),
    ("transformer", "DilatedTransformerEncoderLayer"),
    ("transformer", "DilatedTransformerDecoderLayer"),
    ("base.dilated_attention", "DilatedAttention"),
    ("base.improved_multihead_dilated_attention", "ImprovedMultiheadDilatedAttention"),
    ("models.long_net", "LongNet"),
    ("ring_dilated_attention", "RingDilatedAttention"),
    ("ring_multihead_dilated_attention", "RingMultiheadDilatedAttention"),
    ("block_sparse_ring_dilated_attention", "BlockSparseRingDilatedAttention"),
    ("block_sparse_ring_multihead_dilated_attention", "BlockSparseRingMultiheadDilatedAttention"),
    ("distributed_dilated_attention", "DistributedDilatedAttention"),
    ("distributed_dilated_attention", "DistributedMultiheadDilatedAttention"),
    ("improved_distributed_dilated_attention", "DistributedImprovedDilatedAttention"),
    ("improved_distributed_dilated_attention", "DistributedImprovedMultiheadDilatedAttention"),
]


@pytest.mark.parametrize("path, name", OLD_IMPORTS)
def test_old_imports(path, name):
    cls = getattr(importlib.import_module(f"dilated_attention_pytorch.{path}"), name)
    assert issubclass(cls, nn.Module)
    if any(word in name for word in ("Ring", "Distributed")):
        words = {"embed_dim": 24, "num_heads": 3} if "Multihead" in name else {}
        implementation = cls.implementation
        from dilated_attention_pytorch.core import get_implementation_info

        if get_implementation_info(implementation)["available"]:
            assert cls(**words, **PATTERNS).state_dict() is not None
        else:
            with pytest.raises(ValueError, match=f"'{implementation}' is not available"):
                cls(**words, **PATTERNS)


def test_the_function_keeps_its_place_beside_the_module_of_its_name():
    from dilated_attention_pytorch.dilated_attention import DilatedAttention

    q = torch.randn(1, 9, 2, 4)
    expected = DilatedAttention([4, 8], [1, 2])(q, q, q)
    torch.testing.assert_close(dilated_attention_pytorch.dilated_attention(q, q, q, [4, 8], [1, 2]), expected)


def test_positional_arguments_are_in_the_packages_order():
    attention = dilated_attention_pytorch.DilatedAttention([4, 8], [1, 2], 0.5, 0.1)
    assert attention.segment_lengths == [4, 8] and attention.softmax_scale == 0.5 and attention.dropout_p == 0.1
    multihead = MultiheadDilatedAttention(24, 3, [1, 2], [4, 8], 0.1, False, False, 1e-3, 2.0, "cpu", torch.float64)
    assert multihead.attention.dilation_rates == [1, 2] and multihead.q_proj.bias is None and multihead.norm is None
    assert multihead.gamma_init == 2.0 and multihead.q_proj.weight.dtype == torch.float64
    with pytest.raises(ValueError, match=r"dilation_rates\[0\] is 4"):
        MultiheadDilatedAttention(24, 3, [4, 8], [1, 2])


def test_what_a_call_returns_under_each_path():
    """fkodom's module returns a pair, DarcStar's the output, as their users unpack them."""
    from dilated_attention_pytorch.dilated_attention import MultiheadDilatedAttention as OfFkodom

    x = torch.randn(2, 9, 24)
    out, weights = OfFkodom(24, 3, [1, 2], [4, 8])(x, x, x, is_causal=True)
    assert out.shape == x.shape and weights is None
    assert MultiheadDilatedAttention(24, 3, [1, 2], [4, 8])(x).shape == x.shape
    pickle.loads(pickle.dumps(OfFkodom(24, 3, [1, 2], [4, 8])))


def test_options_without_effect_are_said_once_each():
    with pytest.warns(UserWarning, match="DilatedAttention: enable_memory_pool, op has no effect here"):
        dilated_attention_pytorch.DilatedAttention([4], [1], op=object(), enable_memory_pool=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ImprovedMultiheadDilatedAttention(**SMALL)
    with pytest.raises(TypeError, match="unexpected"):
        ImprovedMultiheadDilatedAttention(**SMALL, segments=[4])
