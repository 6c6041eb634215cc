"""train and generate: a loss that falls, a run that goes on to the same bytes after a signal, every option of the model,
what is refused."""
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


def start(text, out, *words):
    command = ["train", "--text", text, "--out", out, "--threads", 1, "--quiet", *SMALL, *words]
    return subprocess.Popen([os.environ["DA_CLI"], *map(str, command)], stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_run_goes_on_to_the_same_bytes(tmp_path, text, number):
    whole, part, log = tmp_path / "whole.safetensors", tmp_path / "part.safetensors", tmp_path / "log.jsonl"
    more = ["--steps", 60, "--log", log]
    with start(text, part, *more) as process:
        end = time.monotonic() + 60
        while not part.exists():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.001)
        process.send_signal(number)
        message = process.communicate(timeout=60)[1]
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        step = len(log.read_text().splitlines())
        assert message == (f"dilated-attention train: interrupted after step {step}, which {part} holds; --resume goes on\n")
        assert sorted(os.listdir(tmp_path)) == ["log.jsonl", "part.safetensors", "text.txt"]
    succeed("train", "--text", text, "--out", part, "--resume", "--threads", 1, "--quiet", *SMALL, *more)
    succeed("train", "--text", text, "--out", whole, "--threads", 2, "--quiet", *SMALL, "--steps", 60)
    assert whole.read_bytes() == part.read_bytes()


def metadata(path):
    raw = path.read_bytes()
    return json.loads(raw[8:8 + int.from_bytes(raw[:8], "little")])["__metadata__"]


def test_options_of_the_model(tmp_path, text):
    out = tmp_path / "m.safetensors"
    succeed("train", "--text", text, "--out", out, "--quiet", *SMALL, "--steps", 2, "--position", "xpos", "--activation",
            "relu", "--ffn-dim", 24, "--untied", "--dropout", 0.25, "--weight-decay", 0.5, "--clip", 0)
    found = metadata(out)
    assert {key: found[f"da.{key}"] for key in ("position", "activation", "ffn_dim", "tied_output", "dropout")} == {
        "position": "xpos", "activation": "relu", "ffn_dim": "24", "tied_output": "false", "dropout": "0.25"}
    assert (found["da.adamw.weight_decay"], found["da.adamw.clip"]) == ("0.5", "0")
    assert len(succeed("generate", "--model", out, "--length", 5, "--temperature", 0)) == 6


@pytest.mark.parametrize("words, code, part", [
    (["--position", "learned"], 2, "allowed: none, rope, xpos"), (["--activation", "swish"], 2, "allowed: gelu, relu"),
    (["--dropout", 1], 2, "dropout is 1; allowed"), (["--ffn-dim", 0], 2, "--ffn-dim"),
    (["--weight-decay", -1], 2, "weight_decay is -1; allowed"), (["--clip", -1], 2, "clip is -1; allowed"),
    (["--lr", 0], 2, "--lr: 0; allowed: above 0"), (["--dtype", "bf16"], 2, "dtype is bf16; allowed: f32, f64"),
    (["--heads", 3], 2, "num_heads"), (["--plot", "p.png"], 2, "--log"),
    (["--log", "{folder}/l", "--plot", "p.jpg"], 2, "--plot \"p.jpg\""), (["--log", "/nowhere/l"], 1, "--log"),
    (["--out", "/nowhere/m.safetensors", "--steps", 1], 1, "/nowhere"),
    (["--out", "/dev/full", "--steps", 1], 1, "/dev/full"),
    (["--lr", 1e30, "--clip", 0, "--validate-every", 0], 1, "finite")])
def test_bad_options(tmp_path, text, words, code, part):
    words = [str(word).format(folder=tmp_path) for word in words]
    assert part in refuse(code, "train", "--text", text, "--out", tmp_path / "m.safetensors", "--quiet", *SMALL, *words)


def test_resume_takes_the_same_options_only(tmp_path, text):
    model = tmp_path / "m.safetensors"
    again = ["train", "--text", text, "--out", model, "--resume", *SMALL]
    assert "--resume" in refuse(1, *again)
    succeed("train", "--text", text, "--out", model, "--quiet", *SMALL, "--steps", 5)
    for option, value, part in [("--lr", 0.5, "lr 0.5"), ("--steps", 6, "steps 5"), ("--layers", 1, "layers is 1"),
                                ("--rates", "1,4", "dilation_rates is 1,4; allowed: 1,2"), ("--clip", 2, "clip is 2")]:
        assert part in refuse(2, *again, "--steps", 5, option, value), option
    text.write_text(text.read_text().replace("fox", "cat"))
    assert "hash" in refuse(2, *again, "--steps", 5)


def test_refusals(tmp_path, text):
    model = tmp_path / "m.safetensors"
    assert "--out: missing" in refuse(2, "train", "--text", text, *SMALL)
    assert "--text: missing" in refuse(2, "train", "--out", model, *SMALL)
    (tmp_path / "short.txt").write_text("short")
    assert "5 bytes" in refuse(1, "train", "--text", tmp_path / "short.txt", "--out", model, *SMALL)
    succeed("train", "--text", text, "--out", model, "--quiet", *SMALL, "--steps", 1)
    model.write_bytes(model.read_bytes()[:-100])
    assert "truncated" in refuse(1, "generate", "--model", model)
    assert "--model: missing" in refuse(2, "generate")
