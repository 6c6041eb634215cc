"""Checkpoints of this library and of the packages that it takes the place of.

Names of parameters that are understood, beside our own (docs/multihead.md), under any prefix:

    fkodom's package     our names; pos_embedding.scale of its language model is a constant and passed over
    DarcStar's package   q_ln and k_ln, where q_ln is also the norm before the output projection; or qkv_proj, one
                         matrix of query, key and value, where q_ln is that norm alone and k_ln is not used
    torchscale           inner_attn_ln for norm, and an encoder's layers: self_attn_layer_norm, final_layer_norm,
                         ffn.fc1, ffn.ffn_layernorm, ffn.fc2, and layer_norm after the last

Names say nothing of what the attention computes. Weights that were trained with torchscale want preset="torchscale",
those of the head-group packages preset="head_groups".
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

import torch
from torch import Tensor, nn

from .core.base import BaseMultiheadDilatedAttention

Source = Union[str, "os.PathLike[str]", Mapping[str, Any]]
NAMES = ("own", "torchscale")

# torchscale's names in an encoder layer, and ours.
_LAYER = (
    ("self_attn_layer_norm.", "norm1."),
    ("final_layer_norm.", "norm2."),
    ("ffn.fc1.", "linear1."),
    ("ffn.ffn_layernorm.", "norm3."),
    ("ffn.fc2.", "linear2."),
)

_OF_ATTENTION = {"q_proj", "k_proj", "v_proj", "qkv_proj", "out_proj", "q_ln", "k_ln", "norm", "inner_attn_ln"}


def read_state_dict(source: Source) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, of a file that torch.save wrote (only tensors are unpickled), or of a
    mapping. Tensors below "state_dict", "model" or "module", where training programs put them, are found.

    ValueError: no tensors there. ImportError: a .safetensors file without the package safetensors."""
    if isinstance(source, Mapping):
        found: Any = source
    elif Path(source).suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError:
            raise ImportError(
                "reading .safetensors files needs the package safetensors: pip install safetensors"
            ) from None
        found = load_file(source)
    else:
        found = torch.load(source, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model", "module"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    tensors = (
        {name: value for name, value in found.items() if isinstance(value, Tensor)}
        if isinstance(found, Mapping)
        else {}
    )
    if not tensors:
        raise ValueError(f"{source if not isinstance(source, Mapping) else 'the mapping'} holds no tensors by name")
    return tensors


