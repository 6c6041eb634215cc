"""examples/python/slide_encoder.py, small."""

from __future__ import annotations

import importlib.util
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torchscale_formulas import FormulaAttention

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "python" / "slide_encoder.py"


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("slide_encoder", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_png(data: bytes) -> torch.Tensor:
    """(height, width, 3) of a PNG with unfiltered lines; every checksum is looked at."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place, chunks = 8, {}
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        body = data[place + 8 : place + 8 + length]
        assert struct.unpack(">I", data[place + 8 + length : place + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        place += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 2, 0, 0, 0]
    lines = torch.frombuffer(bytearray(zlib.decompress(chunks[b"IDAT"])), dtype=torch.uint8).view(height, 1 + 3 * width)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, 3)


@pytest.mark.parametrize("kind", ["mass", "class"])
def test_the_program(example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    out = tmp_path / "slide.png"
    small = ["--tiles", "150", "--tile-width", "32", "--layers", "2", "--width", "48", "--heads", "4", "--pixels", "3"]
    example.main([*small, "--map", kind, "--out", str(out)])
    assert "150 tiles, 2 layers, 48 wide" in capsys.readouterr().out
    image = read_png(out.read_bytes())
    _, rows, columns = example.made_slide(150, 32, 0)
    assert image.shape == (3 * (int(rows.max()) + 1), 3 * (int(columns.max()) + 1), 3)
    tissue = (image != 255).any(2)
    assert int(tissue.sum()) == 150 * 9 and tissue[rows * 3 + 1, columns * 3 + 1].all()


def test_the_encoder_is_torchscales(example: Any) -> None:
    torch.manual_seed(0)
    tiles, rows, columns = example.made_slide(60, 32, 1)
    encoder = example.SlideEncoder([8, 24, 100], [1, 2, 4], 32, 48, 4, layers=2)
    with torch.no_grad():
        found = encoder(tiles, rows, columns)
        encoder.double()
        for layer in encoder.layers:
            layer.self_attn = FormulaAttention(layer.self_attn)
        torch.testing.assert_close(found.double(), encoder(tiles.double(), rows, columns), rtol=0, atol=1e-5)


def test_the_maps(example: Any) -> None:
    """Both are what the tiles get of weights that sum to 1, less the share of zero keys, over the queries."""
    torch.manual_seed(0)
    tiles, rows, columns = example.made_slide(60, 32, 1)
    encoder = example.SlideEncoder([8, 24, 100], [1, 2, 4], 32, 48, 4, layers=1)
    with torch.no_grad():
        seen = encoder.encode(tiles, rows, columns)[1]
        weights = encoder.layers[-1].self_attn.attention_weights(seen, range(61)).mean(1)
        torch.testing.assert_close(encoder.attention_map(seen, "mass"), weights.sum(1)[:, 1:])
        torch.testing.assert_close(encoder.attention_map(seen, "class"), weights[:, 0, 1:])


def test_positions(example: Any) -> None:
    rows, columns = torch.tensor([0, 3, 3]), torch.tensor([0, 5, 6])
    found = example.sine_cosine_positions(rows, columns, 8)
    for i in range(3):
        for half, place in ((0, int(columns[i])), (4, int(rows[i]))):
            for k, f in ((0, math.sin), (2, math.cos)):
                assert found[i, half + k] == pytest.approx(f(place), abs=1e-6)
                assert found[i, half + k + 1] == pytest.approx(f(place / 100), abs=1e-6)


def test_segment_lengths(example: Any) -> None:
    assert example.segment_lengths(2**20) == [1024, 5792, 32768, 185363, 1048576]
    with pytest.raises(ValueError, match="width is 30"):
        example.SlideEncoder([8], [1], width=30)
