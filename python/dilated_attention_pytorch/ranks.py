"""Many ranks of torch.distributed, one attention: each holds a part of the sequence's tokens. docs/python-ranks.md.

Messages are sent by PyTorch over gloo, in a group of their own, so that they meet none of the program's. Gradients are
those of the sum of all ranks' losses.
"""

from __future__ import annotations

import re
import weakref
from datetime import timedelta
from typing import Any, Optional, Union

import torch
import torch.distributed as dist
from torch import Tensor

from . import _config, _core
from ._connection import Connection, Transport

Group = Union["dist.ProcessGroup", str, bool, None]

# Implementations that take a rank's part of the tokens.
TAKE_PARTS = ("ring", "distributed")
_TAG_OF_NO_MESSAGE = 1024  # the library's are below
_DEFAULT_TIMEOUT = 1800.0  # seconds, PyTorch's


# ---- groups --------------------------------------------------------------------------------------------------------


def _is_initialised() -> bool:
    return dist.is_available() and dist.is_initialized()


def _resolve(process_group: Group) -> Optional[dist.ProcessGroup]:
    """The group that an argument means; None: this process alone."""
    if process_group is False:
        return None
    if process_group is None:
        return dist.group.WORLD if _is_initialised() else None
    if isinstance(process_group, str):
        if not _is_initialised():
            raise ValueError(f"process_group is {process_group!r}, and torch.distributed is not initialised")
        try:
            resolve: Any = getattr(dist.distributed_c10d, "_resolve_process_group")  # noqa: B009, it is not exported
            found: dist.ProcessGroup = resolve(process_group)
            return found
        except (RuntimeError, ValueError, KeyError):
            raise ValueError(f"process_group is {process_group!r}; allowed: the name of a group that exists") from None
    if process_group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("process_group is a group without this rank; allowed: groups that it is a member of")
    if not dist.is_available() or not isinstance(process_group, dist.ProcessGroup):
        raise TypeError(
            f"process_group is {process_group!r}; allowed: a ProcessGroup or its name, None (the default group where "
            "torch.distributed is initialised), False (this process alone)"
        )
    return process_group


def size_of(process_group: Group = None) -> int:
    """The number of a group's ranks; 1 without one."""
    group = _resolve(process_group)
    return 1 if group is None else group.size()


def checked(process_group: Any) -> Group:
    """What a configuration keeps of the argument: names can be copied and stored, groups cannot."""
    group = None if process_group is None or process_group is False else _resolve(process_group)
    return process_group if group is None else str(group.group_name)


def name_for(process_group: Group, implementation: object) -> str:
    """The name of the group that computes together; "": this process computes alone.

    Where no group is given, "ring" and "distributed" mean the default group, and all others this process."""
    if process_group is None and implementation not in TAKE_PARTS:
        return ""
    name: str = _name_for(process_group, implementation)
    return name


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _name_for(process_group: Group, implementation: object) -> str:
    group = _resolve(process_group)
    if group is None or group.size() == 1:
        return ""
    if implementation not in (*TAKE_PARTS, "auto"):
        raise ValueError(
            f"implementation is {implementation!r}, with a process_group of {group.size()} ranks, each of which holds "
            f"a part of the tokens; allowed: {', '.join(map(repr, TAKE_PARTS))}, 'auto'"
        )
    return str(group.group_name)


# ---- transport -----------------------------------------------------------------------------------------------------


def _bytes(data: memoryview) -> Tensor:
    """The memory as a tensor. gloo has no messages of 0 bytes, which are sent as one."""
    return torch.frombuffer(data, dtype=torch.uint8) if len(data) > 0 else torch.zeros(1, dtype=torch.uint8)


def _shortened(error: Exception) -> str:
    """gloo's message without its place in the sources and its advice."""
    return re.sub(r"^\[\S+\] *", "", str(error)).split(". This is typically")[0]


