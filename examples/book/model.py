"""Query, key and value of MiniLM's first layer (a BERT) for any stretch of a long text, by the model's weights."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np

EMBEDDINGS = "embeddings"
ATTENTION = "encoder.layer.0.attention.self"


class FirstLayer:
    """Embeddings and first-layer projections, all of a few megabytes beside the word embeddings."""

    def __init__(self, folder: Path):
        from safetensors.numpy import load_file

        config = json.loads((folder / "config.json").read_text())
        self.heads = config["num_attention_heads"]
        self.head_dim = config["hidden_size"] // self.heads
        self.epsilon = np.float32(config["layer_norm_eps"])
        weights = load_file(folder / "model.safetensors")
        self.words = weights[f"{EMBEDDINGS}.word_embeddings.weight"]
        # The text is one sequence of one type, so the type's embedding is the same for all tokens.
        self.positions = (weights[f"{EMBEDDINGS}.position_embeddings.weight"]
                          + weights[f"{EMBEDDINGS}.token_type_embeddings.weight"][0])
        self.norm_weight = weights[f"{EMBEDDINGS}.LayerNorm.weight"]
        self.norm_bias = weights[f"{EMBEDDINGS}.LayerNorm.bias"]
        self.projections = {name: (weights[f"{ATTENTION}.{long}.weight"].T, weights[f"{ATTENTION}.{long}.bias"])
                            for name, long in (("q", "query"), ("k", "key"), ("v", "value"))}

    def hidden(self, ids: np.ndarray, first: int) -> np.ndarray:
        """LayerNorm(word + position + type) of tokens that stand at first, first + 1, ...

        The model knows 512 positions; beyond them they begin again, so a token's place within its 512 is what it knows.
        """
        x = self.words[ids] + self.positions[(first + np.arange(len(ids))) % len(self.positions)]
        x -= x.mean(axis=1, keepdims=True)
        x /= np.sqrt(np.square(x).mean(axis=1, keepdims=True) + self.epsilon)
        x *= self.norm_weight
        x += self.norm_bias
        return x

    def project(self, ids: np.ndarray, first: int) -> dict[str, np.ndarray]:
        """{"q", "k", "v"}: (tokens, heads, head_dim) in float32."""
        x = self.hidden(ids, first)
        return {name: (x @ weight + bias).reshape(len(ids), self.heads, self.head_dim)
                for name, (weight, bias) in self.projections.items()}
