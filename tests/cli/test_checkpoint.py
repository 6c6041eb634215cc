"""Checkpoints that are none, or not quite: what generate and train --resume say of them."""
import json
import struct

import pytest

from cli_support import refuse, run, succeed

OPTIONS = ["--segments", "8,16", "--rates", "1,2", "--sequence", 24, "--embed-dim", 4, "--layers", 1, "--heads", 1,
           "--steps", 2, "--quiet"]

pytestmark = pytest.mark.skipif("train" not in run("--help").stdout, reason="built without the library of modules")


@pytest.fixture(name="text", scope="module")
def make_text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("all work and no play makes a dull boy. " * 30)
    return path


@pytest.fixture(name="checkpoint", scope="module")
def make_checkpoint(text):
    """Header, as JSON, and data."""
    path = text.parent / "m.safetensors"
    succeed("train", "--text", text, "--out", path, *OPTIONS)
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8:8 + size]), raw[8 + size:]


def write(path, header, data):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def rename(header, old, new):
    header[new] = header.pop(old)


def swap_shape(header, name):
    header[name]["shape"].reverse()


def set_metadata(**values):
    def change(header):
        header["__metadata__"].update({"da." + key: value for key, value in values.items()})
    return change


UP = "layers.0.ffn.up.weight"
BAD_MODELS = {
    "no metadata": (lambda h: h.pop("__metadata__"), "da.format"),
    "no format": (lambda h: h["__metadata__"].pop("da.format"), "da.format"),
    "another format": (set_metadata(format="longnet-2"), "longnet-2"),
    "a missing option": (lambda h: h["__metadata__"].pop("da.layers"), "da.layers is missing"),
    "an unknown option": (set_metadata(colour="blue"), "da.colour"),
    "no number": (set_metadata(layers="two"), 'da.layers is "two"'),
    "no flag": (set_metadata(bias="maybe"), 'da.bias is "maybe"'),
    "no name": (set_metadata(position="learned"), 'da.position is "learned"'),
    "no list": (set_metadata(segment_lengths="8,"), 'da.segment_lengths is "8,"'),
    "more layers": (set_metadata(layers="2"), "layers.1"),
    "fewer words": (set_metadata(vocab_size="255"), "embed.weight"),
    "no layers": (set_metadata(layers="0"), "layers is 0"),
    "not causal": (set_metadata(causal="false"), "causal is false"),
    "lists of two lengths": (set_metadata(dilation_rates="1"), "dilation_rates"),
    "a missing name": (lambda h: rename(h, UP, "adamw.first.again"), "adamw.first.again"),
    "another name": (lambda h: rename(h, UP, "layers.0.ffn.upp.weight"), "layers.0.ffn.upp.weight"),
    "another shape": (lambda h: swap_shape(h, UP), "shape of " + UP),
    "another rank": (lambda h: h[UP].update(shape=[64]), "shape of " + UP),
    "another type": (lambda h: h[UP].update(dtype="I32"), UP + " is i32"),
}


@pytest.mark.parametrize("change, part", BAD_MODELS.values(), ids=BAD_MODELS.keys())
def test_bad_models(tmp_path, text, checkpoint, change, part):
    header, data = json.loads(json.dumps(checkpoint[0])), checkpoint[1]
    change(header)
    path = write(tmp_path / "bad.safetensors", header, data)
    before = path.read_bytes()
    message = refuse(1, "generate", "--model", path)
    assert str(path) in message or part in message
    assert part in message, message
    done = run("train", "--text", text, "--out", path, "--resume", *OPTIONS)
    assert done.returncode in (1, 2) and "--resume" in done.stderr and done.stderr.count("\n") == 1
    assert path.read_bytes() == before


BAD_OPTIMISERS = {
    "no steps": (lambda h: h["__metadata__"].pop("da.adamw.steps"), "da.adamw.steps is missing"),
    "steps below 0": (set_metadata(**{"adamw.steps": "-1"}), "da.adamw.steps is -1"),
    "another beta": (set_metadata(**{"adamw.beta1": "0.5"}), "adamw.beta1"),
    "a missing moment": (lambda h: rename(h, "adamw.first." + UP, "adamw.first.x"), "adamw.first.x"),
    "a moment's shape": (lambda h: swap_shape(h, "adamw.second." + UP), "shape of adamw.second." + UP),
    "no note": (lambda h: h["__metadata__"].pop("training"), '"training"'),
}


@pytest.mark.parametrize("change, part", BAD_OPTIMISERS.values(), ids=BAD_OPTIMISERS.keys())
def test_bad_optimisers(tmp_path, text, checkpoint, change, part):
    header, data = json.loads(json.dumps(checkpoint[0])), checkpoint[1]
    change(header)
    path = write(tmp_path / "bad.safetensors", header, data)
    done = run("train", "--text", text, "--out", path, "--resume", *OPTIONS)
    assert done.returncode in (1, 2) and part in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_not_a_number_among_the_parameters(tmp_path, text, checkpoint):
    """The first step after it is refused, and the file stays as it was."""
    header, data = json.loads(json.dumps(checkpoint[0])), bytearray(checkpoint[1])
    at = header[UP]["data_offsets"][0]
    data[at:at + 4] = struct.pack("<f", float("nan"))
    header["__metadata__"]["da.adamw.steps"] = "1"
    path = write(tmp_path / "nan.safetensors", header, bytes(data))
    before = path.read_bytes()
    assert "finite" in refuse(1, "train", "--text", text, "--out", path, "--resume", *OPTIONS)
    assert path.read_bytes() == before


def test_file_too_short(tmp_path, checkpoint):
    header, data = checkpoint
    path = write(tmp_path / "short.safetensors", header, data[:-1])
    assert "short.safetensors" in refuse(1, "generate", "--model", path)
    for content in (b"", b"\0" * 8, b"{}", struct.pack("<Q", 2**63) + b"{}"):
        path.write_bytes(content)
        assert "short.safetensors" in refuse(1, "generate", "--model", path)
