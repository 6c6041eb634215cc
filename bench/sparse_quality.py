"""Quality and time of `block_sparse` on the layers of real models, for each way to choose tiles."""
from __future__ import annotations

import time
from ctypes import byref, c_int
from dataclasses import dataclass

import torch

import sparse_oracle
from bench import Bench
from library import Attention, LibraryError, SparseProfile, TileMask
from sparse_models import Model
from timing import interleaved, ratios, spread

ORACLE = "oracle"  # not a pattern of the library: exact masses decide, and the time to find them does not count
CONTENT, PROFILE = "content", "profile"
FIXED = ("local_window", "global_local", "dilated_sparse", "axial", "random", "hybrid")


@dataclass(frozen=True)
class Setting:
    """How tiles are chosen: so large a part of them or, with a target below 1, as many as keep so much of the attention."""
    pattern: str
    ratio: float = 1.0
    target: float = 1.0

    def __str__(self) -> str:
        return f"{self.pattern}, " + (f"target {self.target:g}" if self.target < 1 else f"ratio {self.ratio:g}")


@dataclass
class Layer:
    """Of one layer of a model: its tensors, and what attention without tiles makes of them."""
    number: int
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    out: torch.Tensor
    lse: torch.Tensor
    ranks: torch.Tensor | None = None  # the oracle's


class Measured:
    """A model, the data of its layers, and the library's attention to put into it."""

    def __init__(self, bench: Bench, model: Model, block: int):
        self.bench, self.model, self.block = bench, model, block
        self.full = self.attention("improved")
        self.layers: list[Layer] = []
        self.profiles: dict[float, list[SparseProfile]] = {}  # by target
        self.reference = model.run(self._record)  # what the model achieves without tiles

    def attention(self, name: str, more=None) -> Attention:
        return Attention(self.bench.context, name, self.model.segments, self.model.rates, causal=self.model.causal, more=more)

    def _record(self, number: int, q, k, v):
        self.layers.append(self.layer(number, q, k, v, with_result=True))
        return self.layers[-1].out

    def _pattern(self, name: str) -> int:
        number = c_int()
        self.bench.library.check(self.bench.library.c.da_sparse_pattern_from_name(name.encode(), byref(number)))
        return number.value

    def _profiles(self, target: float) -> list[SparseProfile]:
        """One for each layer, found once on the model's other text."""
        if target not in self.profiles:
            found = self.profiles[target] = []

            def attend(number: int, q, k, v):
                layer = self.layer(number, q, k, v, with_result=True)
                found.append(SparseProfile(self.attention("block_sparse", {"block_size": self.block}), *layer.tensors[:2], target))
                return layer.out

            self.model.run_other(attend)
        return self.profiles[target]

    def masked(self, tiles: TileMask) -> Attention:
        return self.attention("block_sparse", {"sparse_pattern": self._pattern("mask"), "tile_mask": tiles})

    def layer(self, number: int, q, k, v, with_result: bool) -> Layer:
        layer = Layer(number, tuple(x.contiguous() for x in (q, k, v)), torch.zeros(q.shape), torch.zeros(*q.shape[:3], 1))
        if with_result:
            self.full.forward(*layer.tensors, layer.out, layer.lse)()
        return layer

    def sparse(self, setting: Setting, layer: Layer) -> Attention:
        """Attention by a setting; the oracle looks at the layer."""
        if setting.pattern == PROFILE:
            return self.attention("block_sparse", {"sparse_pattern": self._pattern(PROFILE), "block_size": self.block,
                                                   "sparse_profile": self._profiles(setting.target)[layer.number]})
        if setting.pattern != ORACLE:
            return self.attention("block_sparse", {"sparse_pattern": self._pattern(setting.pattern), "block_size": self.block,
                                                   "sparsity_ratio": setting.ratio, "quality_target": setting.target})
        if layer.ranks is None:
            layer.ranks = sparse_oracle.ranks(self.model, *layer.tensors[:2], layer.lse, self.block)
        return self.masked(TileMask.of(self.bench.library, (layer.ranks < setting.ratio).numpy(), self.model.n, self.block))


