"""The extension: the C library, without checks of types beyond what keeps the process alive."""

from typing import Any, Optional

# Address, data type (1: f32, 2: f64, 3: bf16, 4: f16), shape and strides in elements; (batch, n, heads, head_dim), and
# (batch, n, heads) for a logsumexp.
View = tuple[int, int, tuple[int, ...], tuple[int, ...]]

# segment_lengths, dilation_rates, causal, scale, window, mixing, offset_rule, tail_rule, overlap, partition,
# stripe, dropout
Options = tuple[
    tuple[int, ...], tuple[int, ...], bool, Optional[float], Optional[int], str, str, str, str, str, int, float
]

class Attention:
    """A handle. Calls release the interpreter's lock, and any number of threads may use one handle at once.

    `threads` is 0 for one per core. ValueError for what the library refuses: the message names argument, value and what
    is allowed.
    """

    def __new__(cls, implementation: str, options: Options, threads: int, /) -> Attention: ...
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
        /,
    ) -> None:
        """Writes `out` and, where it is given, `lse`. `key_lengths` is the address of batch values of int64. With a
        `seed` the options' dropout is applied."""

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
        /,
    ) -> None:
        """Writes those of the three gradients that are given."""

def version() -> str: ...
def implementations() -> list[str]: ...
def info(name: str, /) -> dict[str, Any]:
    """name, description, best_for, memory, features, dtypes, built_in, available, reason (why not available), backward.
    ValueError for an unknown name."""

def hardware() -> dict[str, Any]:
    """cpu_name, architecture, cores, isa, l1_cache, l2_cache, l3_cache, memory, gpus, gpu_note."""

def explain(
    options: Options, batch: int, n: int, heads: int, kv_heads: int, head_dim: int, dtype: str, /
) -> str: ...
def _after_fork() -> None: ...
