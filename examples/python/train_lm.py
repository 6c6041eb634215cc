"""Trains a small LongNet language model on a whole book, byte by byte, and lets it write.

    python examples/python/train_lm.py                  # the book of the demo: Debian's bible-kjv
    python examples/python/train_lm.py --text FILE      # any other text

What is PyTorch's is used as it is: the optimiser, its schedule, the loss. Only the model's attention is ours; it is
dilated, so a step's cost grows with the length of the text seen at once, and not with its square: try --length 16384.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from dilated_attention_pytorch.checkpoints import save_checkpoint
from dilated_attention_pytorch.long_net import LongNetLM

BYTES = 256


def read_text(file: Path | None) -> torch.Tensor:
    """The text as a tensor of bytes."""
    if file is not None:
        text = file.read_bytes()
    else:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book"))
        from book import DemoError, read_verses

        try:
            text = "\n".join(read_verses()[1]).encode()
        except DemoError as error:
            sys.exit(f"{error}. Or give a text of your own: --text FILE")
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def make_model(width: int, layers: int, length: int) -> LongNetLM:
    """Three patterns: a dense neighbourhood, and two that reach as far as the model sees. All layers are causal, and
    there is
    no decoder beside them: what is called a decoder-only model."""
    return LongNetLM(
        BYTES,
        d_model=width,
        nhead=width // 32,
        num_encoder_layers=layers,
        num_decoder_layers=0,
        dim_feedforward=4 * width,
        segment_lengths=[min(length, 128), min(length, 512), length],
        dilation_rates=[1, 2, 8],
        activation="gelu",
    )


def loss_of(model: LongNetLM, chunk: torch.Tensor) -> torch.Tensor:
    """Mean nats per byte of predicting each byte of (batch, length + 1) from those before it."""
    return F.cross_entropy(model(chunk[:, :-1]).flatten(0, 1), chunk[:, 1:].flatten())


def draw(text: torch.Tensor, batch: int, length: int) -> torch.Tensor:
    starts = torch.randint(0, len(text) - length, (batch,))
    return torch.stack([text[s : s + length + 1] for s in starts.tolist()]).long()


def train(model: LongNetLM, text: torch.Tensor, steps: int, batch: int, length: int, rate: float) -> list[float]:
    """The losses of the steps, in nats per byte."""
    optimizer = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    losses = []
    start = time.perf_counter()
    for step in range(1, steps + 1):
        loss = loss_of(model, draw(text, batch, length))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % max(1, steps // 10) == 0:
            speed = step * batch * length / (time.perf_counter() - start)
            print(f"step {step:5}   {losses[-1] / math.log(2):.3f} bits a byte   {speed:,.0f} bytes/s", flush=True)
    return losses


@torch.no_grad()
def evaluate(model: LongNetLM, text: torch.Tensor, batch: int, length: int) -> float:
    """Bits per byte of a text that training did not see."""
    count = max(1, min(32, (len(text) - 1) // length))
    chunks = torch.stack([text[i * length : (i + 1) * length + 1] for i in range(count)]).long()
    losses = [loss_of(model, part) * len(part) for part in chunks.split(batch)]
    return float(sum(losses)) / count / math.log(2)


@torch.no_grad()
def write(model: LongNetLM, beginning: bytes, count: int, length: int, temperature: float = 0.7) -> str:
    """`count` more bytes after a beginning, drawn one by one."""
    seen = list(beginning)
    for _ in range(count):
        logits = model(torch.tensor([seen[-length:]]))[0, -1]
        seen.append(int(torch.multinomial(F.softmax(logits / temperature, -1), 1)))
    return bytes(seen).decode(errors="replace")


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", type=Path, help="a text file (default: Debian's bible-kjv)")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=2048, help="bytes that the model sees at once")
    parser.add_argument("--width", type=int, default=128, help="a multiple of 32")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=3e-3, help="the largest learning rate")
    parser.add_argument("--write", type=int, default=300, help="bytes to write at the end")
    parser.add_argument("--save", type=Path, help="where to keep the model, .safetensors or .pt")
    chosen = parser.parse_args(arguments)

    torch.manual_seed(1)
    text = read_text(chosen.text)
    held_out = max(len(text) // 20, chosen.length + 1)
    if len(text) < 3 * held_out:
        sys.exit(f"the text has {len(text)} bytes; needed: three times the length, {chosen.length}, and more")
    training, rest = text[:-held_out], text[-held_out:]
    model = make_model(chosen.width, chosen.layers, chosen.length)
    print(f"{len(text):,} bytes of text, {sum(p.numel() for p in model.parameters()):,} parameters")
    train(model.train(), training, chosen.steps, chosen.batch, chosen.length, chosen.rate)
    bits = evaluate(model.eval(), rest, chosen.batch, chosen.length)
    print(f"on the last {len(rest):,} bytes, which it was not trained on: {bits:.3f} bits a byte")
    if chosen.save:
        save_checkpoint(model, chosen.save)
    if chosen.write:
        print(write(model, b"And the LORD said unto ", chosen.write, chosen.length))
    return bits


if __name__ == "__main__":
    main()
