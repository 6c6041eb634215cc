"""The package as such: what importing does, names, the extension's own functions, forks."""

import os
import pickle
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import dilated_attention_pytorch as package
import numpy as np
import pytest
from dilated_attention_pytorch import _config, _core

NO_TORCH = "import sys; sys.modules['torch'] = None\n"  # as if it were not installed


def run(program, timeout=60):
    """Runs a program in a process of its own; returns what it prints."""
    environment = dict(os.environ, PYTHONPATH=str(Path(_core.__file__).parent.parent))
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=environment, timeout=timeout,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_version_is_the_librarys():
    header = Path(__file__).resolve().parents[2] / "include" / "dilated_attention.h"
    numbers = re.findall(r"#define DA_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header.read_text())
    assert package.__version__ == _core.version() == ".".join(numbers)


def test_importing_does_not_import_torch():
    assert run("import sys, dilated_attention_pytorch; print('torch' in sys.modules)") == "False"


def test_numpy_works_without_torch():
    out = run(NO_TORCH + textwrap.dedent("""
        import numpy, dilated_attention_pytorch
        x = numpy.ones((1, 9, 2, 4), numpy.float32)
        print(dilated_attention_pytorch.dilated_attention(x, x, x, [4], [1]).sum())
    """))
    assert float(out) == 72


@pytest.mark.parametrize("name", sorted(package._LAZY))
def test_names_that_need_torch_say_so(name):
    module = Path(package.__file__).parent / package._LAZY[name]
    assert module.with_suffix(".py").exists() or (module / "__init__.py").exists()
    out = run(NO_TORCH + textwrap.dedent(f"""
        import dilated_attention_pytorch
        try:
            dilated_attention_pytorch.{name}
        except ImportError as error:
            print(error)
    """))
    assert re.fullmatch(rf"dilated_attention_pytorch.{name} needs PyTorch, .*pip install torch", out)


@pytest.mark.parametrize("name", sorted(package.__all__))
def test_every_name_is_there(name):
    assert getattr(package, name).__module__.startswith("dilated_attention_pytorch")
    assert name in dir(package)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="has no attribute 'attentions'"):
        package.attentions  # noqa: B018


def test_the_function_stays_in_place_of_its_module():
    """dilated_attention is also a module, which code for other packages imports; the function must survive that."""
    out = run("""
        import numpy, dilated_attention_pytorch as package
        from dilated_attention_pytorch.dilated_attention import DilatedAttention
        import dilated_attention_pytorch.dilated_attention as module
        x = numpy.ones((1, 4, 1, 1))
        print(package.dilated_attention(x, x, x, [4], [1]).sum(), module.DilatedAttention is DilatedAttention)
    """)
    assert out == "4.0 True"


def test_types_are_shipped():
    folder = Path(package.__file__).parent
    assert (folder / "py.typed").exists() and (folder / "_core.pyi").exists()


# ---- The extension -------------------------------------------------------------------------------------------------


def test_implementations():
    names = _core.implementations()
    assert {"standard", "improved", "ring", "distributed", "block_sparse"} <= set(names)
    for name in names:
        info = _core.info(name)
        assert info["name"] == name and info["available"] == (info["reason"] == "")
    improved = _core.info("improved")
    assert improved["available"] and improved["backward"] and improved["built_in"]
    assert set(improved["dtypes"]) == {"f32", "f64", "bf16", "f16"} and "causal" in improved["features"]


def test_an_unknown_implementation_lists_the_known():
    with pytest.raises(ValueError, match=r"fast.*standard.*improved"):
        _core.info("fast")


def test_hardware():
    machine = _core.hardware()
    assert machine["cores"] == len(os.sched_getaffinity(0)) and machine["memory"] > 0
    assert machine["isa"] in ("portable", "avx2", "avx512", "avx512_bf16", "amx_bf16", "neon")


def test_explain():
    text = package.explain([2048, 4096], [1, 2], n=10_000, heads=12, head_dim=64, dtype="bf16", is_causal=True)
    assert text.startswith("choice: improved") and "10,000 tokens" in text


@pytest.mark.parametrize("wrong, error, message", [
    (dict(n=0), ValueError, "n is 0"), (dict(dtype="f8"), ValueError, "f8"), (dict(head_dim=0), ValueError, "head_dim"),
    (dict(heads=3, kv_heads=2), ValueError, "kv_heads"), (dict(window=-3), ValueError, "window is -3"),
])
def test_explain_refuses(wrong, error, message):
    with pytest.raises(error, match=message):
        package.explain([4], [1], **{"n": 8, "heads": 4, "head_dim": 8, **wrong})


