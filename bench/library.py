"""The C library by ctypes: context, configuration, attention, and the forward pass on NumPy or PyTorch memory."""
from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, byref, c_bool, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from pathlib import Path

import numpy as np

DTYPES = {"float32": 1, "float64": 2, "bfloat16": 3, "float16": 4}
PRESETS = {"longnet": 0, "torchscale": 1, "head_groups": 2}
MAX_PATTERNS = 64


class Tensor(Structure):
    _fields_ = [("data", c_void_p), ("dtype", c_int), ("shape", c_int64 * 4), ("stride", c_int64 * 4)]


class Tuning(Structure):
    _fields_ = [("unit", c_int64), ("block_keys", c_int), ("threads", c_int)]


class Config(Structure):
    _fields_ = [("size", c_size_t),
                ("segment_count", c_size_t), ("segment_lengths", c_int64 * MAX_PATTERNS),
                ("rate_count", c_size_t), ("dilation_rates", c_int64 * MAX_PATTERNS),
                ("dropout", c_double), ("use_tf32", c_bool), ("scale_is_set", c_bool), ("scale", c_double),
                ("causal", c_bool), ("window", c_int64), ("mixing", c_int), ("offset_rule", c_int),
                ("tail_rule", c_int), ("overlap", c_int), ("dtype", c_int), ("device", c_int),
                ("sequence_length", c_int64), ("tuning", Tuning), ("partition", c_int), ("stripe", c_int64),
                ("split", c_int), ("sparse_pattern", c_int), ("sparsity_ratio", c_double), ("block_size", c_int64),
                ("quality_target", c_double), ("global_blocks", c_int64), ("sparse_seed", c_uint64),
                ("tile_mask", c_void_p), ("sparse_profile", c_void_p)]


class BackwardTensors(Structure):
    _fields_ = [("size", c_size_t)] + [(name, c_void_p) for name in (
        "query", "key", "value", "out", "lse", "grad_out", "grad_lse", "grad_query", "grad_key", "grad_value")]


class Allocator(Structure):
    _fields_ = [("allocate", c_void_p), ("release", c_void_p), ("user", c_void_p)]


class ContextOptions(Structure):
    _fields_ = [("size", c_size_t), ("threads", c_int), ("isa", c_int), ("allocator", Allocator),
                ("hardware", c_void_p), ("plans", c_void_p), ("comm", c_void_p), ("rates", c_void_p)]


class ProblemSize(Structure):
    _fields_ = [("size", c_size_t), ("batch", c_int64), ("n", c_int64), ("heads", c_int64), ("kv_heads", c_int64),
                ("head_dim", c_int64), ("dtype", c_int)]


class SparseReport(Structure):
    _fields_ = [("size", c_size_t), ("tiles_kept", c_int64), ("tiles_all", c_int64), ("pairs_kept", c_double),
                ("pairs_all", c_double), ("mass_kept", c_double), ("mass_error", c_double), ("sampled_queries", c_int64),
                ("choose_seconds", c_double), ("report_seconds", c_double)]


class CallOptions(Structure):
    _fields_ = [("size", c_size_t), ("key_lengths", c_void_p), ("key_mask", c_void_p), ("key_mask_stride", c_int64 * 2),
                ("progress", c_void_p), ("progress_user", c_void_p), ("training", c_bool), ("dropout_seed", c_uint64),
                ("block", c_int64), ("query_first", c_int64), ("query_end", c_int64), ("release", c_void_p),
                ("release_user", c_void_p), ("tiles", c_void_p), ("sparse_report", c_void_p)]


class TileMaskInfo(Structure):
    _fields_ = [("size", c_size_t), ("batch", c_int64), ("heads", c_int64), ("n", c_int64), ("block_size", c_int64),
                ("blocks", c_int64), ("tiles", c_int64), ("row_starts", POINTER(c_int64)), ("columns", POINTER(c_int32))]


