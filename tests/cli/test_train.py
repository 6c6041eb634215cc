"""train and generate: a loss that falls, a killed run that goes on to the same bytes, what is refused."""
import json
import os
import signal
import subprocess
import time

import pytest

from cli_support import refuse, run, succeed

SMALL = ["--segments", "32,64", "--rates", "1,2", "--sequence", 96, "--embed-dim", 16, "--layers", 2, "--heads", 2,
         "--steps", 30, "--warmup", 3, "--lr", 0.01, "--checkpoint-every", 5, "--validate-every", 10]

pytestmark = pytest.mark.skipif("train" not in run("--help").stdout, reason="built without the library of modules")


@pytest.fixture(name="text")
def make_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog, and so on.\n" * 100)
    return path


def test_loss_falls_and_text_is_made(tmp_path, text):
    model, log = tmp_path / "m.safetensors", tmp_path / "log.jsonl"
    succeed("train", "--text", text, "--out", model, "--log", log, *SMALL)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 31))
    assert lines[0]["loss"] > 5 and lines[-1]["loss"] < 3.5
    assert [line["step"] for line in lines if "validation_bits_per_byte" in line] == [10, 20, 30]
    out = succeed("generate", "--model", model, "--length", 20, "--temperature", 0)
    assert len(out) == 21


def test_killed_run_goes_on_to_the_same_bytes(tmp_path, text):
    whole, part = tmp_path / "whole.safetensors", tmp_path / "part.safetensors"
    succeed("train", "--text", text, "--out", whole, "--threads", 2, "--quiet", *SMALL)
    command = [os.environ["DA_CLI"], "train", "--text", text, "--out", part, "--threads", "1", "--quiet", *SMALL]
    with subprocess.Popen([*map(str, command)]) as process:
        while not part.exists() and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    succeed("train", "--text", text, "--out", part, "--resume", "--threads", 1, "--quiet", *SMALL)
    assert whole.read_bytes() == part.read_bytes()


def test_refusals(tmp_path, text):
    model = tmp_path / "m.safetensors"
    assert "--out: missing" in refuse(2, "train", "--text", text, *SMALL)
    assert "--text: missing" in refuse(2, "train", "--out", model, *SMALL)
    (tmp_path / "short.txt").write_text("short")
    assert "5 bytes" in refuse(1, "train", "--text", tmp_path / "short.txt", "--out", model, *SMALL)
    assert "--resume" in refuse(1, "train", "--text", text, "--out", model, "--resume", *SMALL)
    succeed("train", "--text", text, "--out", model, "--quiet", *SMALL)
    assert "lr 0.5" in refuse(2, "train", "--text", text, "--out", model, "--resume", *SMALL, "--lr", 0.5)
    model.write_bytes(model.read_bytes()[:-100])
    assert "truncated" in refuse(1, "generate", "--model", model)
    assert "--model: missing" in refuse(2, "generate")
