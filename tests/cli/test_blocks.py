"""run --impl ring by blocks: results, a sequence larger than the memory that is allowed, and going on after a stop."""
import contextlib
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cli_support import assert_matches, options_of, read_safetensors, refuse, run, succeed, succeed_json, write_safetensors

CASE = {"segment_lengths": [8, 16, 32], "dilation_rates": [1, 2, 4]}
MIB = 1 << 20


def ring(inputs, *words):
    return ["run", *inputs, *options_of(CASE), "--impl", "ring", *words]


@pytest.mark.parametrize("block", [1, 7, 16, 44])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_blocks_give_the_reference(inputs, block, dtype):
    out = inputs.out
    report = succeed_json(*ring(inputs.save(dtype), "--block", block, "--out", out / "o.npy", "--lse", out / "l.npy"))
    assert (report["block"], report["resumed_from"], report["implementation"]) == (block, 0, "ring")
    assert sorted(os.listdir(out)) == ["l.npy", "o.npy"]
    q, k, v = (np.load(inputs.folder / f"{name}.npy") for name in "qkv")
    assert_matches(np.load(out / "o.npy"), np.load(out / "l.npy"), q, k, v, CASE, dtype)


@pytest.mark.parametrize("order, arrange", [("bhnd", lambda x: np.ascontiguousarray(x.transpose(0, 2, 1, 3))),
                                            ("bnhd", np.asfortranarray)])
def test_order_of_axes_changes_no_bit(inputs, order, arrange):
    mask = inputs.folder / "mask.npy"
    np.save(mask, np.random.default_rng(1).random((2, 45)) < 0.2)
    results = []
    for layout, arranged in (("bnhd", lambda x: x), (order, arrange)):
        given = inputs.save(arrange=arranged)
        succeed(*ring(given, "--block", 10, "--layout", layout, "--key-mask", mask, "--quiet", "--out", inputs.out / "o.npy"))
        result = np.load(inputs.out / "o.npy")
        results.append(result.transpose(0, 2, 1, 3) if layout == "bhnd" else result)
    np.testing.assert_array_equal(results[0], results[1])


def test_converted_and_misaligned_inputs(inputs):
    """Neither lies in pages that can be let go: their numbers would be lost."""
    given = inputs.save()
    tensors = {name: np.load(inputs.folder / f"{name}.npy") for name in "qkv"}
    file = inputs.folder / "all.safetensors"
    write_safetensors(file, tensors)
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    odd = inputs.folder / "odd.safetensors"
    odd.write_bytes((length + 3).to_bytes(8, "little") + raw[8:8 + length] + b"   " + raw[8 + length:])
    plain, out = inputs.out / "plain.npy", inputs.out / "o.npy"
    succeed(*ring(given, "--block", 10, "--quiet", "--out", plain))
    succeed(*ring([word for name in "qkv" for word in (f"--{name}", f"{odd}:{name}")], "--block", 10, "--quiet", "--out", out))
    np.testing.assert_array_equal(np.load(out), np.load(plain))
    succeed(*ring(given, "--block", 10, "--dtype", "f64", "--quiet", "--out", out))
    np.testing.assert_allclose(np.load(out), np.load(plain), rtol=0, atol=1e-5)


def test_output_in_safetensors(inputs):
    given, out = inputs.save(), inputs.out
    succeed(*ring(given, "--block", 10, "--quiet", "--out", out / "o.safetensors:x"))
    succeed(*ring(given, "--block", 10, "--quiet", "--out", out / "o.npy"))
    np.testing.assert_array_equal(read_safetensors(out / "o.safetensors")["x"], np.load(out / "o.npy"))


def test_a_block_of_all_is_the_whole(inputs):
    given, out = inputs.save(), inputs.out
    succeed(*ring(given, "--block", 45, "--quiet", "--out", out / "a.npy"))
    succeed(*ring(given, "--quiet", "--out", out / "b.npy"))
    assert (out / "a.npy").read_bytes() == (out / "b.npy").read_bytes()


# ----------------------------------------------------------------------------------------------------------------------
# Longer than memory


def save_long(folder, n, channels):
    """q, k and v of n tokens in f16, written through a mapping; the options that name them."""
    options, rng = [], np.random.default_rng(0)
    for name in "qkv":
        array = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, (n, 1, channels))
        for first in range(0, n, 1 << 18):
            array[first:first + (1 << 18)] = rng.standard_normal(array[first:first + (1 << 18)].shape, np.float32)
        array.flush()
        options += [f"--{name}", folder / f"{name}.npy"]
    return options


# A small process of its own waits for the command: what it was before exec counts in its peak, too.
MEASURE = """
import os, resource, sys
limit = int(sys.argv[1])
child = os.fork()
if child == 0:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    os.execv(sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(child, 0)
print(usage.ru_maxrss * 1024, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status) & 255)
"""


def limited(limit, *words):
    return [sys.executable, "-I", "-S", "-c", MEASURE, str(limit), os.environ["DA_CLI"], *map(str, words)]


