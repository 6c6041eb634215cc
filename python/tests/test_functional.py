"""dilated_attention on PyTorch tensors, forward, against the float64 definition, within derived bounds."""

import math

import dilated_attention_pytorch as package
import exact
import generate_cases
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

DTYPES = {"f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16, "f16": torch.float16}


def tensors(case):
    return [torch.from_numpy(x.copy()).to(DTYPES[case.value_type]) for x in (case.q, case.k, case.v)]


def compare(case, **options):
    rows = generate_cases.all_rows(case)
    out, lse = package.dilated_attention(
        *tensors(case), case.segments, case.rates, return_lse=True, **{**exact.options(case), **options}
    )
    assert out.dtype == DTYPES[case.value_type] and out.shape == case.q.shape and out.is_contiguous()
    assert lse.dtype == (torch.float64 if case.value_type == "f64" else torch.float32)
    exact.check_forward(case, rows, out.double().numpy(), lse.double().numpy())


@pytest.mark.parametrize("number", range(len(exact.ALONE)))
def test_every_option_alone(number):
    value_type, head_dim = [("f32", 8), ("f64", 5), ("bf16", 16), ("f16", 9)][number % 4]
    compare(exact.alone(exact.ALONE[number], value_type, head_dim))


@pytest.mark.parametrize("implementation", ["standard", "improved", "ring"])
@pytest.mark.parametrize("value_type", DTYPES)
def test_implementations_and_data_types(implementation, value_type):
    compare(exact.alone({"causal": True, "kv_heads": 2}, value_type, 17), implementation=implementation)


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_anything(seed):
    compare(exact.random_case(seed))


@pytest.mark.parametrize("preset", ["longnet", "torchscale", "head_groups"])
def test_presets(preset):
    fields = {
        "longnet": {},
        "torchscale": {"offset_rule": "block", "tail_rule": "zero_pad"},
        "head_groups": {"mixing": "head_groups"},
    }[preset]
    case = exact.alone(fields, "f64", 6)
    named = package.dilated_attention(*tensors(case), case.segments, case.rates, preset=preset)
    spelled = package.dilated_attention(*tensors(case), case.segments, case.rates, **exact.options(case))
    assert torch.equal(named, spelled)
    compare(case)


def test_a_rule_replaces_the_presets():
    case = exact.alone({"tail_rule": "zero_pad"}, "f64", 6)
    arguments = (*tensors(case), case.segments, case.rates)
    mixed = package.dilated_attention(*arguments, preset="torchscale", offset_rule="mod")
    assert torch.equal(mixed, package.dilated_attention(*arguments, tail_rule="zero_pad"))


def views(x):
    """The same numbers in other memory."""
    b, n, h, d = x.shape
    spread = torch.zeros(b, n, 2 * h, 2 * d, dtype=x.dtype)[:, :, ::2, 1::2].copy_(x)
    return {
        "heads first": x.transpose(1, 2).contiguous().transpose(1, 2),
        "part of a fused projection": torch.stack((x, x, x), 2)[:, :, 1],
        "every second element": spread,
        "offset": torch.cat((x, x), 1)[:, n:],
    }


@pytest.mark.parametrize("layout", ["heads first", "part of a fused projection", "every second element", "offset"])
def test_strides_do_not_matter(layout):
    case = exact.alone({"batch": 2, "causal": True}, "f32", 8)
    plain = tensors(case)
    dense = package.dilated_attention(*plain, case.segments, case.rates, is_causal=True)
    strided = package.dilated_attention(*(views(x)[layout] for x in plain), case.segments, case.rates, is_causal=True)
    assert torch.equal(dense, strided)


def test_expanded_keys_are_not_copied():
    n = 200_000
    query = torch.randn(1, n, 1, 2)
    key = torch.ones(1, 1, 1, 2).expand(1, n, 1, 2)
    out = package.dilated_attention(query, key, key, [16], [1])
    assert torch.allclose(out, torch.ones(()), atol=1e-6)


@pytest.mark.parametrize("lengths", [[0, 7], (21, 3), torch.tensor([5, 5], dtype=torch.int32), np.array([1, 2])])
def test_key_lengths_of_any_kind(lengths):
    case = exact.alone({"batch": 2, "lengths": [int(x) for x in lengths]}, "f32", 8)
    compare(case, key_lengths=lengths)


def test_one_token_and_one_head_dim():
    x = torch.full((1, 1, 1, 1), 3.0)
    out, lse = package.dilated_attention(x, x, x, [5], [1], return_lse=True)
    assert out.item() == 3.0 and lse.item() == pytest.approx(9.0)


def test_an_empty_batch():
    x = torch.empty(0, 5, 2, 4)
    out, lse = package.dilated_attention(x, x, x, [4], [1], return_lse=True)
    assert out.shape == x.shape and lse.shape == (0, 5, 2)


def test_results_do_not_depend_on_the_number_of_threads():
    q, k, v = (torch.randn(1, 700, 3, 16) for _ in range(3))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(package.dilated_attention(q, k, v, [64, 256], [1, 4]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_dropout_follows_manual_seed():
    q = torch.randn(1, 64, 2, 8)
    torch.manual_seed(1)
    first, second = (package.dilated_attention(q, q, q, [32], [1], dropout_p=0.5) for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(first, package.dilated_attention(q, q, q, [32], [1], dropout_p=0.5))
    assert not torch.equal(first, second)


def test_dropout_keeps_the_mean_and_the_share():
    """With values of 1, an output is the share of weight kept, divided by 1 - p: 1 in the mean."""
    torch.manual_seed(0)
    zero, one = torch.zeros(1, 4096, 1, 1), torch.ones(1, 4096, 1, 1)
    out, lse = package.dilated_attention(zero, zero, one, [256], [1], dropout_p=0.25, return_lse=True)
    # 4096 * 256 independent draws of a factor of variance p / (1 - p): six deviations of their mean.
    assert abs(out.mean().item() - 1) < 6 * math.sqrt(0.25 / 0.75 / (4096 * 256))
    assert torch.allclose(lse, torch.full_like(lse, math.log(256)))


def test_numpy_and_torch_agree_to_the_bit():
    case = exact.random_case(5)
    arrays = [x.astype(np.float32) for x in (case.q, case.k, case.v)]
    from_numpy = package.dilated_attention(*arrays, case.segments, case.rates, **exact.options(case))
    from_torch = package.dilated_attention(
        *map(torch.from_numpy, arrays), case.segments, case.rates, **exact.options(case)
    )
    assert np.array_equal(from_numpy, from_torch.numpy())


X = torch.zeros(2, 6, 4, 8)
WRONG = [
    (dict(segment_lengths=[4, 8]), ValueError, "dilation_rates has 1 values and segment_lengths 2"),
    (dict(segment_lengths=[], dilation_rates=[]), ValueError, "segment_lengths has 0 values"),
    (dict(segment_lengths=[0]), ValueError, r"segment_lengths\[0\] is 0"),
    (dict(dilation_rates=[-1]), ValueError, r"dilation_rates\[0\] is -1"),
    (dict(dilation_rates=[5]), ValueError, r"dilation_rates\[0\] is 5; allowed: at most segment_lengths\[0\]"),
    (dict(segment_lengths=[4.0]), TypeError, r"segment_lengths\[0\] is 4.0"),
    (dict(segment_lengths=[True]), TypeError, r"segment_lengths\[0\] is True"),
    (dict(segment_lengths=4), TypeError, "segment_lengths is 4"),
    (dict(segment_lengths="4"), TypeError, "segment_lengths is '4'"),
    (dict(segment_lengths=[4] * 65, dilation_rates=[1] * 65), ValueError, "segment_lengths has 65 values; allowed: 1"),
    (dict(segment_lengths=[2**63]), ValueError, r"segment_lengths\[0\] is 9223372036854775808; .*below 2\^63"),
    (dict(is_causal=1), TypeError, "is_causal is 1; allowed: True or False"),
    (dict(softmax_scale=math.nan), ValueError, "softmax_scale is nan"),
    (dict(softmax_scale="1"), TypeError, "softmax_scale is '1'"),
    (dict(preset="paper"), ValueError, "preset is 'paper'; allowed: 'longnet', 'torchscale', 'head_groups'"),
    (dict(preset=None), TypeError, "preset is None"),
    (dict(mixing="both"), ValueError, "mixing is 'both'"),
    (dict(offset_rule="none"), ValueError, "offset_rule is 'none'"),
    (dict(tail_rule="pad"), ValueError, "tail_rule is 'pad'"),
    (dict(overlap="twice"), ValueError, "overlap is 'twice'"),
    (dict(overlap=2), TypeError, "overlap is 2"),
    (dict(partition="ring"), ValueError, "partition is 'ring'"),
    (dict(partition=None), TypeError, "partition is None"),
    (dict(stripe=-1), ValueError, "stripe is -1"),
    (dict(window=-1), ValueError, "window is -1; allowed: an integer of at least 0"),
    (dict(window=1.5), TypeError, "window is 1.5"),
    (dict(window=True), TypeError, "window is True"),
    (dict(implementation="fast"), ValueError, "fast.*standard.*improved"),
    (dict(implementation="distributed"), ValueError, "distributed"),
    (dict(process_group="no such group"), ValueError, "process_group is 'no such group'"),
    (dict(process_group=3), TypeError, "process_group is 3"),
    (dict(comm=3), TypeError, "comm is given with tensors"),
    (dict(implementation=None), TypeError, "implementation is None"),
    (dict(dropout_p=1.0), ValueError, r"dropout_p is 1.0; allowed: a number in \[0, 1\)"),
    (dict(dropout_p=-0.1), ValueError, "dropout_p is -0.1"),
    (dict(dropout_p=None), TypeError, "dropout_p is None"),
    (dict(return_lse=1), TypeError, "return_lse is 1"),
    (dict(key_lengths=[1]), ValueError, r"key_lengths.shape is \(1,\); allowed: \(batch,\), which is \(2,\)"),
    (dict(key_lengths=[1.0, 2.0]), TypeError, "key_lengths has the data type torch.float32"),
    (dict(key_lengths=[True, False]), TypeError, "key_lengths has the data type torch.bool"),
    (dict(key_lengths=[7, 1]), ValueError, "key_lengths.*7.*6"),
    (dict(key_lengths=[-1, 1]), ValueError, "key_lengths.*-1"),
    (dict(query=X[0]), ValueError, "query has the shape"),
    (dict(key=X[:1]), ValueError, "key"),
    (dict(key=X[:, :5], value=X[:, :5]), ValueError, "key"),
    (dict(key=X[:, :, :3], value=X[:, :, :3]), ValueError, "heads"),
    (dict(value=X[..., :4]), ValueError, "value"),
    (dict(query=torch.zeros(1, 2, 1, 300), key=torch.zeros(1, 2, 1, 300), value=torch.zeros(1, 2, 1, 300)), ValueError,
     "300.*256"),
    (dict(query=X[:, :0], key=X[:, :0], value=X[:, :0]), ValueError, "n|shape"),
    (dict(query=X.int(), key=X.int(), value=X.int()), TypeError, "query.dtype is torch.int32"),
    (dict(key=X.double()), TypeError, "key.dtype is torch.float64; allowed: the query's, torch.float32"),
    (dict(value=X.numpy()), TypeError, "value is a ndarray; allowed: a PyTorch tensor"),
    (dict(key=None), TypeError, "key is a NoneType"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_arguments_are_named(number):
    changes, error, message = WRONG[number]
    arguments = {"query": X, "key": X, "value": X, "segment_lengths": [4], "dilation_rates": [1], **changes}
    with pytest.raises(error, match=message):
        package.dilated_attention(**arguments)
    package.dilated_attention(X, X, X, [4], [1])  # and nothing is left behind


def test_a_float_is_refused_after_its_integer_was_seen():
    package.dilated_attention(X, X, X, [4], [1], window=1)
    with pytest.raises(TypeError, match=r"segment_lengths\[0\] is 4.0"):
        package.dilated_attention(X, X, X, [4.0], [1], window=1)
    with pytest.raises(TypeError, match="window is True"):
        package.dilated_attention(X, X, X, [4], [1], window=True)
