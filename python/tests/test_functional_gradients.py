"""Gradients through out and lse, against the float64 definition within derived bounds, and by differences."""

import dilated_attention_pytorch as package
import exact
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_functional import DTYPES, tensors


def compare(case, seed, with_lse=True):
    given_by, rows, forward = exact.with_gradients(case, seed, with_lse=with_lse)
    inputs = [x.requires_grad_() for x in tensors(case)]  # after `solve`, which may shrink the values
    out, lse = package.dilated_attention(
        *inputs, case.segments, case.rates, return_lse=True, **exact.options(case)
    )
    outputs, grads = [out], [torch.from_numpy(given_by.grad_out).to(out.dtype)]
    if with_lse:
        outputs.append(lse)
        grads.append(torch.from_numpy(given_by.grad_lse).to(lse.dtype))
    found = torch.autograd.grad(outputs, inputs, grads)
    exact.check_forward(case, forward, out.detach().double().numpy(), lse.detach().double().numpy())
    for gradient, of in zip(found, rows):
        assert gradient.dtype == DTYPES[case.value_type]
        exact.check_gradient(case, of, gradient.double().numpy())


@pytest.mark.parametrize("number", range(0, len(exact.ALONE), 2))
def test_every_other_option_alone(number):
    value_type, head_dim = [("f32", 8), ("f64", 5), ("bf16", 16), ("f16", 9)][number // 2 % 4]
    compare(exact.alone(exact.ALONE[number], value_type, head_dim), number, with_lse=number % 4 == 0)


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_anything(seed):
    compare(exact.random_case(seed), seed)


SMALL = [
    dict(),
    dict(is_causal=True),
    dict(preset="torchscale"),
    dict(preset="head_groups"),
    dict(overlap="once", softmax_scale=-0.3),
    dict(key_lengths=[5, 0]),
    dict(window=2),
]


@pytest.mark.parametrize("number", range(len(SMALL)))
def test_gradcheck(number):
    torch.manual_seed(number)
    q = torch.randn(2, 9, 2, 3, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(2, 9, 1, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def both(*inputs):
        out, lse = package.dilated_attention(*inputs, [4, 8], [1, 2], return_lse=True, **SMALL[number])
        return out, lse.nan_to_num(neginf=0.0)

    assert torch.autograd.gradcheck(both, (q, k, v))


def test_gradcheck_with_dropout():
    q, k, v = (torch.randn(1, 9, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))

    def dropped(*inputs):
        torch.manual_seed(3)
        return package.dilated_attention(*inputs, [4, 8], [1, 2], dropout_p=0.4)

    assert torch.autograd.gradcheck(dropped, (q, k, v))


@pytest.mark.parametrize("wanted", range(1, 8))
def test_only_what_is_wanted_is_computed(wanted):
    """Each subset of the three has the gradients that all have, to the bit."""
    torch.manual_seed(0)
    plain = [torch.randn(1, 40, 2, 8) for _ in range(3)]
    every = [x.clone().requires_grad_() for x in plain]
    package.dilated_attention(*every, [16], [1]).square().sum().backward()
    some = [x.clone().requires_grad_(bool(wanted >> k & 1)) for k, x in enumerate(plain)]
    package.dilated_attention(*some, [16], [1]).square().sum().backward()
    for k in range(3):
        assert (some[k].grad is None) == (not wanted >> k & 1)
        assert some[k].grad is None or torch.equal(some[k].grad, every[k].grad)


def test_through_the_logsumexp_alone():
    q, k, v = (torch.randn(1, 9, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    _, lse = package.dilated_attention(q, k, v, [4], [1], return_lse=True)
    lse.sum().backward()
    assert v.grad.abs().max() == 0
    # The gradient of a query's logsumexp sums its keys, weighted; those of all keys sum the queries they weigh.
    assert torch.allclose(
        (q.grad * q.detach()).sum(), (k.grad * k.detach()).sum(), rtol=1e-12
    )


def test_an_expanded_gradient():
    """sum() hands back a gradient of one element, expanded."""
    q = torch.randn(1, 30, 2, 8, requires_grad=True)
    package.dilated_attention(q, q, q, [8], [1]).sum().backward()
    first, q.grad = q.grad, None
    out = package.dilated_attention(q, q, q, [8], [1])
    out.backward(torch.ones_like(out))
    assert torch.equal(first, q.grad)


def test_one_tensor_for_all_three():
    x = torch.randn(1, 12, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: package.dilated_attention(x, x, x, [4, 8], [1, 2]), (x,))


def test_second_derivatives_are_refused():
    q, k, v = (torch.randn(1, 6, 1, 2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.gradgradcheck(lambda *x: package.dilated_attention(*x, [4], [1]), (q, k, v))
    out = package.dilated_attention(q, k, v, [4], [1])
    (gradient,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        gradient.sum().backward()


def test_without_gradients_nothing_is_recorded():
    q = torch.randn(1, 6, 1, 2, requires_grad=True)
    with torch.no_grad():
        assert not package.dilated_attention(q, q, q, [4], [1]).requires_grad
    with torch.inference_mode():
        assert package.dilated_attention(q, q, q, [4], [1]).is_inference()
    assert not package.dilated_attention(*[q.detach()] * 3, [4], [1]).requires_grad


def test_inputs_changed_in_place_are_noticed():
    q = torch.randn(1, 6, 1, 2, requires_grad=True)
    k = torch.randn(1, 6, 1, 2)
    out = package.dilated_attention(q, k, k, [4], [1])
    k.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_activation_checkpointing_repeats_the_dropout():
    q = torch.randn(1, 32, 2, 4, requires_grad=True)

    def dropped(x):
        return package.dilated_attention(x, x, x, [16], [1], dropout_p=0.5)

    torch.manual_seed(4)
    dropped(q).square().sum().backward()
    plain, q.grad = q.grad, None
    torch.manual_seed(4)
    torch.utils.checkpoint.checkpoint(dropped, q, use_reentrant=False).square().sum().backward()
    assert torch.equal(plain, q.grad)


def test_results_do_not_depend_on_the_number_of_threads():
    torch.manual_seed(0)
    plain = [torch.randn(1, 500, 3, 16) for _ in range(3)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            inputs = [x.clone().requires_grad_() for x in plain]
            package.dilated_attention(*inputs, [64, 256], [1, 4]).square().sum().backward()
            found.append([x.grad for x in inputs])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_nan_reaches_only_those_who_see_it():
    v = torch.zeros(1, 16, 1, 2)
    v[0, 3] = np.nan
    q = torch.zeros(1, 16, 1, 2)
    out = package.dilated_attention(q, q, v, [8], [1])
    assert out[0, :8].isnan().all() and not out[0, 8:].isnan().any()