# DA_LONG_TOKENS=67108864 makes it 8 GiB of files, and some minutes (docs/ring.md).
LONG = int(os.environ.get("DA_LONG_TOKENS", 4 << 20))
PATTERN = ["--segments", "64,1024,16384", "--rates", "1,16,256"]
MEMORY = 64 * MIB
# Of private memory the limit is larger, for what is set aside and never touched: a stack for each thread, and two buffers of
# 128 MiB that OpenBLAS, which modules may use, asks for when it is loaded, without end if it is refused.
DATA = MEMORY + 2 * 8 * MIB + 2 * 136 * MIB
RUN = {"capture_output": True, "text": True, "check": False, "timeout": 300 + LONG // 50000,
       "env": {**os.environ, "OPENBLAS_NUM_THREADS": "1"}}


@pytest.fixture(scope="module", name="long_inputs")
def make_long_inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    yield ["run", *save_long(folder, LONG, 16), *PATTERN, "--threads", 2]
    shutil.rmtree(folder)


def wait_for_tokens(partial, tokens):
    """Until output has been written beyond so many tokens (of 16 numbers of two bytes)."""
    for _ in range(60000):
        with contextlib.suppress(OSError), open(partial, "rb") as file:
            file.seek(-32 * (LONG - tokens), os.SEEK_END)
            if any(file.read(32)):
                return
        time.sleep(0.001)
    pytest.fail(f"{partial}: never came to {tokens} tokens")


