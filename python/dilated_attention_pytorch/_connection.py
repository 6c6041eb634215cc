"""A rank's connection to the others of its group, whatever carries the messages: PyTorch (ranks.py), MPI (_mpi.py).

Collective calls are those that every rank of the group makes, in the same order. Whatever happens to one rank, the
others end in bounded time with RuntimeError: none waits longer than `timeout` seconds for another. After an error, on
whichever rank, the connection is of no further use.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Callable, Optional

from . import _core
from ._config import Options, for_core

FRAME = 512  # bytes: a message of ranks that gather begins with its length, and holds the rest where that fits
_LENGTH = 8
_LONGEST_TOTAL = 100_000  # tokens, as the guide has it: beyond, "auto" is "ring"


def choose(tokens: int) -> str:
    """What "auto" is over several ranks, which hold so many tokens together: the guide's rules, without those for one
    process, since those implementations would take a rank's part for the whole sequence."""
    return "ring" if tokens > _LONGEST_TOTAL else "distributed"


class Transport(ABC):
    """What _core.Communicator calls. Methods raise an exception where a message is lost or another rank is gone.

    Memory of the library is handed over as a memoryview, and stays as it is until the request has ended."""

    def __init__(self, rank: int, ranks: int, timeout: float) -> None:
        self.rank, self.ranks, self.timeout = rank, ranks, timeout

    @abstractmethod
    def send(self, data: memoryview, to: int, tag: int) -> Any:
        """Begins to send, and returns a request."""

    @abstractmethod
    def receive(self, data: memoryview, source: int, tag: int) -> Any:
        """Begins to receive, and returns a request."""

    @abstractmethod
    def wait(self, request: Any, seconds: float) -> bool:
        """Whether the request has ended, after at most so many seconds; 0: only lets messages move on."""

    @abstractmethod
    def cancel(self, request: Any) -> bool:
        """Ends a request that nobody waits for any more; whether its memory may be used again."""

    @abstractmethod
    def abandon(self) -> None:
        """This rank gives up: the others' waits end soon, with an error. May be called again."""

    @abstractmethod
    def all_gather(self, mine: memoryview, everyone: memoryview) -> None:
        """As many bytes of each rank, in the order of the ranks. No more than `timeout` seconds."""

    def gather(self, mine: memoryview, everyone: memoryview) -> None:
        """The same, where ranks may differ in how many bytes they bring: RuntimeError on all of them.

        Ranks that call for different things gather different things; transports would take that for a damaged
        stream, and some end the process."""
        size = len(mine)
        fits = size <= FRAME - _LENGTH
        frame, frames = bytearray(FRAME), bytearray(FRAME * self.ranks)
        frame[:_LENGTH] = size.to_bytes(_LENGTH, "little")
        if fits:
            frame[_LENGTH : _LENGTH + size] = mine
        self.all_gather(memoryview(frame), memoryview(frames))
        sizes = [int.from_bytes(frames[k * FRAME : k * FRAME + _LENGTH], "little") for k in range(self.ranks)]
        for rank, other in enumerate(sizes):
            if other != sizes[0]:
                raise RuntimeError(
                    f"rank {rank} makes another call than rank 0 (it gathers {other} bytes, and not {sizes[0]}); "
                    "allowed: the same calls in the same order on all ranks"
                )
        if not fits:
            self.all_gather(mine, everyone)
            return
        for rank in range(self.ranks):
            start = rank * FRAME + _LENGTH
            everyone[rank * size : (rank + 1) * size] = frames[start : start + size]


class Connection:
    """A transport, and the handles of the attentions that are computed over it."""

    HANDLES = 256

    def __init__(self, transport: Transport) -> None:
        self.rank, self.ranks = transport.rank, transport.ranks
        self._transport = transport
        self._communicator = _core.Communicator(self.rank, self.ranks, transport.timeout, transport)
        self._handles: OrderedDict[Any, _core.Attention] = OrderedDict()
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._failure: Optional[str] = None

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Around what all ranks do together: after an error the others need not wait for this rank."""
        if os.getpid() != self._process:
            raise RuntimeError("ranks were connected before this process was forked; allowed: calls in the parent")
        with self._lock:
            if self._failure is not None:
                raise RuntimeError(
                    f"the ranks' connection is of no further use, since a call failed ({self._failure}); allowed: a "
                    "new process group, or communicator, on all ranks"
                )
            try:
                yield
            except BaseException as error:
                self._give_up(error)
                raise

    def _give_up(self, error: BaseException) -> None:
        self._failure = f"{type(error).__name__}: {error}"
        self._transport.abandon()

    def refuse(self, error: BaseException) -> None:
        """What a call holds was refused before it came to collective(), where the others wait for this rank."""
        with self._lock:
            if self._failure is None:
                self._give_up(error)

    def know(self, rates: _core.Rates) -> None:
        """From now on calls are divided by these rates. Handles are of what was known before, and are made anew: ranks
        that differ in whether they know more make other calls than the others."""
        with self._lock:
            timeout = self._transport.timeout
            self._communicator = _core.Communicator(self.rank, self.ranks, timeout, self._transport, rates)
            self._handles.clear()

    def gather(self, *numbers: int) -> list[tuple[int, ...]]:
        """These integers of 64 bits of each rank. Collective; to be called within collective()."""
        size = 8 * len(numbers)
        mine = bytearray(b"".join((number % 2**64).to_bytes(8, "little") for number in numbers))
        everyone = bytearray(size * self.ranks)
        self._transport.gather(memoryview(mine), memoryview(everyone))
        values = [int.from_bytes(everyone[k : k + 8], "little", signed=True) for k in range(0, len(everyone), 8)]
        return [tuple(values[k : k + len(numbers)]) for k in range(0, len(values), len(numbers))]

    def handle(self, options: Options, implementation: str, dropout: float, threads: int) -> _core.Attention:
        """The handle of an attention; made, which all ranks do together, when it is first asked for. As many threads as
        then are used from then on. All ranks keep the same ones, since they make the same calls."""
        key = (options, implementation, dropout)
        found = self._handles.pop(key, None)
        if found is None:
            found = _core.Attention(implementation, for_core(options, dropout), threads, self._communicator)
        self._handles[key] = found
        if len(self._handles) > self.HANDLES:
            self._handles.popitem(last=False)
        return found


class CollectiveAttention:
    """The calls of _core.Attention, made by all ranks together: views hold this rank's part of the tokens."""

    def __init__(self, options: Options, dropout: float, threads: int, find: Callable[[], Connection]) -> None:
        self._options, self._dropout, self._threads, self._find = options, dropout, threads, find

    def forward(self, query: _core.View, *rest: Any) -> None:
        self._call("forward", query, rest)

    def backward(self, query: _core.View, *rest: Any) -> None:
        self._call("backward", query, rest)

    def _call(self, name: str, query: _core.View, rest: Sequence[Any]) -> None:
        """rest ends with the seed of dropout, of which that of rank 0 counts."""
        connection, seed = self._find(), rest[-1]
        with connection.collective():
            implementation = self._options.implementation
            if implementation == "auto":
                implementation = choose(sum(n for (n,) in connection.gather(query[2][1])))
            if seed is not None:
                seed = connection.gather(seed)[0][0]
            handle = connection.handle(self._options, implementation, self._dropout, self._threads)
            getattr(handle, name)(query, *rest[:-1], seed)
