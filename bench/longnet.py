"""The library's language model by ctypes: parameters, a loss with its gradients, a step of AdamW."""
from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, byref, c_bool, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path

import torch

from library import DTYPES, Config, Context, Library

POSITION_ROPE = 1


class MultiheadConfig(Structure):
    _fields_ = [("size", c_size_t), ("embed_dim", c_int64), ("num_heads", c_int64), ("kv_heads", c_int64), ("bias", c_bool),
                ("layer_norm", c_bool), ("layer_norm_eps", c_double), ("gamma_init", c_double), ("dtype", c_int),
                ("device", c_int), ("qk_layer_norm", c_bool), ("position", c_int), ("rotary_layout", c_int),
                ("rope_base", c_double), ("xpos_scale_base", c_double), ("sharded", c_bool)]


class LongnetConfig(Structure):
    _fields_ = [("size", c_size_t), ("vocab_size", c_int64), ("layers", c_int64), ("ffn_dim", c_int64),
                ("activation", c_int), ("tied_output", c_bool), ("norm_eps", c_double)]


class Parameter(Structure):
    _fields_ = [("name", c_char_p), ("data", c_void_p), ("dtype", c_int), ("rank", c_int), ("shape", c_int64 * 2),
                ("first_row", c_int64), ("whole_rows", c_int64)]


class Batch(Structure):
    _fields_ = [("size", c_size_t), ("tokens", c_void_p), ("targets", c_void_p), ("batch", c_int64), ("n", c_int64),
                ("training", c_bool), ("dropout_seed", c_uint64), ("progress", c_void_p), ("progress_user", c_void_p)]


class AdamwConfig(Structure):
    _fields_ = [("size", c_size_t)] + [(name, c_double) for name in ("beta1", "beta2", "eps", "weight_decay", "clip")]


SIGNATURES = {
    "da_multihead_config_init": (None, [POINTER(MultiheadConfig)]),
    "da_longnet_config_init": (None, [POINTER(LongnetConfig)]),
    "da_longnet_batch_init": (None, [POINTER(Batch)]),
    "da_adamw_config_init": (None, [POINTER(AdamwConfig)]),
    "da_longnet_create": (c_int, [c_void_p, c_char_p, POINTER(LongnetConfig), POINTER(MultiheadConfig), POINTER(Config),
                                  POINTER(c_void_p)]),
    "da_longnet_free": (None, [c_void_p]),
    "da_longnet_initialise": (c_int, [c_void_p, c_uint64]),
    "da_longnet_parameter_count": (c_size_t, [c_void_p]),
    "da_longnet_parameter_at": (c_int, [c_void_p, c_size_t, POINTER(Parameter)]),
    "da_longnet_gradients_create": (c_int, [c_void_p, POINTER(c_void_p)]),
    "da_longnet_gradients_free": (None, [c_void_p]),
    "da_longnet_gradients_zero": (None, [c_void_p]),
    "da_longnet_gradient_at": (c_int, [c_void_p, c_size_t, POINTER(Parameter)]),
    "da_longnet_backward": (c_int, [c_void_p, POINTER(Batch), c_void_p, POINTER(c_double)]),
    "da_adamw_create": (c_int, [c_void_p, POINTER(AdamwConfig), POINTER(c_void_p)]),
    "da_adamw_free": (None, [c_void_p]),
    "da_adamw_step": (c_int, [c_void_p, c_void_p, c_double, POINTER(c_double)]),
}


@dataclass(frozen=True)
class Shape:
    """A model and the batch that it is trained on."""
    n: int
    embed_dim: int
    layers: int
    heads: int
    segments: tuple[int, ...]
    rates: tuple[int, ...]
    words: int = 256
    dtype: str = "float32"

    def __str__(self) -> str:
        patterns = f"segments {','.join(map(str, self.segments))}, rates {','.join(map(str, self.rates))}"
        return (f"n = {self.n:,}, {self.layers} layers of {self.embed_dim}, {self.heads} heads, {self.words} words, "
                f"{self.dtype}, {patterns}, causal")


class Longnet:
    """A model with random parameters, its gradients and its optimiser."""

    def __init__(self, context: Context, folder: Path, shape: Shape, seed: int):
        self.context, self.core = context, context.library
        self.library = Library(folder / "libdilated_attention_nn.so", SIGNATURES)
        c = self.library.c
        config = self.core.initialised(LongnetConfig, c.da_longnet_config_init)
        multihead = self.core.initialised(MultiheadConfig, c.da_multihead_config_init)
        adamw = self.core.initialised(AdamwConfig, c.da_adamw_config_init)
        attention = self.core.configuration(shape.segments, shape.rates, True, "longnet")
        config.vocab_size, config.layers = shape.words, shape.layers
        multihead.embed_dim, multihead.num_heads = shape.embed_dim, shape.heads
        multihead.dtype, multihead.position = DTYPES[shape.dtype], POSITION_ROPE
        self.dtype = getattr(torch, shape.dtype)
        self.model, self.gradients, self.adamw = c_void_p(), c_void_p(), c_void_p()
        self.core.check(c.da_longnet_create(context.handle, b"improved", byref(config), byref(multihead), byref(attention),
                                            byref(self.model)))
        self.core.check(c.da_longnet_initialise(self.model, seed))
        self.core.check(c.da_longnet_gradients_create(self.model, byref(self.gradients)))
        self.core.check(c.da_adamw_create(self.model, byref(adamw), byref(self.adamw)))

    def __del__(self):
        for handle, free in ((self.adamw, "da_adamw_free"), (self.gradients, "da_longnet_gradients_free"),
                             (self.model, "da_longnet_free")):
            getattr(self.library.c, free)(handle)

    def _copies(self, handle, at) -> dict[str, torch.Tensor]:
        copies, view = {}, Parameter()
        for index in range(self.library.c.da_longnet_parameter_count(self.model)):
            self.core.check(at(handle, index, byref(view)))
            shape = [view.shape[axis] for axis in range(view.rank)]
            copy = torch.empty(shape, dtype=self.dtype)
            ctypes.memmove(copy.data_ptr(), view.data, copy.numel() * copy.element_size())
            copies[view.name.decode()] = copy
        return copies

    def parameter_copies(self):
        return self._copies(self.model, self.library.c.da_longnet_parameter_at)

    def gradient_copies(self):
        return self._copies(self.gradients, self.library.c.da_longnet_gradient_at)

    def backward(self, tokens, targets) -> float:
        """The loss; its gradients replace the old ones. tokens, targets: int32 tensors (batch, n)."""
        batch, loss = self.core.initialised(Batch, self.library.c.da_longnet_batch_init), c_double()
        batch.tokens, batch.targets = tokens.data_ptr(), targets.data_ptr()
        batch.batch, batch.n = tokens.shape
        batch.training = True
        self.library.c.da_longnet_gradients_zero(self.gradients)
        self.core.check(self.library.c.da_longnet_backward(self.model, byref(batch), self.gradients, byref(loss)))
        return loss.value

    def step(self, tokens, targets, rate: float) -> float:
        loss = self.backward(tokens, targets)
        self.core.check(self.library.c.da_adamw_step(self.adamw, self.gradients, rate, None))
        return loss