class Alternative(Structure):
    _fields_ = [("name", c_char_p), ("available", c_bool), ("note", c_char_p), ("workspace_bytes", c_size_t),
                ("estimated_seconds", c_double)]


SIGNATURES = {
    "da_version": (c_char_p, []),
    "da_last_error_message": (c_char_p, []),
    "da_context_options_init": (None, [POINTER(ContextOptions)]),
    "da_context_create": (c_int, [POINTER(ContextOptions), POINTER(c_void_p)]),
    "da_context_free": (None, [c_void_p]),
    "da_context_threads": (c_int, [c_void_p]),
    "da_context_isa": (c_int, [c_void_p]),
    "da_isa_name": (c_char_p, [c_int]),
    "da_attention_config_init": (None, [POINTER(Config)]),
    "da_attention_config_set_patterns": (c_int, [POINTER(Config), POINTER(c_int64), c_size_t, POINTER(c_int64),
                                                 c_size_t]),
    "da_attention_config_set_preset": (c_int, [POINTER(Config), c_int]),
    "da_attention_create": (c_int, [c_void_p, c_char_p, POINTER(Config), POINTER(c_void_p)]),
    "da_attention_free": (None, [c_void_p]),
    "da_attention_forward": (c_int, [c_void_p] + [POINTER(Tensor)] * 5 + [c_void_p]),
    "da_backward_tensors_init": (None, [POINTER(BackwardTensors)]),
    "da_attention_backward": (c_int, [c_void_p, POINTER(BackwardTensors), c_void_p]),
    "da_call_options_init": (None, [POINTER(CallOptions)]),
    "da_sparse_report_init": (None, [POINTER(SparseReport)]),
    "da_sparse_pattern_from_name": (c_int, [c_char_p, POINTER(c_int)]),
    "da_attention_tiles": (c_int, [c_void_p, POINTER(Tensor), POINTER(Tensor), c_void_p, POINTER(c_void_p),
                                   POINTER(SparseReport)]),
    "da_tile_mask_create": (c_int, [c_void_p, c_int64, c_int64, c_int64, c_int64, c_void_p, POINTER(c_void_p)]),
    "da_tile_mask_free": (None, [c_void_p]),
    "da_sparse_profile_create": (c_int, [c_void_p, POINTER(Config), POINTER(Tensor), POINTER(Tensor), c_void_p, c_double,
                                         POINTER(c_void_p)]),
    "da_sparse_profile_free": (None, [c_void_p]),
    "da_tile_mask_info_init": (None, [POINTER(TileMaskInfo)]),
    "da_tile_mask_get_info": (c_int, [c_void_p, POINTER(TileMaskInfo)]),
    "da_problem_init": (None, [POINTER(ProblemSize)]),
    "da_attention_workspace": (c_int, [c_void_p, POINTER(ProblemSize), POINTER(c_size_t)]),
    "da_explain": (c_int, [c_void_p, POINTER(Config), POINTER(ProblemSize), POINTER(c_void_p)]),
    "da_explanation_free": (None, [c_void_p]),
    "da_explanation_alternative_count": (c_size_t, [c_void_p]),
    "da_explanation_alternative": (c_int, [c_void_p, c_size_t, POINTER(Alternative)]),
    "da_implementation_count": (c_size_t, []),
    "da_implementation_name": (c_char_p, [c_size_t]),
}


class LibraryError(Exception):
    """What da_last_error_message() says."""


