"""Real attention: models with real text, the queries, keys and values of their layers, and what the models achieve with a given
attention in all of their layers."""
from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import torch_longnet
from longnet import Shape
from machine import ROOT
from minilm import MiniLM, embedding, model_folder

sys.path.append(str(ROOT / "examples" / "book"))
from book import read_verses, tokenise  # noqa: E402

# Number of a layer, and its query, key and value, each (1, heads, n, head_dim), to the output.
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

# The training of docs/training.md, shorter. The last twentieth of the text is not trained on.
TRAINING = {"sequence": 16384, "embed-dim": 192, "layers": 4, "heads": 6, "steps": 200, "warmup": 20, "lr": 0.002, "seed": 1,
            "segments": "512,2048,8192,16384", "rates": "1,4,8,16"}
QUICK_TRAINING = {"sequence": 1024, "embed-dim": 64, "layers": 2, "heads": 4, "steps": 10, "warmup": 2, "lr": 0.002, "seed": 1,
                  "segments": "256,1024", "rates": "1,4"}
VALIDATION = 0.05


@dataclass(frozen=True)
class Model:
    name: str
    title: str
    n: int
    segments: tuple[int, ...]
    rates: tuple[int, ...]
    causal: bool
    measure: str                      # what `run` returns: "cosine" (with what attention without tiles gives) or "bits per byte"
    run: Callable[[Attend], object]
    run_other: Callable[[Attend], object]  # on another text, for profiles

    def offset(self, head: int, rate: int) -> int:
        return head % rate


def book() -> str:
    return "\n".join(read_verses()[1]) + "\n"


def minilm(n: int, interpolated: bool) -> Model:
    folder = model_folder()
    model = MiniLM(folder, interpolated)
    ids, _ = tokenise(read_verses()[1][:max(64, n // 8)], folder / "tokenizer.json")
    if len(ids) < 2 * n:
        raise ValueError(f"the text has {len(ids)} tokens, {2 * n} are asked for")
    text, other = (model.text(torch.from_numpy(ids[first:first + n - 2].astype(np.int64))) for first in (0, n))
    way = "interpolated" if interpolated else "repeated"
    return Model(f"minilm-{way}-{n}", f"MiniLM, positions {way}, n = {n:,}, dense", n, (n,), (1,), False, "cosine",
                 lambda attend: embedding(model.hidden(text, attend)), lambda attend: model.hidden(other, attend))


def train(build: Path, out: Path, options: dict) -> Path:
    """The language model's checkpoint in the folder `out`; trained now, or further, if it is not complete."""
    out.mkdir(parents=True, exist_ok=True)
    text, checkpoint = out / "book.txt", out / "longnet.safetensors"
    text.write_text(book())
    command = [str(build / "bin" / "dilated-attention"), "train", "--text", str(text), "--out", str(checkpoint),
               *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
    subprocess.run([*command, *(["--resume"] if checkpoint.exists() else [])], check=True)
    return checkpoint


def longnet(checkpoint: Path, options: dict, n: int) -> Model:
    """On n bytes of the validation part. The pattern is the one trained with."""
    parameters = {name: x for name, x in load_file(checkpoint).items() if not name.startswith("adamw.")}
    segments, rates = (tuple(map(int, options[name].split(","))) for name in ("segments", "rates"))
    shape = Shape(n, options["embed-dim"], options["layers"], options["heads"], segments, rates)
    text = np.frombuffer(book().encode(), np.uint8).astype(np.int32)
    validation = torch.from_numpy(text[len(text) - int(len(text) * VALIDATION):])

    @torch.inference_mode()
    def bits(attend: Attend, first: int = 0) -> float:
        part = validation[None, first:first + n + 1]
        return float(torch_longnet.loss(shape, parameters, part[:, :-1], part[:, 1:], attend)) / math.log(2)

    pattern = f"segments {','.join(map(str, segments))}, rates {','.join(map(str, rates))}, causal"
    return Model(f"longnet-{n}", f"LongNet of {options['steps']} steps, n = {n:,}, {pattern}", n, segments, rates, True,
                 "bits per byte", bits, lambda attend: bits(attend, n))
