"""dilated_attention on NumPy arrays."""

import dilated_attention_pytorch as package
import exact
import generate_cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

DTYPES = {"f32": np.float32, "f64": np.float64, "f16": np.float16}


def compare(case, **options):
    arrays = [x.astype(DTYPES[case.value_type]) for x in (case.q, case.k, case.v)]
    rows = generate_cases.all_rows(case)
    out, lse = package.dilated_attention(
        *arrays, case.segments, case.rates, return_lse=True, **{**exact.options(case), **options}
    )
    assert out.dtype == arrays[0].dtype and out.shape == case.q.shape and out.flags.c_contiguous
    exact.check_forward(case, rows, out.astype(np.float64), lse.astype(np.float64))


@pytest.mark.parametrize("number", range(1, len(exact.ALONE), 2))
def test_every_other_option_alone(number):
    compare(exact.alone(exact.ALONE[number], ["f32", "f64", "f16"][number // 2 % 3], 7))


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_anything(seed):
    case = exact.random_case(seed)
    if case.value_type != "bf16":
        compare(case)


GOLDEN = list(generate_cases.golden_cases())


@pytest.mark.parametrize("number", range(len(GOLDEN)))
def test_golden(number):
    case = GOLDEN[number]
    if case.lengths is None or np.ndim(case.lengths) == 1:
        compare(case)


def test_any_memory():
    case = exact.alone({"batch": 2}, "f32", 6)
    q, k, v = (x.astype(np.float32) for x in (case.q, case.k, case.v))
    dense = package.dilated_attention(q, k, v, case.segments, case.rates)
    fortran = package.dilated_attention(*map(np.asfortranarray, (q, k, v)), case.segments, case.rates)
    reversed_memory = package.dilated_attention(
        *(np.ascontiguousarray(x[:, ::-1, :, ::-1])[:, ::-1, :, ::-1] for x in (q, k, v)), case.segments, case.rates
    )
    read_only = [x.copy() for x in (q, k, v)]
    for x in read_only:
        x.flags.writeable = False
    assert np.array_equal(dense, fortran) and np.array_equal(dense, reversed_memory)
    assert np.array_equal(dense, package.dilated_attention(*read_only, case.segments, case.rates))


def test_fields_of_a_record_are_copied():
    """Strides of 5 bytes are no multiple of an element's 4."""
    record = np.zeros((1, 4, 1, 2), np.dtype([("x", np.float32), ("tag", np.int8)]))
    record["x"] = np.arange(8).reshape(1, 4, 1, 2)
    x = record["x"]
    assert x.strides[-1] == 5
    dense = x.copy()
    assert np.array_equal(
        package.dilated_attention(x, x, x, [2], [1]), package.dilated_attention(dense, dense, dense, [2], [1])
    )


def test_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    case = exact.alone({}, "bf16", 8)
    arrays = [x.astype(ml_dtypes.bfloat16) for x in (case.q, case.k, case.v)]
    out, lse = package.dilated_attention(*arrays, case.segments, case.rates, return_lse=True)
    exact.check_forward(case, generate_cases.all_rows(case), out.astype(np.float64), lse.astype(np.float64))


def test_numpy_integers_are_integers():
    x = np.ones((1, 8, 1, 2), np.float32)
    lengths, rates = np.array([4, 8]), (np.int32(1), np.uint8(2))
    assert np.array_equal(
        package.dilated_attention(x, x, x, lengths, rates, window=np.int64(3), is_causal=np.bool_(True)),
        package.dilated_attention(x, x, x, [4, 8], [1, 2], window=3, is_causal=True),
    )


def test_dropout_follows_numpys_seed():
    x = np.random.default_rng(0).standard_normal((1, 64, 2, 4))
    np.random.seed(1)
    first, second = (package.dilated_attention(x, x, x, [32], [1], dropout_p=0.5) for _ in range(2))
    np.random.seed(1)
    assert np.array_equal(first, package.dilated_attention(x, x, x, [32], [1], dropout_p=0.5))
    assert not np.array_equal(first, second)


def test_dropout_is_the_definitions():
    """The mask is the one that the float64 definition draws from the same seed."""
    from dilated_attention_gradient import dilated_attention_dropout

    x = np.random.default_rng(0).standard_normal((2, 20, 2, 4))
    np.random.seed(5)
    seed = int(np.random.randint(0, 2**63 - 1, dtype=np.int64))
    np.random.seed(5)
    out = package.dilated_attention(x, x, x, [8, 16], [1, 2], dropout_p=0.3)
    expected, _ = dilated_attention_dropout(x, x, x, [8, 16], [1, 2], dropout=0.3, seed=seed)
    assert np.allclose(out, expected, rtol=1e-13, atol=1e-13)


def test_threads():
    x = np.random.default_rng(0).standard_normal((1, 600, 3, 8)).astype(np.float32)
    before, found = package.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 0):
            package.set_num_threads(threads)
            assert package.get_num_threads() == threads
            found.append(package.dilated_attention(x, x, x, [64], [1]))
    finally:
        package.set_num_threads(before)
    assert all(np.array_equal(found[0], other) for other in found)


@pytest.mark.parametrize("threads, error", [(-1, ValueError), (1025, ValueError), (1.0, TypeError), (True, TypeError)])
def test_wrong_numbers_of_threads(threads, error):
    with pytest.raises(error, match=f"threads is {threads}"):
        package.set_num_threads(threads)


X = np.zeros((2, 6, 4, 8), np.float32)
WRONG = [
    (dict(query=X.tolist()), TypeError, "query is a list; allowed: a NumPy array or a PyTorch tensor"),
    (dict(key=[1.0]), TypeError, "key is a list"),
    (dict(value=np.ma.masked_array(X, X == 1)), TypeError, "value is a MaskedArray"),
    (dict(query=X.astype(int)), TypeError, "query.dtype is <i8"),
    (dict(query=X.astype(">f4")), TypeError, "query.dtype is >f4"),
    (dict(query=X.astype(np.complex64)), TypeError, "query.dtype is <c8"),
    (dict(query=X.astype(np.float64)), ValueError, "dtype|data type"),
    (dict(query=X[0]), ValueError, r"query has the shape \(6, 4, 8\); allowed: \(batch, n, heads, head_dim\)"),
    (dict(query=X[None]), ValueError, "query has"),
    (dict(query=np.float32(1)), TypeError, "query is a float32"),
    (dict(query=X[:, :0], key=X[:, :0], value=X[:, :0]), ValueError, "shape|n is"),
    (dict(key=X[:, :5]), ValueError, "key"),
    (dict(key=X[:, :, :3], value=X[:, :, :3]), ValueError, "heads"),
    (dict(key_lengths=[1]), ValueError, r"key_lengths.shape is \(1,\)"),
    (dict(key_lengths=[[1, 2]]), ValueError, r"key_lengths.shape is \(1, 2\)"),
    (dict(key_lengths=[1.5, 2]), TypeError, "key_lengths has the data type float64"),
    (dict(key_lengths=[7, 0]), ValueError, "key_lengths.*7"),
    (dict(segment_lengths=[1, 2]), ValueError, "dilation_rates has 1 values and segment_lengths 2"),
    (dict(implementation="distributed"), ValueError, "distributed"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_arguments_are_named(number):
    changes, error, message = WRONG[number]
    arguments = {"query": X, "key": X, "value": X, "segment_lengths": [4], "dilation_rates": [1], **changes}
    with pytest.raises(error, match=message):
        package.dilated_attention(**arguments)
