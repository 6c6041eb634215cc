"""What is known of the ranks that compute together, and of the network between them."""

from __future__ import annotations

from typing import Any, Optional

from . import _config, _core


def _number(name: str, value: object, zero_is_allowed: bool) -> Optional[float]:
    """None, or a finite number; TypeError, ValueError."""
    if value is None:
        return None
    least = "of at least 0" if zero_is_allowed else "above 0"
    try:
        number = _config.real(name, value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; allowed: a finite number {least}, or None") from None
    except ValueError:
        number = -1.0
    if number < 0 or (number == 0 and not zero_is_allowed):
        raise ValueError(f"{name} is {value}; allowed: a finite number {least}")
    return number


def set_rank_rates(
    process_group: Any = None,
    *,
    comm: Any = None,
    network_bandwidth: Optional[float] = None,
    network_latency: Optional[float] = None,
    network_overhead: Optional[float] = None,
    forward_flops: Optional[float] = None,
    backward_flops: Optional[float] = None,
) -> None:
    """What is known of a group's ranks and of the network between them: by it "distributed" chooses whether a call
    divides tokens or heads. docs/ranks-plan.md has the model.

    All ranks make the call, between two calls of an attention; it holds for those that follow. Each rank gives its own
    figures, and the slowest rank decides. A call replaces all that an earlier one gave.

    process_group: of dilated_attention; None is the default group. comm: an mpi4py communicator in its place.
    network_bandwidth: bytes a second that a rank receives and, at the same time, sends (None: 25e9).
    network_latency: seconds that a message takes beyond its bytes (5e-6). network_overhead: seconds of a rank's own
    time for each message (1e-6).
    forward_flops, backward_flops: floating-point operations a second that a rank does for the pairs of a query and a
    key in each pass (1e11; backward those of forward).

    Where no other rank computes with this one, nothing changes. Raises TypeError for an argument of the wrong kind and
    ValueError for a value that is not allowed.
    """
    rates: _core.Rates = (
        _number("network_bandwidth", network_bandwidth, False),
        _number("network_latency", network_latency, True),
        _number("network_overhead", network_overhead, True),
        _number("forward_flops", forward_flops, False),
        _number("backward_flops", backward_flops, False),
    )
    if comm is not None:
        if process_group is not None:
            raise TypeError(f"process_group is {process_group!r}, and comm is given; allowed: one of them")
        from . import _mpi

        _mpi.connection(comm).know(rates)
        return
    try:
        from . import ranks
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise TypeError(
            f"process_group is {process_group!r}, and PyTorch is not installed; allowed: comm, for arrays"
        ) from None
    group = ranks.name_for(process_group, "distributed")
    if group:
        ranks.connection(group).know(rates)