class _Gloo(Transport):
    """PyTorch's send and receive on CPU tensors. gloo moves messages on a thread of its own. A wait of gloo's that runs
    out closes the connections to all other ranks, so that nothing is waited for but for the whole timeout."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        seconds = _timeout_of(group)
        super().__init__(group.rank(), group.size(), seconds)
        self._group = dist.new_group(
            dist.get_process_group_ranks(group),
            timeout=timedelta(seconds=seconds),
            backend="gloo",
            use_local_synchronization=True,
        )
        self._abandoned = False

    def send(self, data: memoryview, to: int, tag: int) -> Any:
        return dist.isend(_bytes(data), group=self._group, group_dst=to, tag=tag)

    def receive(self, data: memoryview, source: int, tag: int) -> Any:
        return dist.irecv(_bytes(data), group=self._group, group_src=source, tag=tag)

    def wait(self, request: Any, seconds: float) -> bool:
        if seconds > 0:
            self._end(request, seconds)
        return seconds > 0

    def _end(self, work: Any, seconds: float) -> None:
        try:
            work.wait(timedelta(seconds=seconds))
        except RuntimeError as error:
            raise RuntimeError(_shortened(error)) from None

    def cancel(self, request: Any) -> bool:
        return False  # nothing can be cancelled

    def abandon(self) -> None:
        if self._abandoned:
            return
        self._abandoned = True
        try:
            never = torch.zeros(1, dtype=torch.uint8)
            peer = (self.rank + 1) % self.ranks
            work: Any = dist.irecv(never, group=self._group, group_src=peer, tag=_TAG_OF_NO_MESSAGE)
            work.wait(timedelta(milliseconds=1))  # which closes the connections
        except RuntimeError:
            pass

    def all_gather(self, mine: memoryview, everyone: memoryview) -> None:
        parts = list(_bytes(everyone).chunk(self.ranks))
        work = dist.all_gather(parts, _bytes(mine), group=self._group, async_op=True)
        self._end(work, self.timeout)


def _timeout_of(group: dist.ProcessGroup) -> float:
    """A group's own timeout."""
    for kind in ("cpu", "cuda"):
        try:
            return float(group._get_backend(torch.device(kind)).options._timeout.total_seconds())
        except (RuntimeError, AttributeError):
            pass
    return _DEFAULT_TIMEOUT


_connections: dict[str, tuple[weakref.ref[Any], Connection]] = {}


def connection(name: str) -> Connection:
    """The connection of the group of that name; made, which all its ranks do together, when it is first asked for."""
    group = _resolve(name)
    found = _connections.get(name)
    if found is None or found[0]() is not group:
        if group is None:
            raise ValueError(f"process_group is {name!r}; allowed: the name of a group of several ranks")
        found = (weakref.ref(group), Connection(_Gloo(group)))
        _connections[name] = found
    return found[1]


def refuse(name: str, error: BaseException) -> None:
    """Tells the ranks of the group of that name, if they are connected, that this one does not make a call."""
    found = _connections.get(name)
    if found is not None and found[0]() is _resolve(name):
        found[1].refuse(error)


# ---- who holds what ------------------------------------------------------------------------------------------------


def _partition(partition: object, stripe: object) -> tuple[str, int]:
    kind = _config.one_of("partition", partition, _config.PARTITIONS)
    return kind, 0 if stripe is None else _config.integer("stripe", stripe, 0)


def _rows(partition: str, stripe: int, n: int, ranks: int, rank: int) -> Tensor:
    """Positions of a rank's rows in a sequence of n."""
    length = _core.partition_rows(partition, stripe, n, ranks, rank, None)
    rows = torch.empty(length, dtype=torch.int64)
    if length > 0:
        _core.partition_rows(partition, stripe, n, ranks, rank, rows.data_ptr())
    return rows


def _rows_of_lengths(partition: str, stripe: int, lengths: list[int], rank: int) -> Tensor:
    """The same, from how many rows each rank has: a contiguous partition may be uneven."""
    if partition == "contiguous":
        first = sum(lengths[:rank])
        return torch.arange(first, first + lengths[rank])
    rows = _rows(partition, stripe, sum(lengths), len(lengths), rank)
    if len(rows) != lengths[rank]:
        raise ValueError(
            f"rank {rank} has {lengths[rank]} rows; allowed: {len(rows)}, its part of {sum(lengths)} with partition "
            f"{partition!r}"
        )
    return rows


def _gathered_lengths(link: Connection, n: int) -> list[int]:
    return [length for (length,) in link.gather(n)]


_library = torch.library.Library("dilated_attention", "FRAGMENT")
_library.define("rank_positions(Tensor x, int n, str group, str partition, int stripe) -> Tensor")


def _rank_positions(x: Tensor, n: int, group: str, partition: str, stripe: int) -> Tensor:
    link = connection(group)
    with link.collective():
        lengths = _gathered_lengths(link, n)
        rows = _rows_of_lengths(partition, stripe, lengths, link.rank)
    return torch.cat((rows, torch.tensor([sum(lengths)]))).to(x.device)


