"""A step of training the language model, beside the same model in PyTorch: the same parameters, the same batch."""
from __future__ import annotations

from dataclasses import replace

import torch

from bench import Bench
from competitors import TITLES
from longnet import Longnet, Shape
from problems import Problem, counted_flops
from timing import interleaved, ratios, spread
from torch_longnet import Trainer

WORK = Shape(8192, 192, 4, 6, segments=(512, 2048, 8192), rates=(1, 4, 16))
SMALL = Shape(512, 48, 2, 3, segments=(64, 256, 512), rates=(1, 2, 4))
RATE = 1e-3
MOST_ROUNDS = 3
STEPS = 4  # whose losses are compared
# Of a gradient's largest element, and of the loss.
ALLOWED = {"float32": 1e-4, "float64": 1e-10}


def _batch(shape: Shape):
    generator = torch.Generator().manual_seed(5)
    text = torch.randint(0, shape.words, (shape.n + 1,), generator=generator, dtype=torch.int32)
    return text[None, :-1].contiguous(), text[None, 1:].contiguous()


def _check(bench: Bench, shape: Shape) -> None:
    """Loss and every gradient against PyTorch's in f64, and the losses of some steps."""
    ours = Longnet(bench.context, bench.build / "lib", shape, seed=1)
    theirs = Trainer(shape, {name: x.double() for name, x in ours.parameter_copies().items()})
    batch = _batch(shape)
    losses = [(ours.backward(*batch), theirs.backward(*batch))]
    worst = {name: float((x.double() - theirs.w[name].grad).abs().max() / theirs.w[name].grad.abs().max())
             for name, x in ours.gradient_copies().items()}
    losses += [(ours.step(*batch, RATE), theirs.step(*batch, RATE)) for _ in range(STEPS)]
    worst["the loss"] = max(abs(a - b) / b for a, b in losses)
    name, error = max(worst.items(), key=lambda item: item[1])
    passed = error <= ALLOWED[shape.dtype]
    if not passed:
        bench.wrong.append(f"training, {shape}: {name} is off by {error:.2g} of its largest element, allowed "
                           f"{ALLOWED[shape.dtype]:g}")
    bench.say(f"  training, {shape.dtype}: {len(worst) - 1} gradients and {len(losses)} losses against PyTorch in f64: off by at "
              f"most {error:.2g} of the largest element ({name}): {'right' if passed else 'WRONG'}")


def _flops(shape: Shape, parameters: dict[str, torch.Tensor]) -> float:
    """Of a step: each matrix is multiplied once forward and twice backward, the attention counts 1 + 2.5 forward passes. What
    activation checkpointing computes again does not count."""
    attention = Problem(shape.n, shape.heads, shape.embed_dim // shape.heads, segments=shape.segments, rates=shape.rates,
                        causal=True)
    matrices = sum(x.numel() for x in parameters.values() if x.dim() == 2)
    return 6.0 * matrices * shape.n + 3.5 * shape.layers * counted_flops(attention)


def measure(bench: Bench) -> None:
    for dtype in ALLOWED:
        _check(bench, replace(SMALL, dtype=dtype))
    shape = SMALL if bench.quick else WORK
    bench.say(f"training: {shape}")
    ours = Longnet(bench.context, bench.build / "lib", shape, seed=1)
    theirs = Trainer(shape, ours.parameter_copies())
    batch = _batch(shape)
    calls = {"library": lambda: ours.step(*batch, RATE), "autograd": lambda: theirs.step(*batch, RATE)}
    for call in calls.values():
        call()
    bench.peaks.measure()
    seconds = interleaved(calls, min(bench.repeats, MOST_ROUNDS), bench.peaks.measure)
    flops = _flops(shape, ours.parameter_copies())
    bench.add({"id": "training", "work": "a step of training a language model, to PyTorch's", "problem": str(shape),
               "figure": spread(ratios(seconds["autograd"], seconds["library"])), "unit": "x faster", "target": None,
               "sense": "at least",
               "competitors": [{"name": name, "title": TITLES[name], "seconds": spread(seconds[name]), "all_seconds": seconds[name],
                                "counted_flops": flops, "flops_per_second": flops / spread(seconds[name])["median"]}
                               for name in calls]})
