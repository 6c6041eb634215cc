"""Configuration of attention modules: the guide's DilatedAttentionConfig and MultiheadConfig.

Plain dataclasses, checked when they are made. Every field is documented here once; the modules take the same names as
keyword arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from typing import Any, Callable, Optional, Union

import torch

from .. import _config, tiles
from ..ranks import Group, name_for
from ..ranks import checked as checked_group

CHOICES = {
    "mixing": _config.MIXINGS,
    "offset_rule": _config.OFFSET_RULES,
    "tail_rule": _config.TAIL_RULES,
    "overlap": _config.OVERLAPS,
}
# Of "block_sparse": each field, and what checks a value of it.
SPARSE: dict[str, Callable[[str, Any], Any]] = {
    "sparse_pattern": lambda name, value: _config.one_of(name, value, _config.SPARSE_PATTERNS),
    "sparsity_ratio": _config.fraction,
    "block_size": _config.tile_block,
    "quality_target": _config.fraction,
    "global_blocks": lambda name, value: _config.integer(name, value, 0),
    "sparse_seed": lambda name, value: _config.integer(name, value, 0),
    "sparse_profile": lambda name, value: tiles.checked_profile(value),
}
POSITIONS = ("none", "rope", "xpos")
ROTARY_LAYOUTS = ("adjacent", "halves")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MAX_HEAD_DIM = 256

Device = Union[torch.device, str, int, None]


def _dtype(name: str, value: Any) -> Optional[torch.dtype]:
    if value is not None and value not in DTYPES:
        raise ValueError(f"{name} is {value!r}; allowed: None, {', '.join(str(d) for d in DTYPES)}")
    return value  # type: ignore[no-any-return]


def _device(name: str, value: Any) -> Optional[torch.device]:
    try:
        return None if value is None else torch.device(value)
    except RuntimeError as error:
        raise ValueError(f"{name} is {value!r}; allowed: None, or a device of PyTorch ({error})") from None


@dataclass
class DilatedAttentionConfig:
    """What a dilated attention computes.

    segment_lengths, dilation_rates: the patterns, 1 <= rate <= length; neither needs to divide anything.
    dropout: probability in [0, 1) that an attention weight is dropped in training.
    use_tf32: a wish for matrix products on GPUs; without effect on a CPU.
    device, dtype: of the parameters of a module that has some; None: PyTorch's defaults.
    softmax_scale: None: 1 / sqrt(head_dim).
    is_causal: True: every call is causal. False: the call's `is_causal` decides.
    window: None, or W >= 0: query i sees only keys j with i - j <= W.
    preset: "longnet" (the paper), "torchscale" (its checkpoints), "head_groups" (checkpoints of the head-group
    packages);
        mixing, offset_rule, tail_rule, overlap: None: the preset's.
    partition: which tokens each of several ranks holds: "contiguous" (a stretch), "zigzag" (of twice as many chunks as
        ranks, one from either end), "striped" (blocks dealt out in turn). One process holds all, whatever it says.
    stripe: tokens in a block of the striped partition; None: the library's choice.
    process_group: the ranks of torch.distributed that hold parts of the tokens: a ProcessGroup or its name, which is
        what is kept. None: at each call, the default group for "ring" and "distributed" where torch.distributed is
        initialised, and otherwise this process alone, as with False.
    sparse_pattern, sparsity_ratio, block_size, global_blocks, sparse_seed: which tiles of the pattern "block_sparse"
        computes, see functional.dilated_attention; without effect on other implementations. None: "content", 0.1, 128,
        1, 0.
    quality_target: None, or below 1 so much of the attention that "block_sparse" is to keep; "auto" chooses it then.
    sparse_profile: what profile_attention() found for each head, in place of pattern, ratio and target.
    tile_mask: of "block_sparse" alone, the tiles themselves: a TileMask, or FlexAttention's BlockMask.
    implementation: what computes it; the factory and the modules set this.
    """

    segment_lengths: Sequence[int]
    dilation_rates: Sequence[int]
    dropout: float = 0.0
    use_tf32: bool = True
    device: Device = None
    dtype: Optional[torch.dtype] = None
    softmax_scale: Optional[float] = None
    is_causal: bool = False
    window: Optional[int] = None
    preset: str = "longnet"
    mixing: Optional[str] = None
    offset_rule: Optional[str] = None
    tail_rule: Optional[str] = None
    overlap: Optional[str] = None
    partition: str = "contiguous"
    stripe: Optional[int] = None
    process_group: Group = None
    implementation: str = "auto"
    sparse_pattern: Optional[str] = None
    sparsity_ratio: Optional[float] = None
    block_size: Optional[int] = None
    quality_target: Optional[float] = None
    global_blocks: Optional[int] = None
    sparse_seed: Optional[int] = None
    sparse_profile: Optional[tiles.SparseProfile] = None
    tile_mask: Any = None

    def __post_init__(self) -> None:
        lengths, rates = _config.patterns(self.segment_lengths, self.dilation_rates)
        self.segment_lengths, self.dilation_rates = list(lengths), list(rates)
        self.dropout = _config.probability("dropout", self.dropout)
        self.use_tf32 = _config.boolean("use_tf32", self.use_tf32)
        self.is_causal = _config.boolean("is_causal", self.is_causal)
        self.device, self.dtype = _device("device", self.device), _dtype("dtype", self.dtype)
        if self.softmax_scale is not None:
            self.softmax_scale = _config.real("softmax_scale", self.softmax_scale)
        if self.window is not None:
            self.window = _config.integer("window", self.window, 0)
        _config.one_of("preset", self.preset, _config.PRESETS)
        _config.one_of("partition", self.partition, _config.PARTITIONS)
        if self.stripe is not None:
            self.stripe = _config.integer("stripe", self.stripe, 0)
        self.process_group = checked_group(self.process_group)
        for name, allowed in CHOICES.items():
            if getattr(self, name) is not None:
                _config.one_of(name, getattr(self, name), allowed)
        for name, check in SPARSE.items():
            if getattr(self, name) is not None:
                setattr(self, name, check(name, getattr(self, name)))
        if self.tile_mask is not None:
            self.tile_mask = tiles.of_configuration(self.tile_mask)

    @property
    def num_groups(self) -> int:
        """Number of patterns."""
        return len(self.segment_lengths)

    @property
    def max_segment_length(self) -> int:
        return max(self.segment_lengths)

    def group_name(self) -> str:
        """The name of the group whose ranks hold parts of the tokens, now; "": this process holds all."""
        return name_for(self.process_group, self.implementation)

    def attention_arguments(self) -> dict[str, Any]:
        """The keyword arguments of functional.dilated_attention that do not depend on the call."""
        of_ranks = ("partition", "stripe", "process_group")
        names = ("softmax_scale", "window", "preset", *CHOICES, *of_ranks, "implementation", *SPARSE, "tile_mask")
        return {name: getattr(self, name) for name in names}


@dataclass
class SparseAttentionConfig(DilatedAttentionConfig):
    """A DilatedAttentionConfig for "block_sparse".

    pattern_type: another name of sparse_pattern, and `seed` of sparse_seed; enable_adaptive: True means the pattern
    "content". All three go into those fields."""

    implementation: str = "block_sparse"
    pattern_type: InitVar[Optional[str]] = None
    seed: InitVar[Optional[int]] = None
    enable_adaptive: InitVar[bool] = False

    def __post_init__(self, pattern_type: Any, seed: Any, enable_adaptive: Any) -> None:
        if _config.boolean("enable_adaptive", enable_adaptive) and pattern_type is None:
            pattern_type = "content"
        for name, other, value in (("sparse_pattern", "pattern_type", pattern_type), ("sparse_seed", "seed", seed)):
            if value is not None:
                if getattr(self, name) not in (None, value):
                    raise ValueError(f"{other} is {value!r} and {name} {getattr(self, name)!r}; allowed: one of them")
                setattr(self, name, value)
        super().__post_init__()


@dataclass
class SparsePatternConfig:
    """The tiles that "block_sparse" computes, apart from an attention's other settings: the argument `sparse_config` of
    BlockSparseDilatedAttention.

    pattern_type: "content", "local_window", ... (sparse_pattern of DilatedAttentionConfig); "adaptive" is "content".
    sparsity_ratio: the part of the tiles that is computed, in (0, 1]. block_size: tokens of a side of a tile.
    global_tokens: tokens that all see and that see all, rounded up to blocks; None: one block. seed: of what is drawn.
    quality_target, tile_mask: as in DilatedAttentionConfig."""

    pattern_type: str = "content"
    sparsity_ratio: float = 0.1
    block_size: int = _config.DEFAULT_BLOCK
    global_tokens: Optional[int] = None
    seed: int = 0
    quality_target: Optional[float] = None
    tile_mask: Any = None

    def __post_init__(self) -> None:
        self.pattern_type = _config.one_of(
            "pattern_type",
            "content" if self.pattern_type == "adaptive" else self.pattern_type,
            _config.SPARSE_PATTERNS,
        )
        self.sparsity_ratio = _config.fraction("sparsity_ratio", self.sparsity_ratio)
        self.block_size = _config.tile_block("block_size", self.block_size)
        self.seed = _config.integer("seed", self.seed, 0)
        if self.global_tokens is not None:
            self.global_tokens = _config.integer("global_tokens", self.global_tokens, 0)
        if self.quality_target is not None:
            self.quality_target = _config.fraction("quality_target", self.quality_target)

    def attention_options(self) -> dict[str, Any]:
        """The fields of DilatedAttentionConfig that say the same."""
        if self.tile_mask is not None:
            return {"tile_mask": self.tile_mask}
        return {
            "sparse_pattern": self.pattern_type,
            "sparsity_ratio": self.sparsity_ratio,
            "block_size": self.block_size,
            "sparse_seed": self.seed,
            "quality_target": self.quality_target,
            "global_blocks": None if self.global_tokens is None else -(-self.global_tokens // self.block_size),
        }


def sparse_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a block-sparse module by the names of DilatedAttentionConfig. `sparse_config`, a
    SparsePatternConfig or its fields in a dict, and `pattern_type` are what other packages call them; single options
    win over it."""
    options = dict(options)
    given = options.pop("sparse_config", None)
    if isinstance(given, dict):
        given = SparsePatternConfig(**given)
    if given is not None and not isinstance(given, SparsePatternConfig):
        raise TypeError(f"sparse_config is a {type(given).__name__}; allowed: SparsePatternConfig, dict")
    found = {} if given is None else given.attention_options()
    pattern = options.pop("pattern_type", None)
    if pattern is not None:
        found["sparse_pattern"] = "content" if pattern == "adaptive" else pattern
    return {**found, **{name: value for name, value in options.items() if value is not None or name not in found}}