def _attention_names(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of one multihead module, with our names. `state` holds what lies below the prefix."""
    named = {name.replace("inner_attn_ln.", "norm."): tensor for name, tensor in state.items()}
    fused = "qkv_proj.weight" in named
    for kind in ("weight", "bias"):
        if f"qkv_proj.{kind}" in named:
            whole = named.pop(f"qkv_proj.{kind}")
            if whole.shape[0] % 3:
                raise ValueError(f"{prefix}qkv_proj.{kind} has {whole.shape[0]} rows; allowed: a multiple of 3")
            for part, tensor in zip("qkv", whole.chunk(3)):
                named[f"{part}_proj.{kind}"] = tensor
        if f"q_ln.{kind}" in named and f"norm.{kind}" not in named:
            named[f"norm.{kind}"] = named[f"q_ln.{kind}"]
            if fused:
                del named[f"q_ln.{kind}"]
                named.pop(f"k_ln.{kind}", None)
    return named


def own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint under our names, whichever of the packages above it comes from."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith("pos_embedding.scale"):
            continue
        for theirs, ours in _LAYER:
            name = re.sub(rf"(^|\.)({re.escape(theirs)})", rf"\1{ours}", name)
        renamed[name] = tensor
    # torchscale's encoder: its last norm stands beside `layers`.
    renamed = {re.sub(r"(^|\.)layer_norm\.", r"\1norm.", name): tensor for name, tensor in renamed.items()}
    found = (re.search(r"(?:^|\.)((?:q|qkv)_proj\.weight)$", name) for name in renamed)
    prefixes = {match.string[: match.start(1)] for match in found if match}
    result = dict(renamed)
    for prefix in sorted(prefixes):
        below = {
            name[len(prefix) :]: renamed[name]
            for name in renamed
            if name.startswith(prefix)
            and re.fullmatch(r"[a-z_]+\.(weight|bias)", name[len(prefix) :])
            and name[len(prefix) :].split(".")[0] in _OF_ATTENTION
        }
        for name in below:
            del result[prefix + name]
        result.update({prefix + name: tensor for name, tensor in _attention_names(below, prefix).items()})
    return result


def load_checkpoint(module: nn.Module, source: Source, *, prefix: str = "") -> None:
    """Loads a checkpoint into a multihead module, a LongNet, or a module that holds such.

    source: see read_state_dict. prefix: only what lies below it is taken, as "encoder.layers.0.self_attn.". Tensors are
    converted to the data types of the parameters.

    The checkpoint is checked as a whole before a parameter changes. ValueError: a parameter is missing or has another
    shape, or a tensor is no parameter of the module; the message lists them."""
    state = {name[len(prefix) :]: tensor for name, tensor in read_state_dict(source).items() if name.startswith(prefix)}
    if not state:
        raise ValueError(f"prefix is {prefix!r}, and no tensor's name starts with it")
    named, wanted = own_names(state), module.state_dict()
    missing = sorted(wanted.keys() - named.keys())
    unknown = sorted(named.keys() - wanted.keys())
    shapes = [
        f"{name} is {tuple(named[name].shape)}, here {tuple(wanted[name].shape)}"
        for name in sorted(named.keys() & wanted.keys())
        if named[name].shape != wanted[name].shape
    ]
    faults = [
        f"{what}: {', '.join(names[:8])}{f' and {len(names) - 8} more' if len(names) > 8 else ''}"
        for what, names in (("missing", missing), ("no parameter here", unknown), ("another shape", shapes))
        if names
    ]
    if faults:
        raise ValueError(f"the checkpoint does not fit the module. {'; '.join(faults)}")
    module.load_state_dict(named)


def save_checkpoint(module: nn.Module, path: Union[str, os.PathLike[str]], *, names: str = "own") -> None:
    """Writes a module's parameters to a .safetensors file, or with another suffix by torch.save: under a temporary name
    beside it, then renamed.

    names: "own", or "torchscale", for multihead modules and encoders without options that torchscale does not have."""
    if names not in NAMES:
        raise ValueError(f"names is {names!r}; allowed: {', '.join(NAMES)}")
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    if names == "torchscale":
        state = _torchscale_names(module, state)
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if target.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(state, temporary)
        else:
            torch.save(state, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _torchscale_names(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    attentions = [
        f"{name}." if name else ""
        for name, part in module.named_modules()
        if isinstance(part, BaseMultiheadDilatedAttention)
    ]
    renamed = {}
    for name, tensor in state.items():
        within = next((p for p in attentions if name.startswith(p)), None)
        if within is not None:
            kind = name[len(within) :]
            if kind.startswith(("q_ln.", "k_ln.")):
                raise ValueError(f"names is 'torchscale', which has no {name}; allowed with qk_layer_norm: 'own'")
            name = within + (f"inner_attn_ln.{kind[5:]}" if kind.startswith("norm.") else kind)
        elif re.search(r"(^|\.)layers\.\d+\.", name):
            if re.search(r"\.(norm4|multihead_attn)\.", name):
                raise ValueError(f"names is 'torchscale', and {name} belongs to a decoder; allowed for decoders: 'own'")
            for theirs, ours in _LAYER:
                name = re.sub(rf"\.{re.escape(ours)}", f".{theirs}", name)
        elif name.startswith(("norm.", "encoder.norm.")):
            name = name.replace("norm.", "layer_norm.")
        renamed[name] = tensor
    return renamed
