"""`block_sparse` beside PyTorch, on one layer's real queries, keys and values: dense attention over all keys, and FlexAttention over
the tiles that `block_sparse` chose. All in the same rounds."""
from __future__ import annotations

import torch
from torch.nn import functional

from bench import Bench
from sparse_quality import Measured, Setting
from timing import interleaved, ratios, spread
from torch_flex import flex_pass

TITLES = {"improved": "improved", "sparse": "block_sparse, choosing tiles", "given": "block_sparse, tiles given",
          "dense": "PyTorch dense attention", "flex": "PyTorch FlexAttention, compiled, same tiles"}


def _flex(bench: Bench, tensors, kept, block: int):
    """FlexAttention, compiled, or None and why not."""
    call = flex_pass(*tensors, kept, block)
    try:
        return call, call()
    except Exception as error:  # the compiler's own kinds of failure are many, and none of them is this benchmark's
        bench.say(f"  FlexAttention: left out: {type(error).__name__}: {error}")
        return None, None


def measure_speed(bench: Bench, measured: Measured, number: int, settings: list[Setting], rounds: int) -> dict:
    """Layer `number` of a model that is dense and not causal, so that all five compute what they say."""
    layer, rows = measured.layers[number], []
    for setting in settings:
        attention = measured.sparse(setting, layer)
        tiles, report = attention.tiles(*layer.tensors[:2])
        given = measured.masked(tiles).forward(*layer.tensors, torch.zeros(layer.out.shape))
        calls = {"improved": measured.full.forward(*layer.tensors, torch.zeros(layer.out.shape)),
                 "sparse": attention.forward(*layer.tensors, torch.zeros(layer.out.shape)), "given": given,
                 "dense": lambda: functional.scaled_dot_product_attention(*layer.tensors)}
        flex, theirs = _flex(bench, layer.tensors, torch.from_numpy(tiles.array()), measured.block)
        if flex is not None:
            calls["flex"] = flex
            off = float((theirs - given()).abs().max() / theirs.abs().max())
            if off > 1e-4:
                bench.wrong.append(f"{measured.model.title}, layer {number}, {setting}: FlexAttention and block_sparse differ by "
                                   f"{off:.2g} of the largest element")
        seconds = interleaved(calls, rounds)
        pairs = report.pairs_kept / report.pairs_all
        row = {"setting": str(setting), "pairs": pairs, "mass": measure_mass(measured, layer, tiles),
               "competitors": [{"name": name, "title": TITLES[name], "seconds": spread(values),
                                "faster": spread(ratios(values, seconds["sparse"]))} for name, values in seconds.items()],
               "efficiency": spread([100 * pairs * x for x in ratios(seconds["improved"], seconds["given"])]),
               "choosing": spread([100 * (1 - x) for x in ratios(seconds["given"], seconds["sparse"])])}
        rows.append(row)
        bench.say(f"  {setting}: " + ", ".join(f"{TITLES[name]} {spread(values)['median']:.3g} s" for name, values in seconds.items())
                  + f"; rate on its tiles {row['efficiency']['median']:.0f}% of improved's, choosing {row['choosing']['median']:.1f}%")
    return {"title": f"{measured.model.title}, layer {number}", "block": measured.block, "rows": rows}


def measure_mass(measured: Measured, layer, tiles) -> float:
    out, lse = torch.zeros(layer.out.shape), torch.zeros(layer.lse.shape)
    measured.masked(tiles).forward(*layer.tensors, out, lse)()
    return float((lse - layer.lse).double().exp().mean())