def _fake_positions(x: Tensor, n: int, group: str, partition: str, stripe: int) -> Tensor:
    return x.new_empty((n + 1,), dtype=torch.int64)


torch.library.impl("dilated_attention::rank_positions", "CompositeExplicitAutograd", _rank_positions, lib=_library)
torch.library.register_fake("dilated_attention::rank_positions", _fake_positions, lib=_library)


def positions_and_length(x: Tensor, n: int, group: str, partition: str, stripe: Optional[int]) -> Tensor:
    """The positions of this rank's n rows in the whole sequence, and behind them that sequence's length. Collective."""
    found: Tensor = torch.ops.dilated_attention.rank_positions(x, n, group, partition, stripe or 0)
    return found


def whole_key_lengths(hidden: Tensor, group: str, partition: str, stripe: Optional[int]) -> Tensor:
    """Key lengths of whole sequences from a (batch, n) mask of this rank's rows, True where a key is hidden: a suffix
    of each whole sequence. Collective."""
    link = connection(group)
    batch, n = hidden.shape
    with link.collective():
        told = link.gather(n, *(int(k) for k in (~hidden).sum(1)))
        rows = _rows_of_lengths(partition, stripe or 0, [numbers[0] for numbers in told], link.rank)
        lengths = torch.tensor([sum(numbers[1 + b] for numbers in told) for b in range(batch)], dtype=torch.int64)
        if not torch.equal(hidden, rows >= lengths[:, None]):
            raise ValueError(
                "key_padding_mask hides a key before one that it does not; allowed: masks that hide a suffix of each "
                "whole sequence (padding at the end), since tokens keep their places in the segments"
            )
    return lengths


# ---- cutting and joining -------------------------------------------------------------------------------------------


def shard_sequence(
    x: Tensor,
    process_group: Group = None,
    *,
    partition: str = "contiguous",
    stripe: Optional[int] = None,
    dim: int = 1,
) -> Tensor:
    """This rank's part of a tensor that holds the whole sequence along `dim`, in the order of the positions.

    process_group, partition, stripe: as of dilated_attention. Without several ranks: x itself. Nothing is sent; the
    gradient is that of the rank's part, and 0 elsewhere."""
    group = _resolve(process_group)
    kind, block = _partition(partition, stripe)
    if group is None or group.size() == 1:
        return x
    rows = _rows(kind, block, x.shape[dim], group.size(), group.rank())
    return x.index_select(dim, rows.to(x.device))


class _Unshard(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, partition: str, stripe: int, dim: int) -> Tensor:
        ranks, rank = group.size(), group.rank()
        told = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(ranks)]
        dist.all_gather(told, torch.tensor([x.shape[dim]], device=x.device), group=group)
        lengths = [int(length) for length in told]
        rows = [_rows_of_lengths(partition, stripe, lengths, k).to(x.device) for k in range(ranks)]
        mine = x.movedim(dim, 0)
        padded = mine.new_zeros((max(lengths), *mine.shape[1:]))
        padded[: lengths[rank]] = mine
        parts = [torch.empty_like(padded) for _ in range(ranks)]
        dist.all_gather(parts, padded, group=group)
        whole = mine.new_empty((sum(lengths), *mine.shape[1:]))
        for part, at, length in zip(parts, rows, lengths):
            whole[at] = part[:length]
        ctx.group, ctx.rows, ctx.dim = group, rows[rank], dim
        return whole.movedim(0, dim).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        total = grad.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total.index_select(ctx.dim, ctx.rows), None, None, None, None


def unshard_sequence(
    x: Tensor,
    process_group: Group = None,
    *,
    partition: str = "contiguous",
    stripe: Optional[int] = None,
    dim: int = 1,
) -> Tensor:
    """The whole sequence along `dim`, on every rank, from the parts of all; the inverse of shard_sequence. Collective.

    Parts of a contiguous partition may be of any lengths. The gradient is that of the sum of all ranks' losses: where
    every rank computes the same loss of the whole, it counts as many times as there are ranks."""
    group = _resolve(process_group)
    kind, block = _partition(partition, stripe)
    if group is None or group.size() == 1:
        return x
    whole: Tensor = _Unshard.apply(x, group, kind, block, dim % x.dim())  # type: ignore[no-untyped-call]
    return whole