@dataclass
class MultiheadConfig:
    """What a multihead module puts around the attention; docs/multihead.md has the formulas.

    embed_dim, num_heads: embed_dim is a multiple of num_heads; their ratio head_dim is at most 256.
    bias: the projections have one.
    layer_norm: a layer norm before the output projection (MAGNETO, arXiv:2210.06423): the parameter `norm`.
    layer_norm_eps: of all norms.
    gamma_init: gain of the initial value and output projections (MAGNETO, figure 2).
    device, dtype: of the parameters; None: PyTorch's defaults.
    kv_heads: None: num_heads; otherwise a divisor of it: heads of key and value.
    qk_layer_norm: layer norms of the projected query and key over their full width: the parameters `q_ln` and `k_ln`.
    position: "none", "rope" (arXiv:2104.09864), "xpos" (arXiv:2212.10554); the latter two need an even head_dim.
    rotary_layout: channels that are turned together: "adjacent" (2p, 2p + 1), "halves" (p, p + head_dim / 2).
    rope_base, xpos_scale_base: of the rotary encodings.
    """

    embed_dim: int
    num_heads: int
    bias: bool = True
    layer_norm: bool = True
    layer_norm_eps: float = 1e-5
    gamma_init: float = 1.0
    device: Device = None
    dtype: Optional[torch.dtype] = None
    kv_heads: Optional[int] = None
    qk_layer_norm: bool = False
    position: str = "none"
    rotary_layout: str = "adjacent"
    rope_base: float = 10000.0
    xpos_scale_base: float = 512.0

    def __post_init__(self) -> None:
        self.embed_dim = _config.integer("embed_dim", self.embed_dim, 1)
        self.num_heads = _config.integer("num_heads", self.num_heads, 1)
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim is {self.embed_dim}; allowed: multiples of num_heads, {self.num_heads}")
        if self.head_dim > MAX_HEAD_DIM:
            raise ValueError(f"embed_dim / num_heads is {self.head_dim}; allowed: 1 to {MAX_HEAD_DIM}")
        if self.kv_heads is not None:
            self.kv_heads = _config.integer("kv_heads", self.kv_heads, 1)
            if self.num_heads % self.kv_heads:
                raise ValueError(f"kv_heads is {self.kv_heads}; allowed: None, divisors of num_heads, {self.num_heads}")
        for name in ("bias", "layer_norm", "qk_layer_norm"):
            setattr(self, name, _config.boolean(name, getattr(self, name)))
        for name, least in (("layer_norm_eps", 0), ("gamma_init", 0), ("rope_base", 1), ("xpos_scale_base", 0)):
            value = _config.real(name, getattr(self, name))
            if value <= least:
                raise ValueError(f"{name} is {value}; allowed: finite numbers above {least}")
            setattr(self, name, value)
        self.device, self.dtype = _device("device", self.device), _dtype("dtype", self.dtype)
        _config.one_of("position", self.position, POSITIONS)
        _config.one_of("rotary_layout", self.rotary_layout, ROTARY_LAYOUTS)
        if self.position != "none" and self.head_dim % 2:
            raise ValueError(
                f"embed_dim / num_heads is {self.head_dim}; allowed with position {self.position!r}: even numbers"
            )

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def key_width(self) -> int:
        """Channels of the projected key, and of the value."""
        return (self.kv_heads or self.num_heads) * self.head_dim
