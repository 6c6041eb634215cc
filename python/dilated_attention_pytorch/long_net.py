"""LongNet (arXiv:2307.02486): a transformer with dilated attention, and a language model of it."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .core.config import Device
from .rotary import rotate
from .transformer import Activation, DilatedTransformerDecoderLayer, DilatedTransformerEncoderLayer, Lengths

# Section 4.1 and appendix A of the paper.
SEGMENT_LENGTHS = (2048, 4096, 8192, 16384, 32768)
DILATION_RATES = (1, 2, 4, 6, 12)


class _Stack(nn.Module):
    """Layers one after another, and a norm after them, or None."""

    def __init__(self, layers: list[nn.Module], norm: Optional[nn.LayerNorm] = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm


class LongNet(nn.Module):
    """Encoder and decoder over one sequence: the decoder's tokens read themselves and the encoder's output.

    The defaults are the paper's base model. num_decoder_layers=0 leaves the decoder out: an encoder, or with
    is_causal=True what is called a decoder-only model. Gains are MAGNETO's (arXiv:2210.06423, figure 2), which depend
    on the number of layers. encoder_norm: a norm after the encoder's last layer (torchscale's encoders have it).
    decoder_self_attn_layer_norm: see DilatedTransformerDecoderLayer. options: `implementation`, and what
    create_multihead_dilated_attention takes (position, kv_heads, preset, ...)."""

    def __init__(
        self,
        d_model: int = 768,
        nhead: int = 12,
        num_encoder_layers: int = 12,
        num_decoder_layers: int = 12,
        dim_feedforward: int = 3072,
        segment_lengths: Sequence[int] = SEGMENT_LENGTHS,
        dilation_rates: Sequence[int] = DILATION_RATES,
        dropout: float = 0.0,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        device: Device = None,
        dtype: Optional[torch.dtype] = None,
        *,
        encoder_norm: bool = False,
        decoder_self_attn_layer_norm: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("num_encoder_layers", num_encoder_layers, 1),
            ("num_decoder_layers", num_decoder_layers, 0),
        ):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; allowed: integers from {least} on")
        encoder_gain = (
            log(2 * num_encoder_layers)
            if num_decoder_layers == 0
            else log(3 * num_decoder_layers) * log(2 * num_encoder_layers) / 3
        ) ** 0.5
        arguments: dict[str, Any] = {
            "d_model": d_model,
            "nhead": nhead,
            "segment_lengths": segment_lengths,
            "dilation_rates": dilation_rates,
            "dim_feedforward": dim_feedforward,
            "dropout": dropout,
            "activation": activation,
            "layer_norm_eps": layer_norm_eps,
            "device": device,
            "dtype": dtype,
            **options,
        }
        self.encoder = _Stack(
            [DilatedTransformerEncoderLayer(gamma_init=encoder_gain, **arguments) for _ in range(num_encoder_layers)],
            nn.LayerNorm(d_model, layer_norm_eps, device=device, dtype=dtype) if encoder_norm else None,
        )
        self.decoder = _Stack(
            [
                DilatedTransformerDecoderLayer(
                    gamma_init=log(3 * num_decoder_layers) ** 0.5,
                    self_attn_layer_norm=decoder_self_attn_layer_norm,
                    **arguments,
                )
                for _ in range(num_decoder_layers)
            ]
        )

    def forward(self, x: Tensor, is_causal: bool = True, key_lengths: Lengths = None) -> Tensor:
        """(batch, n, d_model), like x. is_causal holds for encoder and decoder alike."""
        memory = x
        for layer in self.encoder.layers:
            memory = layer(memory, is_causal=is_causal, key_lengths=key_lengths)
        if self.encoder.norm is not None:
            memory = self.encoder.norm(memory)
        if len(self.decoder.layers) == 0:
            return memory
        for layer in self.decoder.layers:
            x = layer(x, memory, tgt_is_causal=is_causal, memory_is_causal=is_causal, key_lengths=key_lengths)
        return x


class LongNetLM(nn.Module):
    """A language model: token embedding, LongNet, norm, and the logits of the next token.

    num_tokens: size of the vocabulary. position: how places reach the attention: "rope" (the default) and "xpos" turn
    query and key in every layer, "none"; "embedding" adds the xPos-turned embedding to the embedding, as fkodom's
    package does: for its checkpoints; what it adds grows with the length, and depends on it. The other arguments: see
    LongNet."""

    def __init__(
        self,
        num_tokens: int,
        d_model: int = 768,
        nhead: int = 12,
        num_encoder_layers: int = 12,
        num_decoder_layers: int = 12,
        dim_feedforward: int = 3072,
        segment_lengths: Sequence[int] = SEGMENT_LENGTHS,
        dilation_rates: Sequence[int] = DILATION_RATES,
        dropout: float = 0.0,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        device: Device = None,
        dtype: Optional[torch.dtype] = None,
        *,
        position: str = "rope",
        **options: Any,
    ) -> None:
        super().__init__()
        if position not in ("rope", "xpos", "none", "embedding"):
            raise ValueError(f"position is {position!r}; allowed: 'rope', 'xpos', 'none', 'embedding'")
        self.position = position
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.token_embedding = nn.Embedding(num_tokens, d_model, **made)
        self.long_net = LongNet(
            d_model,
            nhead,
            num_encoder_layers,
            num_decoder_layers,
            dim_feedforward,
            segment_lengths,
            dilation_rates,
            dropout,
            activation,
            layer_norm_eps,
            device,
            dtype,
            position="none" if position == "embedding" else position,
            **options,
        )
        self.norm = nn.LayerNorm(d_model, layer_norm_eps, **made)
        self.out = nn.Linear(d_model, num_tokens, **made)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The output layer's: normal with the deviation 1 / sqrt(d_model), so that the first loss is that of a
        guess."""
        nn.init.normal_(self.out.weight, std=self.out.in_features**-0.5)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, is_causal: bool = True, key_lengths: Lengths = None) -> Tensor:
        """Logits (batch, n, num_tokens) of tokens x (batch, n): integers."""
        if x.dim() != 2 or x.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"x has the shape {tuple(x.shape)} and the data type {x.dtype}; allowed: (batch, n) of int64 or int32"
            )
        embedded = self.token_embedding(x)
        if self.position == "embedding":
            first: Any = self.long_net.encoder.layers[0]
            positions = first.self_attn.positions_of_part(x)
            embedded = embedded + rotate(embedded.unsqueeze(2), xpos=True, positions=positions).squeeze(2)
        attended = self.long_net(embedded, is_causal=is_causal, key_lengths=key_lengths)
        return self.out(self.norm(attended))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"position={self.position!r}"
