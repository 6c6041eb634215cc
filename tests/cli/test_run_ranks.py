"""run over the processes of mpirun: the result of one process, refusals said once, and no file left when a rank fails."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cli_support import assert_matches, decode, encode, read_safetensors, refuse, succeed, write_safetensors

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "mpi"))
from mpi_launch import NO_LEAKS, RECOVER, begin, end, run  # noqa: E402

CLI = pathlib.Path(os.environ["DA_CLI"])
MODULE = CLI.parent.parent / "lib" / "dilated-attention-mpi.so"
CASE = {"segment_lengths": [8, 16, 32], "dilation_rates": [1, 2, 4], "causal": True}
PATTERN = ["--segments", "8,16,32", "--rates", "1,2,4", "--causal"]

needs_mpi = pytest.mark.skipif(not MODULE.exists() or not shutil.which("mpirun"), reason="MPI is not installed, or was not when the command line was built")


def launch(ranks, *words, more=()):
    """Over so many ranks; `more`: words that rank `ranks` has besides, which is then the last one."""
    command = ["-n", ranks, CLI, "run", *words]
    return [*command, ":", "-n", 1, CLI, "run", *words, *more] if more else command


def succeed_over(ranks, *words):
    status, stdout, stderr = run(*launch(ranks, *words), **NO_LEAKS)
    assert (status, stderr) == (0, "")
    return stdout


def own_lines(stderr):
    return [line for line in stderr.splitlines() if line.startswith("dilated-attention")]


def refuse_over(code, ranks, *words, more=()):
    """All end, and one line says why; returns it."""
    status, stdout, stderr = run(*launch(ranks, *words, more=more), **NO_LEAKS)
    assert (status, stdout) == (code, ""), stderr
    assert len(own_lines(stderr)) == 1, stderr
    return own_lines(stderr)[0]


@needs_mpi
@pytest.mark.parametrize("ranks, implementation, partition", [
    (3, "ring", "contiguous"), (3, "ring", "zigzag"), (3, "ring", "striped"), (3, "distributed", "contiguous"),
    (3, "distributed", "zigzag"), (3, "distributed", "striped"), (2, "ring", "zigzag"), (7, "ring", "contiguous"),
    (7, "distributed", "striped")])
def test_result_of_one_process(inputs, ranks, implementation, partition):
    out, lse, alone = (inputs.out / name for name in ("o.npy", "l.npy", "alone.npy"))
    files = inputs.save()
    succeed_over(ranks, *files, *PATTERN, "--impl", implementation, "--partition", partition, "--stripe", 4, "--out", out,
                 "--lse", lse)
    succeed("run", *files, *PATTERN, "--impl", "improved", "--out", alone)
    assert_matches(np.load(out), np.load(lse), inputs.q, inputs.k, inputs.v, CASE, "f32")
    np.testing.assert_allclose(np.load(out), np.load(alone), rtol=0, atol=1e-5)
    assert sorted(os.listdir(inputs.out)) == ["alone.npy", "l.npy", "o.npy"]


@needs_mpi
@pytest.mark.parametrize("partition", ["contiguous", "striped"])
@pytest.mark.parametrize("dtype", ["f16", "f64"])
def test_safetensors_heads_first(inputs, dtype, partition):
    stored = {name: encode(getattr(inputs, name), dtype) for name in "qkv"}
    path, out, lse = inputs.folder / "t.safetensors", inputs.out / "o.safetensors", inputs.out / "l.npy"
    write_safetensors(path, {name: array.transpose(0, 2, 1, 3) for name, array in stored.items()})
    succeed_over(3, "--q", f"{path}:q", "--k", f"{path}:k", "--v", f"{path}:v", "--layout", "bhnd", *PATTERN, "--impl", "ring",
                 "--partition", partition, "--stripe", 5, "--out", f"{out}:o", "--lse", lse)
    assert_matches(read_safetensors(out)["o"].transpose(0, 2, 1, 3), np.load(lse).transpose(0, 2, 1), *stored.values(),
                   CASE, dtype)


@needs_mpi
@pytest.mark.parametrize("partition", ["contiguous", "zigzag"])
def test_conversion_and_padding(inputs, partition):
    files, out = inputs.save("f16"), inputs.out / "o.npy"
    mask = np.zeros((2, 45), bool)
    mask[0, 40:], mask[1, 17:] = True, True
    np.save(inputs.folder / "mask.npy", mask)
    case = {**CASE, "key_padding": [40, 17]}
    common = [*files, *PATTERN, "--dtype", "f32", "--partition", partition, "--impl", "distributed", "--out", out]
    seen = [decode(encode(getattr(inputs, name), "f16")).astype(np.float32) for name in "qkv"]
    for padding in (["--key-mask", inputs.folder / "mask.npy"], ["--lengths", "40,17"]):
        succeed_over(3, *common, *padding)
        assert_matches(np.load(out), None, *seen, case, "f32")


@needs_mpi
@pytest.mark.parametrize("partition", ["contiguous", "zigzag", "striped"])
def test_fewer_tokens_than_ranks(inputs, partition):
    out = inputs.out / "o.npy"
    for name in "qkv":
        setattr(inputs, name, getattr(inputs, name)[:, :2])
    succeed_over(4, *inputs.save(), "--segments", 2, "--rates", 1, "--impl", "ring", "--partition", partition, "--stripe", 1,
                 "--dtype", "f64", "--out", out)
    q, k, v = (getattr(inputs, name).astype(np.float64) for name in "qkv")
    assert_matches(np.load(out), None, q, k, v, {"segment_lengths": [2], "dilation_rates": [1]}, "f64")


@needs_mpi
def test_report(inputs):
    words = [*inputs.save(), *PATTERN, "--out", inputs.out / "o.npy", "--partition", "zigzag"]
    line = succeed_over(3, *words)
    assert line.startswith("3 ranks, zigzag: a rank sent at most ") and line.count("\n") == 1
    report = json.loads(succeed_over(3, *words, "--json"))
    assert (report["ranks"], report["partition"], report["n"], len(report["bytes_sent"])) == (3, "zigzag", 45, 3)
    assert report["implementation"] == "distributed" and min(report["bytes_sent"]) > 0
    assert succeed_over(3, *words, "--quiet") == ""
    assert succeed_over(3, "--help").count("usage:") == 1


@needs_mpi
def test_split_follows_the_network(inputs):
    """Two key heads for two ranks: even work by heads pays where sending all tensors costs nothing."""
    words = [*inputs.save(), "--segments", 45, "--rates", 1, "--causal", "--impl", "distributed", "--json", "--out",
             inputs.out / "o.npy"]

    def sent(*more):
        return json.loads(succeed_over(2, *words, *more))["bytes_sent"]

    network = ["--network-latency", 0, "--network-overhead", 0, "--network-bandwidth"]
    by_tokens, by_heads = sent("--split", "tokens"), sent("--split", "heads")
    assert sum(by_heads) > 2 * sum(by_tokens) > 0
    assert sent(*network, "1k") == [count + 3 * 8 for count in by_tokens]  # each rank says three times what it would take
    assert sent(*network, "900T") == [count + 3 * 8 for count in by_heads]


@needs_mpi
@pytest.mark.parametrize("code, words, message", [
    (2, ["--impl", "improved"], '--impl: "improved" computes in one process; allowed over 3 ranks: auto, ring, distributed'),
    (2, ["--impl", "nothing"], '--impl: implementation name is "nothing"'),
    (2, ["--plan", "measure"], '--plan: "measure" is for one process'),
    (2, ["--comm-timeout", "0"], '--comm-timeout: "0" is not a number of seconds above 0'),
    (2, ["--stripe", "x"], '--stripe: "x" is not a whole number'),
    (2, ["--lengths", "45,46"], "--lengths: 46 is not from 0 to 45"),
    (1, ["--q", "none.npy"], "--q: none.npy: cannot be opened"),
    (1, ["--out", "none/o.npy"], "rank 0: --out: none/o.npy: no file can be created beside it"),
])
def test_refusals_are_said_once(inputs, code, words, message):
    assert message in refuse_over(code, 3, *inputs.save(), *PATTERN, "--impl", "ring", "--out", inputs.out / "o.npy", *words)
    assert os.listdir(inputs.out) == []


@needs_mpi
@pytest.mark.parametrize("more, message", [
    (["--q", "none.npy"], "rank 2: --q: none.npy: cannot be opened"),
    (["--window", "5"], "implementation and configuration of rank 2 differs from that of rank 0"),
    (["--out", "other.npy"], "command line, or shapes of inputs, of rank 2 differs from that of rank 0"),
    (["--lengths", "3,3"], "rank 2 calls with another value of the hash of key_lengths"),
])
def test_ranks_that_differ(inputs, more, message):
    words = [*inputs.save(), *PATTERN, "--impl", "ring", "--out", inputs.out / "o.npy"]
    assert message in refuse_over(1, 2, *words, more=more)
    assert os.listdir(inputs.out) == []


# ----------------------------------------------------------------------------------------------------------------------
# Ranks that fail in the middle

def children(process):
    """The process of each rank, by rank."""
    found = {}
    for pid in map(int, pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()):
        environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        found.update({int(word.split(b"=")[1]): pid for word in environment if word.startswith(b"OMPI_COMM_WORLD_RANK=")})
    return found


def start_long(tmp_path, *options):
    """Three ranks in the middle of a computation of several seconds."""
    n, out = 40000, tmp_path / "out"
    out.mkdir()
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).standard_normal((n, 1, 16)).astype(np.float32))
    process = begin(*options, *launch(3, "--q", path, "--k", path, "--v", path, "--segments", n, "--rates", 1, "--impl", "ring",
                                      "--isa", "portable", "--threads", 1, "--comm-timeout", 2, "--out", out / "o.npy", "--lse",
                                      out / "l.npy"), **NO_LEAKS)
    limit = time.monotonic() + 60
    while len(os.listdir(out)) < 2:
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.01)
    time.sleep(0.5)
    assert process.poll() is None, "too short a computation for this test"
    return process, out


@needs_mpi
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_mpirun_leaves_no_file(tmp_path, number):
    process, out = start_long(tmp_path)
    with process:
        process.send_signal(number)
        end(process, 30)
    assert process.returncode != 0
    assert os.listdir(out) == []


@needs_mpi
@pytest.mark.parametrize("rank, number", [(0, signal.SIGKILL), (1, signal.SIGKILL), (2, signal.SIGTERM), (1, signal.SIGSTOP)])
def test_rank_that_goes_leaves_no_file(tmp_path, rank, number):
    process, out = start_long(tmp_path)
    with process:
        os.kill(children(process)[rank], number)
        _, stderr = end(process, 60)
    assert process.returncode != 0
    assert os.listdir(out) == []
    if number == signal.SIGSTOP:  # nobody but the ranks themselves noticed
        assert any("without an answer" in line or "has given up" in line for line in own_lines(stderr)), stderr


@needs_mpi
def test_ranks_notice_themselves_that_one_is_gone(tmp_path):
    """Where mpirun does not end the others."""
    process, out = start_long(tmp_path, *RECOVER)
    with process:
        os.kill(children(process)[2], signal.SIGKILL)
        _, stderr = end(process, 60)
    assert any("without an answer" in line or "has given up" in line for line in own_lines(stderr)), stderr
    assert os.listdir(out) == []


# ----------------------------------------------------------------------------------------------------------------------
# Without MPI

def test_one_process_needs_no_mpi():
    needed = subprocess.run(["readelf", "--dynamic", "--wide", CLI], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" in needed and "libmpi" not in needed


@needs_mpi
def test_launcher_of_another_mpi(inputs):
    words = [*inputs.save(), *PATTERN, "--out", inputs.out / "o.npy"]
    environment = {**os.environ, **NO_LEAKS, "PMI_SIZE": "2", "PMI_RANK": "0", "OMPI_MCA_plm": "isolated"}
    line = refuse(1, "run", *words, env=environment)
    assert "2 processes were launched, but MPI knows of 1" in line
    assert os.listdir(inputs.out) == []


def test_program_without_its_module(inputs, tmp_path):
    program = tmp_path / "bin" / "dilated-attention"
    program.parent.mkdir()
    shutil.copy(CLI, program)
    for rank, lines in ((0, 1), (1, 0)):
        environment = {**os.environ, "PMI_SIZE": "2", "PMI_RANK": str(rank)}
        environment.pop("LD_LIBRARY_PATH", None)
        done = subprocess.run([program, "run", *map(str, inputs.save()), *PATTERN, "--out", inputs.out / "o.npy"], check=False,
                              capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", lines)
        assert lines == 0 or "an MPI launcher started this, but ranks over MPI are not there" in done.stderr
    assert os.listdir(inputs.out) == []
