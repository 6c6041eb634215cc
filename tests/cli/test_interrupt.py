"""run: signals leave no file; progress is drawn on a terminal only."""
import os
import pty
import signal
import subprocess
import time

import numpy as np
import pytest

from cli_support import succeed


def save_long(folder, n):
    """One sequence of n tokens and one head: n * n pairs with one segment."""
    path = folder / "x.npy"
    np.save(path, np.random.default_rng(0).standard_normal((n, 1, 16)).astype(np.float32))
    return path


def start(path, n, out, *words, **options):
    return subprocess.Popen([os.environ["DA_CLI"], "run", "--q", path, "--k", path, "--v", path, "--segments", str(n),
                             "--rates", "1", "--impl", "standard", "--threads", "1", "--out", out / "o.npy",
                             "--lse", out / "l.safetensors", *words], stdout=subprocess.PIPE, **options)


def wait_for_files(process, folder, count):
    """Until both temporary files are there, and a moment more: the computation has begun."""
    end = time.monotonic() + 60
    while len(os.listdir(folder)) < count:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    time.sleep(0.3)
    assert process.poll() is None, "too short a computation for this test"


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_leaves_no_file(tmp_path, number, times):
    n, out = 50000, tmp_path / "out"
    out.mkdir()
    path = save_long(tmp_path, n)
    with start(path, n, out, stderr=subprocess.PIPE, text=True) as process:
        wait_for_files(process, out, 2)
        assert not {"o.npy", "l.safetensors"} & set(os.listdir(out))
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.05)
        _, message = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert os.listdir(out) == []
    if times == 1:
        assert message == "dilated-attention run: interrupted; nothing was written\n"


def read_terminal(descriptor):
    text = b""
    while True:
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # the other side is closed
            return text.decode()
        if not piece:
            return text.decode()
        text += piece


def run_on_terminal(tmp_path, *words):
    n = 8000
    path = save_long(tmp_path, n)
    outer, inner = pty.openpty()
    with start(path, n, tmp_path, *words, stderr=inner) as process:
        os.close(inner)
        text = read_terminal(outer)
        process.communicate()
    os.close(outer)
    assert process.returncode == 0
    return text


def test_progress_on_a_terminal(tmp_path):
    text = run_on_terminal(tmp_path)
    assert "attention [" in text and "%" in text and "elapsed" in text and "left" in text
    assert text.endswith("\r\x1b[K"), "the bar is erased at the end"
    assert text.count("\r") < 1000


def test_no_progress_when_quiet(tmp_path):
    assert run_on_terminal(tmp_path, "--quiet") == ""


def test_no_progress_without_a_terminal(tmp_path):
    n = 8000
    path = save_long(tmp_path, n)
    succeed("run", "--q", path, "--k", path, "--v", path, "--segments", n, "--rates", 1, "--impl", "standard", "--out",
            tmp_path / "o.npy")
