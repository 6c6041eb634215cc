"""The operators in PyTorch's machinery: opcheck, fake tensors, compile, export, autocast, vmap, modes, subclasses."""

import io
import threading
import time
import warnings

import dilated_attention_pytorch as package
import pytest
import torch
from dilated_attention_pytorch import _torch_ops
from dilated_attention_pytorch._config import encode, normal_options
from torch._subclasses.fake_tensor import FakeTensorMode

FORWARD = torch.ops.dilated_attention.forward.default
BACKWARD = torch.ops.dilated_attention.backward.default
CONFIG = encode(normal_options([8, 16], [1, 2], is_causal=True))


def inputs(*, grad=False, dtype=torch.float32, heads=2, n=21, batch=2):
    torch.manual_seed(0)
    q = torch.randn(batch, n, heads, 4, dtype=dtype)
    k, v = (torch.randn(batch, n, max(1, heads // 2), 4, dtype=dtype) for _ in range(2))
    return [x.requires_grad_(grad) for x in (q, k, v)]


def attend(q, k, v, **options):
    return package.dilated_attention(q, k, v, [8, 16], [1, 2], is_causal=True, **options)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_opcheck_forward(grad, dtype):
    torch.library.opcheck(FORWARD, (*inputs(grad=grad, dtype=dtype), None, None, CONFIG, 0.0))


def test_opcheck_forward_with_key_lengths_and_dropout():
    lengths, seed = torch.tensor([5, 21]), torch.tensor(7)
    torch.library.opcheck(FORWARD, (*inputs(grad=True), lengths, seed, CONFIG, 0.25))


@pytest.mark.parametrize("wanted", [[True, True, True], [True, False, False], [False, True, True]])
@pytest.mark.parametrize("with_lse", [False, True])
def test_opcheck_backward(wanted, with_lse):
    q, k, v = inputs()
    out, lse = FORWARD(q, k, v, None, None, CONFIG, 0.0)
    grad_lse = torch.randn_like(lse) if with_lse else None
    torch.library.opcheck(
        BACKWARD, (torch.randn_like(out), grad_lse, q, k, v, out, lse, None, None, CONFIG, 0.0, wanted)
    )


def test_the_operator_is_what_the_function_computes():
    q, k, v = inputs()
    out, lse = FORWARD(q, k, v, None, None, CONFIG, 0.0)
    plain = attend(q, k, v, return_lse=True)
    assert torch.equal(out, plain[0]) and torch.equal(lse, plain[1])


def test_gradients_of_the_operator_are_the_functions():
    ours, theirs = inputs(grad=True), inputs(grad=True)
    FORWARD(*ours, None, None, CONFIG, 0.0)[0].square().sum().backward()
    attend(*theirs).square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, theirs))


def test_the_operator_refuses_second_derivatives():
    q, k, v = inputs(grad=True)
    (gradient,) = torch.autograd.grad(FORWARD(q, k, v, None, None, CONFIG, 0.0)[0].sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        gradient.sum().backward()


@pytest.mark.parametrize("config", ["", "{}", '{"segment_lengths": [4]}', CONFIG.replace("mask", "cut")])
def test_the_operator_refuses_a_damaged_config(config):
    with pytest.raises(ValueError, match="config is"):
        FORWARD(*inputs(), None, None, config, 0.0)


def test_the_operator_checks_key_lengths():
    for lengths in (torch.tensor([1, 2], dtype=torch.int32), torch.tensor([1]), torch.tensor([1, 0, 2, 0])[::2]):
        with pytest.raises(ValueError, match="key_lengths is of"):
            FORWARD(*inputs(), lengths, None, CONFIG, 0.0)


def test_meta_tensors():
    q, k, v = (x.to("meta") for x in inputs(dtype=torch.bfloat16))
    out, lse = attend(q, k, v, return_lse=True)
    assert out.device.type == "meta" and out.shape == q.shape and out.dtype == torch.bfloat16
    assert lse.shape == q.shape[:3] and lse.dtype == torch.float32


def test_fake_tensors():
    with FakeTensorMode():
        q = torch.empty(2, 1 << 40, 2, 4, requires_grad=True)
        out = attend(q, q, q)
        out.sum().backward()
    assert out.shape == q.shape == q.grad.shape


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_compile_traces_the_whole_graph(dropout):
    compiled = torch.compile(
        lambda q, k, v: attend(q, k, v, dropout_p=dropout).square() + 1, fullgraph=True, backend="aot_eager"
    )
    ours, theirs = inputs(grad=True), inputs(grad=True)
    torch.manual_seed(1)
    a = compiled(*ours)
    torch.manual_seed(1)
    b = attend(*theirs, dropout_p=dropout).square() + 1
    assert torch.equal(a, b)
    a.sum().backward()
    b.sum().backward()
    assert all(torch.equal(x.grad, y.grad) for x, y in zip(ours, theirs))


def test_compiled_dropout_draws_anew():
    compiled = torch.compile(lambda q: package.dilated_attention(q, q, q, [8], [1], dropout_p=0.5), fullgraph=True,
                             backend="aot_eager")
    q = inputs()[0]
    assert not torch.equal(compiled(q), compiled(q))


def test_compile_with_dynamic_shapes():
    compiled = torch.compile(lambda q, k, v: attend(q, k, v), fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (21, 22, 40):
        tensors = inputs(n=n)
        assert torch.equal(compiled(*tensors), attend(*tensors))


def test_compile_with_key_lengths():
    compiled = torch.compile(lambda q, k, v, x: attend(q, k, v, key_lengths=x), fullgraph=True, backend="aot_eager")
    tensors, lengths = inputs(), torch.tensor([4, 21])
    assert torch.equal(compiled(*tensors, lengths), attend(*tensors, key_lengths=lengths))


class Module(torch.nn.Module):
    def forward(self, q, k, v):
        return attend(q, k, v)


def test_export_and_reload():
    tensors = inputs()
    n = torch.export.Dim("n", min=2, max=4096)
    program = torch.export.export(Module(), tuple(tensors), dynamic_shapes=[{1: n}] * 3)
    assert any(node.target is FORWARD for node in program.graph.nodes)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    again = torch.export.load(file).module()
    for tokens in (21, 33):
        tensors = inputs(n=tokens)
        assert torch.equal(again(*tensors), attend(*tensors))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    ours, cast = inputs(grad=True), [x.to(dtype).requires_grad_() for x in inputs()]
    with torch.autocast("cpu", dtype=dtype):
        out = attend(*ours)
    expected = attend(*cast)
    assert out.dtype == dtype and torch.equal(out, expected)
    out.float().sum().backward()
    expected.float().sum().backward()
    assert all(a.grad.dtype == torch.float32 and torch.equal(a.grad, b.grad.float()) for a, b in zip(ours, cast))


def test_autocast_mixes_types_and_leaves_f64():
    q, k, v = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attend(q.bfloat16(), k, v).dtype == torch.bfloat16
        assert attend(*inputs(dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("dims", [(0, 0, 0), (1, None, 2), (None, 3, None)])
def test_vmap(dims):
    stacked = []
    for dim, x in zip(dims, inputs()):
        stacked.append(x if dim is None else torch.stack([x, x.neg(), x * 2], dim))
    mapped = torch.func.vmap(attend, in_dims=dims)(*stacked)
    assert mapped.shape == (3, *inputs()[0].shape)
    for k in range(3):
        assert torch.equal(mapped[k], attend(*(x if d is None else x.select(d, k) for d, x in zip(dims, stacked))))


def test_vmap_of_gradients():
    """Gradients of each sample alone."""
    q, k, v = (torch.stack([x, x * 2]) for x in inputs(dtype=torch.float64))
    gradient = torch.func.grad(lambda q, k, v: attend(q, k, v).square().sum(), argnums=(0, 1, 2))
    mapped = torch.func.vmap(gradient)(q, k, v)
    for sample in range(2):
        alone = gradient(q[sample], k[sample], v[sample])
        leaves = [x[sample].clone().requires_grad_() for x in (q, k, v)]
        attend(*leaves).square().sum().backward()
        for a, b, c in zip(mapped, alone, leaves):
            # How the work is cut depends on the batch, which here holds all samples or one.
            assert torch.allclose(a[sample], b, rtol=1e-12, atol=1e-12) and torch.equal(b, c.grad)


def test_vmap_with_dropout():
    q = torch.zeros(3, 1, 64, 1, 1)
    one = torch.ones_like(q)
    run = torch.func.vmap(lambda q, v: package.dilated_attention(q, q, v, [64], [1], dropout_p=0.5), randomness="same")
    out = run(q, one)
    assert not torch.equal(out[0], out[1])  # each element has its own place in the batch
    with pytest.raises(RuntimeError, match="randomness is 'different'"):
        torch.func.vmap(
            lambda q, v: package.dilated_attention(q, q, v, [64], [1], dropout_p=0.5), randomness="different"
        )(q, one)


def test_compiled_vmap_uses_the_operators_rule():
    q, k, v = (torch.stack([x, x * 2]) for x in inputs())
    mapped = torch.func.vmap(lambda q, k, v: FORWARD(q, k, v, None, None, CONFIG, 0.0)[0])(q, k, v)
    assert torch.equal(mapped[1], attend(q[1], k[1], v[1]))


def test_profilers_see_the_operator():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        attend(*inputs())
    assert "dilated_attention::forward" in {event.name for event in profile.events()}


def test_dispatch_modes_see_the_operators():
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    with Watch():
        attend(*inputs(grad=True)).sum().backward()
    assert FORWARD in seen and BACKWARD in seen


def test_a_default_device_does_not_matter():
    q, k, v = inputs()
    expected = attend(q, k, v, key_lengths=torch.tensor([3, 21]))
    with torch.device("meta"):
        found = attend(q, k, v, key_lengths=[3, 21])
    assert torch.equal(found, expected)


def test_negative_views_are_read_right():
    x = torch.randn(1, 16, 2, 4, dtype=torch.complex64)
    negative = torch._neg_view(x.real.contiguous())
    assert negative.is_neg()
    assert torch.equal(attend(negative, negative, negative), attend(*[-x.real.contiguous()] * 3))


def test_forward_differentiation_is_refused():
    """Tangents must not be lost without a word."""
    q, k, v = inputs()
    with pytest.raises((RuntimeError, NotImplementedError)), torch.autograd.forward_ad.dual_level():
        attend(torch.autograd.forward_ad.make_dual(q, torch.ones_like(q)), k, v)
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.func.jvp(lambda q: attend(q, k, v), (q,), (torch.ones_like(q),))


def test_sparse_tensors_are_refused():
    q, k, v = inputs()
    with pytest.raises((RuntimeError, NotImplementedError), match=r"[Ss]parse"):
        attend(q.to_sparse(), k, v)


def test_parameters_are_tensors():
    q, k, v = inputs()
    parameter = torch.nn.Parameter(q)
    attend(parameter, k, v).sum().backward()
    assert parameter.grad.shape == q.shape


def test_a_subclass_takes_the_operators():
    class Mine(torch.Tensor):
        pass

    q, k, v = inputs()
    out = attend(q.as_subclass(Mine), k, v)
    assert torch.equal(out.as_subclass(torch.Tensor), attend(q, k, v))


def test_other_devices_are_refused():
    q, k, v = inputs()
    with pytest.raises((ValueError, RuntimeError), match="meta"):
        attend(q, k.to("meta"), v)


def test_handles_are_kept_per_number_of_threads():
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            attend(*inputs())
        handles = {threads: _torch_ops.handle(CONFIG, 0.0, threads) for threads in (1, 2)}
        assert handles[1] is not handles[2]
        hits = _torch_ops.handle.cache_info().hits
        attend(*inputs())
        assert _torch_ops.handle.cache_info().hits == hits + 1
    finally:
        torch.set_num_threads(before)


def test_the_interpreters_lock_is_released():
    """While one thread computes, another counts: it stands still if the lock is kept."""
    q = torch.randn(1, 6000, 4, 64)
    done, counted = threading.Event(), []

    def count():
        while not done.is_set():
            counted.append(time.perf_counter())
            time.sleep(0.0005)

    thread = threading.Thread(target=count)
    thread.start()
    time.sleep(0.01)
    start = time.perf_counter()
    package.dilated_attention(q, q, q, [6000], [1], implementation="standard")
    stop = time.perf_counter()
    done.set()
    thread.join()
    assert sum(start < x < stop for x in counted) >= 10


def test_many_threads_at_once():
    tensors = inputs(n=200)
    expected, found = attend(*tensors), []
    threads = [threading.Thread(target=lambda: found.append(attend(*tensors))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(torch.equal(expected, x) for x in found)


def test_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.compile(lambda q, k, v: attend(q, k, v), fullgraph=True, backend="eager")(*inputs())
        attend(*inputs(grad=True)).sum().backward()