@pytest.mark.skipif("ASAN_OPTIONS" in os.environ, reason="sanitizers take memory of their own")
def test_longer_than_memory_stopped_and_resumed(long_inputs, tmp_path):
    """Inputs and output of 512 MiB, or more, in 64 MiB: stopped in the middle, resumed, and the same bits as without a stop."""
    command = [*long_inputs, "--impl", "ring", "--memory", "64M", "--json"]
    whole, stopped = tmp_path / "whole.npy", tmp_path / "stopped.npy"
    done = subprocess.run(limited(DATA, *command, "--out", whole), **RUN)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert int(done.stderr) < MEMORY and report["peak_resident_bytes"] < MEMORY
    assert report["block"] < LONG // 8

    process = subprocess.Popen([os.environ["DA_CLI"], *map(str, command), "--out", str(stopped)], stderr=subprocess.PIPE,
                               text=True)
    wait_for_tokens(f"{stopped}.partial", LONG // 4)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGINT, message
    assert f"of {LONG:,} tokens are in {stopped}.partial, and --resume goes on with it" in message
    assert sorted(os.listdir(tmp_path)) == ["stopped.npy.partial", "stopped.npy.partial.state", "whole.npy"]
    done = subprocess.run(limited(DATA, *command, "--out", stopped, "--resume"), **RUN)
    assert done.returncode == 0, done.stderr
    resumed = json.loads(done.stdout)
    assert int(done.stderr) < MEMORY
    assert resumed["block"] == report["block"] and 0 < resumed["resumed_from"] < LONG
    assert resumed["resumed_from"] % resumed["block"] == 0
    assert sorted(os.listdir(tmp_path)) == ["stopped.npy", "whole.npy"]
    a, b = np.load(whole, mmap_mode="r"), np.load(stopped, mmap_mode="r")
    assert all(np.array_equal(a[i:i + MIB], b[i:i + MIB]) for i in range(0, LONG, MIB))
    stopped.unlink()

    all_at_once = tmp_path / "improved.npy"
    succeed(*long_inputs, "--impl", "improved", "--quiet", "--out", all_at_once, timeout=RUN["timeout"])
    c = np.load(all_at_once, mmap_mode="r")
    for i in range(0, LONG, MIB):  # one rounding to f16 each, which may go either way, and those of f32 sums before
        x, y = a[i:i + MIB].astype(np.float32), c[i:i + MIB].astype(np.float32)
        assert np.all(np.abs(x - y) <= 2.0**-10 * np.abs(y) + 2.0**-18)


# ----------------------------------------------------------------------------------------------------------------------
# Stops


@pytest.fixture(name="stopped")
def stop_a_run(inputs):
    """A run of 45 tokens in blocks of 10 that was stopped after 20, by hand: its words, and what it would have given."""
    words = ring(inputs.save(), "--out", inputs.out / "o.npy", "--lse", inputs.out / "l.npy")
    succeed(*words, "--block", 10, "--quiet")
    expected = {name: (inputs.out / name).read_bytes() for name in ("o.npy", "l.npy")}
    for name, content in expected.items():
        (inputs.out / name).unlink()
        rows = np.load(io.BytesIO(content))
        header = len(content) - rows.nbytes
        rows[:, 20:] = 0
        (inputs.out / f"{name}.partial").write_bytes(content[:header] + rows.tobytes())
    state = state_of(inputs, words)
    (inputs.out / "o.npy.partial.state").write_text(state)
    return words, expected


def state_of(inputs, words):
    """The state that a run writes, with 20 tokens finished: from a run that is killed without a word."""
    aside = inputs.folder / "aside"
    aside.mkdir()
    path = {str(inputs.out / name): str(aside / name) for name in ("o.npy", "l.npy")}
    words = [path.get(str(word), str(word)) for word in words]
    while True:
        process = subprocess.Popen([os.environ["DA_CLI"], *words, "--block", "10", "--quiet"])
        state = aside / "o.npy.partial.state"
        while not state.exists() and process.poll() is None:
            pass
        process.kill()
        process.wait()
        if state.exists():
            lines = state.read_text().splitlines()
            assert lines[-1].startswith("finished ")
            shutil.rmtree(aside)
            return "\n".join([*lines[:-1], "finished 20"]) + "\n"


def test_resumed_run_has_the_same_bits(inputs, stopped):
    words, expected = stopped
    report = succeed_json(*words, "--resume")
    assert (report["block"], report["resumed_from"]) == (10, 20)
    assert {name: (inputs.out / name).read_bytes() for name in os.listdir(inputs.out)} == expected


def assert_refused(inputs, code, parts, words):
    before = {path.name: path.read_bytes() for path in inputs.out.iterdir()}
    line = refuse(code, *words)
    for part in parts:
        assert part in line, line
    assert {path.name: path.read_bytes() for path in inputs.out.iterdir()} == before


def test_partial_result_is_not_replaced(inputs, stopped):
    assert_refused(inputs, 1, ["o.npy.partial", "resume", "remove"], [*stopped[0], "--block", 10])


@pytest.mark.parametrize("words, code, parts", [
    (["--block", 11], 2, ["--block", "11", "10"]),
    (["--memory", "1M"], 1, ["--memory", "1.0 MiB is too little", "10 tokens"]),
    (["--causal"], 1, ["--resume", "causal=0", "causal=1"]),
    (["--scale", 0.25], 1, ["--resume", "scale=default", "scale=0x1p-2"]),
    (["--isa", "portable"], 1, ["--resume", "instruction-set"]),
    (["--lengths", "45,40"], 1, ["--resume", "lengths 45,40"]),
    (["--segments", "8,16,33"], 1, ["--resume", "segments 8,16,32", "segments 8,16,33"]),
])
def test_another_run_is_not_resumed(inputs, stopped, words, code, parts):
    if words[0] == "--isa" and "portable" in (inputs.out / "o.npy.partial.state").read_text():
        pytest.skip("portable is what runs here")
    assert_refused(inputs, code, parts, [*stopped[0], "--resume", *words])


def test_changed_input_is_noticed(inputs, stopped):
    path = inputs.folder / "k.npy"
    path.write_bytes(path.read_bytes())
    assert_refused(inputs, 1, ["--resume", "k file="], [*stopped[0], "--resume"])


@pytest.mark.parametrize("spoil, parts", [
    (lambda out: (out / "o.npy.partial").unlink(), ["o.npy.partial", "No such file"]),
    (lambda out: (out / "l.npy.partial").unlink(), ["l.npy.partial", "No such file"]),
    (lambda out: (out / "o.npy.partial.state").unlink(), ["o.npy.partial.state", "No such file"]),
    (lambda out: os.truncate(out / "o.npy.partial", 1000), ["o.npy.partial", "1000 bytes"]),
    (lambda out: (out / "o.npy.partial").write_bytes(b"x" * (out / "o.npy.partial").stat().st_size), ["header"]),
    (lambda out: (out / "o.npy.partial.state").write_text("finished 20\n"), ["o.npy.partial.state", "damaged"]),
    (lambda out: (out / "o.npy.partial.state").write_bytes(b""), ["o.npy.partial.state", "empty"]),
    (lambda out: change_state(out, "finished 20", "finished 21"), ["damaged", "finished"]),
    (lambda out: change_state(out, "finished 20", "finished 50"), ["damaged", "finished"]),
    (lambda out: change_state(out, "finished 20", "finished -10"), ["damaged", "finished"]),
    (lambda out: change_state(out, "block 10", "block 0"), ["damaged", "block"]),
    (lambda out: change_state(out, "library ", "library 9"), ["library"]),
], ids=["no output", "no logsumexp", "no state", "truncated", "header", "state without block", "empty state", "within a block",
        "beyond the end", "negative", "block 0", "another version"])
def test_damaged_partial_result(inputs, stopped, spoil, parts):
    spoil(inputs.out)
    assert_refused(inputs, 1, parts, [*stopped[0], "--resume"])


def change_state(out, old, new):
    path = out / "o.npy.partial.state"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_two_runs_do_not_write_one_result(inputs, stopped):
    with open(inputs.out / "o.npy.partial", "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert_refused(inputs, 1, ["o.npy.partial", "another process"], [*stopped[0], "--resume"])


def test_memory_too_small(inputs):
    words = ring(inputs.save(), "--memory", "1M", "--out", inputs.out / "o.npy")
    assert_refused(inputs, 1, ["--memory: 1.0 MiB is too little", "allowed: that or more"], words)


def test_enough_memory_for_all(inputs):
    report = succeed_json(*ring(inputs.save(), "--memory", "1G", "--out", inputs.out / "o.npy"))
    assert "block" not in report and report["peak_resident_bytes"] < 1 << 30
    assert run("run", "--help").stdout.count("--resume") == 1