OPTIONS = ((4,), (1,), False, None, None, "longnet", "mod", "mask", "count", "contiguous", 0,
           "content", 0.1, 128, 1.0, 1, 0, None, 0.0)


@pytest.mark.parametrize("arguments", [
    (), ("auto",), ("auto", OPTIONS), ("auto", list(OPTIONS), 1), ("auto", OPTIONS[:-1], 1), ("auto", OPTIONS, "1"),
    ("auto", ((4.0,), *OPTIONS[1:]), 1), ("auto", ([4], *OPTIONS[1:]), 1),
    ("auto", (*OPTIONS[:10], 1.5, *OPTIONS[11:]), 1), ("auto", (*OPTIONS[:-2], 1.5, 0.0), 1), (None, OPTIONS, 1),
])
def test_the_extension_refuses_other_types(arguments):
    with pytest.raises(TypeError):
        _core.Attention(*arguments)


@pytest.mark.parametrize("threads", [-1, 1025])
def test_the_extension_refuses_other_numbers_of_threads(threads):
    with pytest.raises(ValueError, match=f"threads is {threads}"):
        _core.Attention("auto", OPTIONS, threads)


@pytest.mark.parametrize("view", [5, (0, 1), ("a", 1, (1, 1, 1, 1), (1, 1, 1, 1)), (0, 1, [1] * 4, [1] * 4),
                                  (0, 1, (1,) * 5, (1,) * 5), (0, 1, (1,) * 3, (1,) * 3), (0, 1, (1.0,) * 4, (1,) * 4),
                                  None, (0, 1, (1,) * 4, (1,) * 4), (64, 9, (1,) * 4, (1,) * 4)])
def test_the_extension_refuses_what_is_no_view(view):
    handle = _core.Attention("auto", OPTIONS, 1)
    x = np.zeros((1, 1, 1, 1), np.float32)
    good = (x.ctypes.data, 1, x.shape, (1, 1, 1, 1))
    with pytest.raises((TypeError, ValueError)):
        handle.forward(view, good, good, good, None, None, None)


def test_handles_say_what_runs_and_are_not_pickled():
    handle = _core.Attention("auto", OPTIONS, 1)
    assert handle.implementation == "improved"
    with pytest.raises(TypeError):
        pickle.dumps(handle)


def test_configs_are_text_and_back():
    options = _config.normal_options([4, 8], [1, 2], softmax_scale=0.1, window=3, preset="torchscale")
    assert _config.decode(_config.encode(options)) == options


def test_handles_are_freed():
    """Thousands of configurations leave no more behind than the cache holds."""
    out = run("""
        import resource, dilated_attention_pytorch as package, numpy
        x = numpy.zeros((1, 4, 1, 4), numpy.float32)
        def some(first):
            for k in range(first, first + 1500):
                package.dilated_attention(x, x, x, [k + 1], [1])
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        some(0)
        print(some(2000) , some(4000))
    """)
    before, after = map(int, out.split())
    assert after - before < 2048  # KiB; 1500 handles would be several MiB


# ---- Forks ---------------------------------------------------------------------------------------------------------

FORK = """
    import os, signal, numpy, dilated_attention_pytorch as package
    package.set_num_threads(3)
    x = numpy.random.default_rng(0).standard_normal((1, 2000, 4, 16)).astype(numpy.float32)
    def attend():
        return package.dilated_attention(x, x, x, [256], [1])
    {before}
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a child that hangs
        ok = all(numpy.array_equal(attend(), attend()) for _ in range(3))
        if os.fork() == 0:
            signal.alarm(20)
            attend()
            os._exit(0)
        os._exit(0 if ok and os.wait()[1] == 0 else 1)
    print(os.waitpid(child, 0)[1], attend().shape)
"""


@pytest.mark.parametrize("before", ["attend()", "pass"])
def test_a_forked_child_computes(before):
    assert run(FORK.format(before=before)) == "0 (1, 2000, 4, 16)"


def test_data_loaders_workers_compute():
    out = run("""
        import faulthandler, torch, dilated_attention_pytorch as package
        faulthandler.dump_traceback_later(50, exit=True)
        torch.set_num_threads(2)
        x = torch.randn(1, 2000, 4, 16)
        expected = package.dilated_attention(x, x, x, [256], [1])
        class Data(torch.utils.data.Dataset):
            def __len__(self):
                return 4
            def __getitem__(self, index):
                torch.set_num_threads(1 + index % 2)
                found = package.dilated_attention(x, x, x, [256], [1])
                torch.set_num_threads(1)  # PyTorch's own loops on two threads would hang here
                return torch.equal(found, expected)
        print([bool(y) for y in torch.utils.data.DataLoader(Data(), num_workers=2)])
    """)
    assert out == "[True, True, True, True]"
