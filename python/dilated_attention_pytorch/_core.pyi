"""The extension: the C library, without checks of types beyond what keeps the process alive."""

from typing import Any, Optional, Protocol

# Address, data type (1: f32, 2: f64, 3: bf16, 4: f16), shape and strides in elements; (batch, n, heads, head_dim), and
# (batch, n, heads) for a logsumexp.
View = tuple[int, int, tuple[int, ...], tuple[int, ...]]

# segment_lengths, dilation_rates, causal, scale, window, mixing, offset_rule, tail_rule, overlap, partition,
# stripe, sparse_pattern, sparsity_ratio, block_size, quality_target, global_blocks, sparse_seed, sparse_profile,
# dropout
Options = tuple[
    tuple[int, ...],
    tuple[int, ...],
    bool,
    Optional[float],
    Optional[int],
    str,
    str,
    str,
    str,
    str,
    int,
    str,
    float,
    int,
    float,
    int,
    int,
    Optional["SparseProfile"],
    float,
]

# da_sparse_report: tiles_kept, tiles_all, pairs_kept, pairs_all, mass_kept, mass_error, sampled_queries, choose_seconds
Report = tuple[int, int, float, float, float, float, int, float]

# da_ranks_options: bandwidth, latency, overhead, forward_flops, backward_flops; None: the library's default
Rates = tuple[Optional[float], Optional[float], Optional[float], Optional[float], Optional[float]]

class Transport(Protocol):
    """What a Communicator calls; see _connection.py. An exception becomes RuntimeError on this rank."""

    def send(self, data: memoryview, to: int, tag: int, /) -> Any: ...
    def receive(self, data: memoryview, source: int, tag: int, /) -> Any: ...
    def wait(self, request: Any, seconds: float, /) -> bool: ...
    def cancel(self, request: Any, /) -> bool: ...
    def gather(self, mine: memoryview, everyone: memoryview, /) -> None: ...
    def abandon(self) -> None: ...

class Communicator:
    """A rank's connection to the others (da_comm): calls go to `transport`, with the interpreter's lock held, from the
    thread that called an Attention. `rates`: what is known of them (da_context_options.rates)."""

    def __new__(
        cls, rank: int, ranks: int, timeout: float, transport: Transport, rates: Optional[Rates] = None, /
    ) -> Communicator: ...

class TileMask:
    """Tiles (da_tile_mask). `counts` is the address of `rows` values of int32, the tiles of each row of tiles by batch,
    head and block of queries; `columns` that of `tiles` values of int32, their blocks of keys, ascending in each
    row."""

    def __new__(
        cls, batch: int, heads: int, n: int, block_size: int, rows: int, tiles: int, counts: int, columns: int, /
    ) -> TileMask: ...
    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """batch, heads, n, block_size, tiles."""

    def write(self, counts: int, columns: int, /) -> None:
        """The two arrays, to these addresses."""

class SparseProfile:
    """What each head needs (da_sparse_profile), from a file. ValueError: it holds no profile; OSError."""

    def __new__(cls, path: str, /) -> SparseProfile: ...
    @property
    def heads(self) -> list[tuple[str, float]]:
        """Each head's pattern and ratio."""

    @property
    def info(self) -> tuple[int, float]:
        """The block_size that it was found with, and the quality_target that it was made for."""

    def save(self, path: str, /) -> None: ...

class Attention:
    """A handle. Calls release the interpreter's lock, and any number of threads may use one handle at once.

    `threads` is 0 for one per core. With a `communicator`, all ranks create it together and make its calls together,
    with views of their parts; RuntimeError where another rank failed. ValueError for what the library refuses: the
    message names argument, value and what is allowed.
    """

    def __new__(
        cls, implementation: str, options: Options, threads: int, communicator: Optional[Communicator] = None, /
    ) -> Attention: ...
    @property
    def implementation(self) -> str: ...
    def forward(
        self,
        query: View,
        key: View,
        value: View,
        out: View,
        lse: Optional[View],
        key_lengths: Optional[int],
        seed: Optional[int],
        tiles: Optional[TileMask] = None,
        /,
    ) -> None:
        """Writes `out` and, where it is given, `lse`. `key_lengths` is the address of batch values of int64. With a
        `seed` the options' dropout is applied. `tiles`: of block_sparse, in place of those that it would choose."""

    def backward(
        self,
        query: View,
        key: View,
        value: View,
        out: View,
        lse: View,
        grad_out: View,
        grad_lse: Optional[View],
        grad_query: Optional[View],
        grad_key: Optional[View],
        grad_value: Optional[View],
        key_lengths: Optional[int],
        seed: Optional[int],
        tiles: Optional[TileMask] = None,
        /,
    ) -> None:
        """Writes those of the three gradients that are given."""

    def tiles(
        self,
        query: View,
        key: View,
        key_lengths: Optional[int],
        report: bool,
        tiles: Optional[TileMask] = None,
        /,
    ) -> tuple[TileMask, Optional[Report]]:
        """The tiles that block_sparse computes, those that are given among them, and what they are of the pattern."""

def version() -> str: ...
def implementations() -> list[str]: ...
def info(name: str, /) -> dict[str, Any]:
    """name, description, best_for, memory, features, dtypes, built_in, available, reason (why not available), backward.
    ValueError for an unknown name."""

def hardware() -> dict[str, Any]:
    """cpu_name, architecture, cores, isa, l1_cache, l2_cache, l3_cache, memory, gpus, gpu_note."""

def explain(options: Options, batch: int, n: int, heads: int, kv_heads: int, head_dim: int, dtype: str, /) -> str: ...
def find_profile(
    options: Options,
    threads: int,
    query: View,
    key: View,
    key_lengths: Optional[int],
    quality_target: float,
    /,
) -> SparseProfile:
    """What each head needs to keep so much of the attention of sample data. ValueError."""

def partition_rows(partition: str, stripe: int, n: int, ranks: int, rank: int, address: Optional[int], /) -> int:
    """The number of rows of n that a rank holds; at `address`, if there is one, their positions are written as
    int64."""

def _after_fork() -> None: ...
