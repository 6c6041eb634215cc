"""examples/python/train_lm.py: it learns, keeps what it learned, and says what is wrong with a text."""

import importlib.util
from pathlib import Path

import pytest
import torch
from dilated_attention_pytorch.checkpoints import load_checkpoint

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "python" / "train_lm.py"
SMALL = ["--length", "64", "--width", "32", "--layers", "1", "--batch", "4"]


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("train_lm", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("the quick brown fox jumps over the lazy dog. " * 200)
    return file


def test_it_learns_and_keeps_the_model(example, text, tmp_path, capsys):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bits = example.main(
        ["--text", str(text), "--steps", "60", *SMALL, "--write", "20", "--save", str(tmp_path / "m.pt")]
    )
    said = capsys.readouterr().out
    assert bits < 3.5, "far below the 8 bits of a guess"
    assert "9,000 bytes of text" in said and "And the LORD said unto " in said
    model = example.make_model(32, 1, 64)
    load_checkpoint(model, tmp_path / "m.pt")
    data = example.read_text(text)
    assert example.evaluate(model.eval(), data[-450:], 4, 64) == pytest.approx(bits, abs=1e-4)
    torch.set_num_threads(threads)


def test_a_text_that_is_too_short(example, text):
    text.write_text("short")
    with pytest.raises(SystemExit, match="the text has 5 bytes; needed: three times the length, 64"):
        example.main(["--text", str(text), *SMALL])