def tensor_view(array) -> Tensor:
    """A view of a NumPy array or PyTorch tensor of shape (batch, heads, n, head_dim), PyTorch's order."""
    if hasattr(array, "data_ptr"):
        address, strides = array.data_ptr(), array.stride()
    else:
        address, strides = array.ctypes.data, [s // array.itemsize for s in array.strides]
    batch, heads, n, head_dim = array.shape
    dtype = DTYPES[str(array.dtype).removeprefix("torch.")]
    ours = [strides[0], strides[2], strides[1], strides[3]]
    return Tensor(address, dtype, (c_int64 * 4)(batch, n, heads, head_dim), (c_int64 * 4)(*ours))


class Library:
    def __init__(self, path: Path, signatures=None):
        self.c = ctypes.CDLL(str(path))
        for name, (result, arguments) in (SIGNATURES if signatures is None else signatures).items():
            function = getattr(self.c, name)
            function.restype, function.argtypes = result, arguments

    def check(self, status: int) -> None:
        if status != 0:
            raise LibraryError(self.c.da_last_error_message().decode())

    def initialised(self, kind, init):
        """A struct filled by the library, whose size must be the one declared here."""
        struct = kind()
        init(byref(struct))
        if struct.size != ctypes.sizeof(struct):
            raise LibraryError(f"{kind.__name__} has {struct.size} bytes in the library, {ctypes.sizeof(struct)} here")
        return struct

    def configuration(self, segments, rates, causal: bool, preset: str) -> Config:
        config = self.initialised(Config, self.c.da_attention_config_init)
        self.check(self.c.da_attention_config_set_patterns(
            byref(config), (c_int64 * len(segments))(*segments), len(segments), (c_int64 * len(rates))(*rates),
            len(rates)))
        self.check(self.c.da_attention_config_set_preset(byref(config), PRESETS[preset]))
        config.causal = causal
        return config

    def size_of(self, problem) -> ProblemSize:
        size = self.initialised(ProblemSize, self.c.da_problem_init)
        size.batch, size.n, size.heads, size.head_dim = problem.batch, problem.n, problem.heads, problem.head_dim
        size.dtype = DTYPES[problem.dtype]
        return size

    @property
    def version(self) -> str:
        return self.c.da_version().decode()

    def implementations(self) -> list[str]:
        return [self.c.da_implementation_name(i).decode() for i in range(self.c.da_implementation_count())]


class Context:
    def __init__(self, library: Library, threads: int):
        self.library, self.handle = library, c_void_p()
        options = library.initialised(ContextOptions, library.c.da_context_options_init)
        options.threads = threads
        library.check(library.c.da_context_create(byref(options), byref(self.handle)))

    @property
    def isa(self) -> str:
        return self.library.c.da_isa_name(self.library.c.da_context_isa(self.handle)).decode()

    def estimate(self, implementation: str, problem) -> float:
        """Seconds of a forward pass, by the planner's model; the first one calibrates it."""
        c, explanation, other = self.library.c, c_void_p(), Alternative()
        config = self.library.configuration(problem.segments, problem.rates, problem.causal, problem.preset)
        self.library.check(c.da_explain(self.handle, byref(config), byref(self.library.size_of(problem)),
                                        byref(explanation)))
        found = {}
        for index in range(c.da_explanation_alternative_count(explanation)):
            self.library.check(c.da_explanation_alternative(explanation, index, byref(other)))
            found[other.name.decode()] = other.estimated_seconds
        c.da_explanation_free(explanation)
        return found[implementation]

    def __del__(self):
        self.library.c.da_context_free(self.handle)


class TileMask:
    """Owns a da_tile_mask."""

    def __init__(self, library: Library, handle: c_void_p):
        self.library, self.handle = library, handle

    @classmethod
    def of(cls, library: Library, kept: np.ndarray, n: int, block_size: int) -> TileMask:
        """From a Boolean array (batch, heads, blocks, blocks)."""
        kept, handle = np.ascontiguousarray(kept, np.uint8), c_void_p()
        library.check(library.c.da_tile_mask_create(None, *kept.shape[:2], n, block_size, kept.ctypes.data, byref(handle)))
        return cls(library, handle)

    def array(self) -> np.ndarray:
        """The same, back."""
        info = self.library.initialised(TileMaskInfo, self.library.c.da_tile_mask_info_init)
        self.library.check(self.library.c.da_tile_mask_get_info(self.handle, byref(info)))
        rows = info.batch * info.heads * info.blocks
        starts = np.ctypeslib.as_array(info.row_starts, (rows + 1,))
        kept = np.zeros((rows, info.blocks), bool)
        if info.tiles:
            kept[np.repeat(np.arange(rows), np.diff(starts)), np.ctypeslib.as_array(info.columns, (info.tiles,))] = True
        return kept.reshape(info.batch, info.heads, info.blocks, info.blocks)

    def __del__(self):
        self.library.c.da_tile_mask_free(self.handle)


class SparseProfile:
    """Owns a da_sparse_profile, found on sample data for the configuration of an attention."""

    def __init__(self, attention: Attention, query, key, target: float):
        self.library, self.handle = attention.library, c_void_p()
        self.library.check(self.library.c.da_sparse_profile_create(
            attention.context.handle, byref(attention.config), byref(tensor_view(query)), byref(tensor_view(key)), None, target,
            byref(self.handle)))

    def __del__(self):
        self.library.c.da_sparse_profile_free(self.handle)


class Attention:
    def __init__(self, context: Context, implementation: str, segments, rates, *, causal=False, preset="longnet", more=None):
        """`more`: further fields of the configuration, by name; a TileMask or SparseProfile may be among the values."""
        self.context, self.handle, self.more = context, c_void_p(), more  # what is borrowed lives as long as this
        self.library = context.library
        config = self.config = self.library.configuration(segments, rates, causal, preset)
        for name, value in (more or {}).items():
            setattr(config, name, value.handle if isinstance(value, (TileMask, SparseProfile)) else value)
        self.library.check(self.library.c.da_attention_create(context.handle, implementation.encode(), byref(config),
                                                              byref(self.handle)))

    def __del__(self):
        self.library.c.da_attention_free(self.handle)

    def workspace(self, problem) -> int:
        """Bytes that a forward pass allocates for a problem (see problems.py)."""
        size, found = self.library.size_of(problem), c_size_t()
        self.library.check(self.library.c.da_attention_workspace(self.handle, byref(size), byref(found)))
        return found.value

    def forward(self, query, key, value, out, lse=None, tiles=None):
        """A function without arguments that computes `out` (and `lse`) and returns it; views are made here, once. `tiles`: a
        TileMask, for `block_sparse`."""
        function, check = self.library.c.da_attention_forward, self.library.check
        views = [tensor_view(x) for x in (query, key, value, out)]
        options = self.library.initialised(CallOptions, self.library.c.da_call_options_init)
        options.tiles = None if tiles is None else tiles.handle
        arguments = (self.handle, *map(byref, views), None if lse is None else byref(tensor_view(lse)), byref(options))

        def run(_keep=(self, query, key, value, lse, options, tiles)):
            check(function(*arguments))
            return out
        return run

    def tiles(self, query, key) -> tuple[TileMask, SparseReport]:
        """Those that `block_sparse` computes in a call, and what it says of them."""
        found, report = c_void_p(), self.library.initialised(SparseReport, self.library.c.da_sparse_report_init)
        self.library.check(self.library.c.da_attention_tiles(
            self.handle, byref(tensor_view(query)), byref(tensor_view(key)), None, byref(found), byref(report)))
        return TileMask(self.library, found), report

    def backward(self, query, key, value, out, lse, grad_out, gradients):
        """The same for the gradients of query, key and value, which are given as a list."""
        function, check = self.library.c.da_attention_backward, self.library.check
        views = [tensor_view(x) for x in (query, key, value, out, lse, grad_out, *gradients)]
        tensors = self.library.initialised(BackwardTensors, self.library.c.da_backward_tensors_init)
        names = ("query", "key", "value", "out", "lse", "grad_out", "grad_query", "grad_key", "grad_value")
        for name, view in zip(names, views):
            setattr(tensors, name, ctypes.addressof(view))

        def run(_keep=(self, views, query, key, value, out, lse, grad_out)):
            check(function(self.handle, byref(tensors), None))
            return gradients
        return run
