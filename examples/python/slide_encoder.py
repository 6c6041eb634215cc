"""A slide encoder as pathology uses them, on a CPU: tile vectors in, one vector for the slide out, and a map of
attention.

    python slide_encoder.py                    # 10,000 tiles, 12 layers, 768 wide: a minute on two cores
    python slide_encoder.py --tiles 500 --layers 2 --width 96 --heads 4 --tile-width 64

A whole-slide image is cut into tiles, a tile encoder makes a vector of 1536 numbers of each, and LongNet layers with
torchscale's dilated attention look at all of them at once. The slide here is made up: two pieces of tissue whose tiles
carry noise, and a lesion whose tiles share one direction. With random weights the map shows where attention goes before
training; load a checkpoint's state_dict to see a trained one.

The map is a PNG with one pixel square for each tile: the mass that the tile receives from all tokens in the last layer,
or with --map class the weight that the class token gives it.
"""

from __future__ import annotations

import argparse
import math
import struct
import time
import types
import zlib
from pathlib import Path

import torch
from dilated_attention_pytorch.torchscale import DilatedAttention
from torch import Tensor, nn
from torch.nn import functional as F


def sine_cosine_positions(rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """2-D positions (n, width): half of the channels for the row, half for the column, each half sines and cosines of
    frequencies 1 to 1 / 10000, as in masked autoencoders (arXiv:2111.06377)."""
    quarter = width // 4
    frequency = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = [place.double()[:, None] * frequency for place in (columns, rows)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1).float()


class Layer(nn.Module):
    """A LongNet encoder layer with torchscale's names: norms before attention and feed-forward, and inside both."""

    def __init__(self, args: types.SimpleNamespace, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = DilatedAttention(args, width, heads, self_attention=True, subln=True)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.ffn = nn.ModuleDict(
            {
                "fc1": nn.Linear(width, 4 * width),
                "ffn_layernorm": nn.LayerNorm(4 * width),
                "fc2": nn.Linear(4 * width, width),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.self_attn_layer_norm(x)
        x = x + self.self_attn(y, y, y)[0]
        y = F.gelu(self.ffn["fc1"](self.final_layer_norm(x)))
        y = self.ffn["fc2"](self.ffn["ffn_layernorm"](y))
        return x + y


class SlideEncoder(nn.Module):
    """Tile vectors (batch, tiles, tile_width) and their places on the slide to one vector (batch, width)."""

    def __init__(
        self,
        segment_length: list[int],
        dilated_ratio: list[int],
        tile_width: int = 1536,
        width: int = 768,
        heads: int = 16,
        layers: int = 12,
    ) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"width is {width}; allowed: a multiple of 4, for 2-D sine-cosine positions")
        self.width = width
        self.patch_embed = nn.Linear(tile_width, width)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        args = types.SimpleNamespace(segment_length=segment_length, dilated_ratio=dilated_ratio)
        self.layers = nn.ModuleList(Layer(args, width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def tokens(self, tiles: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """The class token, then the tiles."""
        x = self.patch_embed(tiles) + sine_cosine_positions(rows, columns, self.width).to(tiles)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)

    def forward(self, tiles: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return self.encode(tiles, rows, columns)[0]

    def encode(self, tiles: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """The slide's vector, and what the last layer's attention saw: its normed input (batch, 1 + tiles, width)."""
        x = self.tokens(tiles, rows, columns)
        for layer in self.layers[:-1]:
            x = layer(x)
        seen = self.layers[-1].self_attn_layer_norm(x)
        return self.norm(self.layers[-1](x))[:, 0], seen

    def attention_map(self, seen: Tensor, kind: str = "mass") -> Tensor:
        """For each tile (batch, tiles), a mean over the heads of the last layer: the mass that it receives from all
        tokens, or the weight that the class token gives it ("class")."""
        attention = self.layers[-1].self_attn
        if kind == "mass":
            return attention.key_mass(seen).mean(2)[:, 1:]
        return attention.attention_weights(seen, [0], average_heads=True)[:, 0, 1:]


def segment_lengths(largest: int, count: int = 5, smallest: int = 1024) -> list[int]:
    """`count` lengths from `smallest` to `largest`, in equal ratios: how slide encoders choose them."""
    return [
        int(2 ** (math.log2(smallest) + k * (math.log2(largest) - math.log2(smallest)) / (count - 1)))
        for k in range(count)
    ]


def made_slide(count: int, tile_width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tiles (1, count, tile_width) of two pieces of tissue, one with a lesion; and their rows and columns."""
    side = math.ceil(math.sqrt(2.2 * count))
    row, column = (
        x.flatten().double() / side for x in torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    )
    wave = 0.03 * torch.sin(23 * column) * torch.sin(17 * row)
    depth = torch.minimum(
        ((row - 0.36) / 0.30) ** 2 + ((column - 0.40) / 0.36) ** 2,
        ((row - 0.76) / 0.20) ** 2 + ((column - 0.66) / 0.28) ** 2,
    )
    inside = (depth + wave).argsort()[:count].sort().values  # as tissue detection gives them: row by row, with gaps
    generator = torch.Generator().manual_seed(seed)
    tiles = torch.randn(count, tile_width, generator=generator)
    lesion = (row[inside] - 0.30) ** 2 + (column[inside] - 0.50) ** 2 < 0.011
    tiles[lesion] = 0.5 * tiles[lesion] + 2 * torch.randn(tile_width, generator=generator)
    return tiles[None], inside // side, inside % side


def write_png(path: Path, rows: Tensor, columns: Tensor, values: Tensor, pixels: int) -> None:
    """A PNG with squares of `pixels` pixels: dark blue for the lowest tenth of the values, through red, to yellow for
    the highest; white where there is no tile."""
    rank = values.argsort().argsort().double() / max(1, len(values) - 1)
    stops = torch.tensor(
        [[20, 20, 70], [120, 30, 110], [220, 60, 60], [250, 150, 40], [250, 240, 120]], dtype=torch.float64
    )
    place = rank * (len(stops) - 1)
    low = place.long().clamp(max=len(stops) - 2)
    colours = stops[low] + (place - low)[:, None] * (stops[low + 1] - stops[low])
    image = torch.full((int(rows.max()) + 1, int(columns.max()) + 1, 3), 255, dtype=torch.uint8)
    image[rows, columns] = colours.round().to(torch.uint8)
    image = image.repeat_interleave(pixels, 0).repeat_interleave(pixels, 1)
    height, width = image.shape[:2]
    lines = b"".join(b"\0" + bytes(line.flatten().tolist()) for line in image)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="A slide encoder on made tiles, and the attention over them as an image."
    )
    parser.add_argument("--tiles", type=int, default=10_000)
    parser.add_argument("--tile-width", type=int, default=1536)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--map", choices=["mass", "class"], default="mass")
    parser.add_argument("--out", type=Path, default=Path("slide.png"))
    parser.add_argument("--pixels", type=int, default=4, help="of a tile's side in the image")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)

    torch.manual_seed(given.seed)
    tiles, rows, columns = made_slide(given.tiles, given.tile_width, given.seed)
    # A slide of 262,144 x 262,144 pixels has 1024 x 1024 tiles of 256: the longest sequence there can be.
    encoder = SlideEncoder(
        segment_lengths(1024 * 1024), [1, 2, 4, 8, 16], given.tile_width, given.width, given.heads, given.layers
    ).eval()
    with torch.no_grad():
        start = time.perf_counter()
        slide, seen = encoder.encode(tiles, rows, columns)
        encoded = time.perf_counter()
        values = encoder.attention_map(seen, given.map)[0]
        mapped = time.perf_counter()
    write_png(given.out, rows, columns, values, given.pixels)
    print(
        f"{given.tiles:,} tiles, {given.layers} layers, {given.width} wide: encoded in {encoded - start:.2f} s, map in "
        f"{mapped - encoded:.2f} s; slide vector {tuple(slide.shape)}, map in {given.out}"
    )


if __name__ == "__main__":
    main()