def measure_layer(measured: Measured, layer: Layer, setting: Setting, rounds: int) -> dict:
    """Mass and error over all queries and heads, exact: exp(lse with tiles - lse of all) is the part of a query's softmax that its
    tiles hold. Seconds of `improved` and `block_sparse` in the same rounds."""
    out, lse = torch.zeros_like(layer.out), torch.zeros_like(layer.lse)
    attention = measured.sparse(setting, layer)
    attention.forward(*layer.tensors, out, lse)()
    mass = (lse - layer.lse).double().exp()[layer.lse.isfinite()]  # of the queries that see a key
    error = float(torch.linalg.vector_norm(out - layer.out) / torch.linalg.vector_norm(layer.out))
    tiles, report = attention.tiles(*layer.tensors[:2])
    seconds = interleaved({"improved": measured.full.forward(*layer.tensors, out),
                           "sparse": attention.forward(*layer.tensors, out),
                           "given": measured.masked(tiles).forward(*layer.tensors, out)}, rounds)
    return {"mass": float(mass.mean()), "mass_of_hundredth": float(mass.kthvalue(max(1, len(mass) // 100)).values), "error": error, "tiles": report.tiles_kept / report.tiles_all, "pairs": report.pairs_kept / report.pairs_all,
            "reported_mass": report.mass_kept, "reported_error": report.mass_error, "seconds": seconds}


def end_measure(measured: Measured, setting: Setting) -> float | None:
    """What the model achieves with this attention in all of its layers, each of which sees what those below it made. Not of the
    oracle, which would have to search each layer again."""
    if setting.pattern == ORACLE:
        return None

    def attend(number: int, q, k, v):
        layer = measured.layer(number, q, k, v, with_result=False)
        return measured.sparse(setting, layer).forward(*layer.tensors, torch.zeros(q.shape))()

    found = measured.model.run(attend)
    return float(found @ measured.reference) if measured.model.measure == "cosine" else found


def _totals(layers: list[dict], name: str) -> list[float]:
    """Seconds of all layers together, for each round."""
    return [sum(round) for round in zip(*(layer["seconds"][name] for layer in layers))]


def measure_setting(measured: Measured, setting: Setting, rounds: int) -> dict:
    layers = [measure_layer(measured, layer, setting, rounds) for layer in measured.layers]
    totals = {name: _totals(layers, name) for name in ("improved", "sparse", "given")}
    pairs = sum(layer["pairs"] for layer in layers) / len(layers)
    mean = {name: sum(layer[name] for layer in layers) / len(layers) for name in ("mass", "tiles", "error", "reported_mass")}
    return {"pattern": setting.pattern, "ratio": setting.ratio, "target": setting.target, **mean, "pairs": pairs,
            "worst_mass": min(layer["mass"] for layer in layers), "worst_error": max(layer["error"] for layer in layers),
            "end": end_measure(measured, setting), "seconds": {name: spread(values) for name, values in totals.items()},
            # The oracle's time to find its tiles does not count; that of all others does.
            "faster": spread(ratios(totals["improved"], totals["sparse"])),
            "efficiency": spread([pairs * ratio for ratio in ratios(totals["improved"], totals["given"])]),
            "choosing": spread([100 * (1 - given / sparse) for given, sparse in zip(totals["given"], totals["sparse"])]),
            "layers": layers}


def measure(bench: Bench, model: Model, settings: list[Setting], block: int, rounds: int) -> dict:
    bench.say(f"{model.title}, blocks of {block}")
    started = time.monotonic()
    measured = Measured(bench, model, block)
    end = measured.reference if model.measure != "cosine" else 1.0
    bench.say(f"  {len(measured.layers)} layers, {model.measure} without tiles {end:.4f}, {time.monotonic() - started:.0f} s")
    rows = []
    for setting in settings:
        try:
            row = measure_setting(measured, setting, rounds)
        except LibraryError as error:
            bench.wrong.append(f"{model.title}, {setting}: {error}")
            continue
        rows.append(row)
        reached = "" if row["end"] is None else f"  {model.measure} {row['end']:.4f}"
        bench.say(f"  {str(setting):28} tiles {100 * row['tiles']:5.1f}%  pairs {100 * row['pairs']:5.1f}%  mass {row['mass']:.4f} "
                  f"(worst layer {row['worst_mass']:.4f})  error {row['error']:.3f}{reached}  "
                  f"{row['faster']['median']:.2f}x faster")
    return {"name": model.name, "title": model.title, "n": model.n, "block": block, "measure": model.measure, "end": end,
            "layers": len(measured.layers), "rows": rows}
