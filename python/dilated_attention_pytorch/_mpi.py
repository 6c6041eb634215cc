"""Ranks that are processes of an MPI program, through mpi4py: `comm=` of dilated_attention on arrays.

Nothing here blocks in MPI: requests are begun, and polled with rests, so that waits end. It does what
src/comm/mpi does for C programs.
"""

from __future__ import annotations

import importlib
import time
from typing import Any, Optional

from ._config import Options, encode, handle
from ._connection import CollectiveAttention, Connection, Transport

TIMEOUT = 60.0  # seconds that a rank waits for another
_SIGNAL_TAG = 1024  # "I have given up"; the library's tags are below


def _mpi() -> Any:
    try:
        MPI = importlib.import_module("mpi4py.MPI")
    except ModuleNotFoundError as error:
        if error.name != "mpi4py":
            raise
        raise TypeError("comm is given, and mpi4py is not installed; install it with: pip install mpi4py") from None
    return MPI


class _Message:
    """A request, and how many bytes are to come."""

    def __init__(self, request: Any, expected: Optional[int], peer: int) -> None:
        self.request, self.expected, self.peer = request, expected, peer


class _Processes(Transport):
    def __init__(self, mpi: Any, communicator: Any) -> None:
        super().__init__(communicator.Get_rank(), communicator.Get_size(), TIMEOUT)
        self._mpi = mpi
        self._comm = communicator.Dup()
        self._comm.Set_errhandler(mpi.ERRORS_RETURN)
        self._gave_up: Optional[int] = None
        self._signals: list[Any] = []
        self._word = bytearray(4)

    def send(self, data: memoryview, to: int, tag: int) -> Any:
        return _Message(self._comm.Isend([data, self._mpi.BYTE], to, tag), None, to)

    def receive(self, data: memoryview, source: int, tag: int) -> Any:
        return _Message(self._comm.Irecv([data, self._mpi.BYTE], source, tag), len(data), source)

    def wait(self, request: Any, seconds: float) -> bool:
        end, rest = time.monotonic() + seconds, 0.0
        while not self._look(request):
            if time.monotonic() >= end:
                return False
            time.sleep(rest)
            rest = min(rest + 1e-6, 1e-3)
        return True

    def _look(self, message: _Message) -> bool:
        status = self._mpi.Status()
        if not message.request.Test(status):
            self._look_for_signal()
            return False
        if message.expected is not None and status.Get_count(self._mpi.BYTE) != message.expected:
            raise RuntimeError(
                f"rank {self.rank} expects {message.expected} bytes, and rank {message.peer} sends "
                f"{status.Get_count(self._mpi.BYTE)}"
            )
        return True

    def _look_for_signal(self) -> None:
        status = self._mpi.Status()
        if self._gave_up is None and self._comm.Iprobe(self._mpi.ANY_SOURCE, _SIGNAL_TAG, status):
            word = bytearray(4)
            self._comm.Recv([word, self._mpi.BYTE], status.Get_source(), _SIGNAL_TAG)
            self._gave_up = int.from_bytes(word, "little")
        if self._gave_up is not None:
            raise RuntimeError(f"rank {self._gave_up} has given up")

    def cancel(self, request: Any) -> bool:
        """A receive that no message has met can be cancelled; not so one whose message arrives, nor mostly a send."""
        if request.expected is not None:
            request.request.Cancel()
        return self._ends(request.request, 0.02)

    def _ends(self, request: Any, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not request.Test():
            if time.monotonic() >= end:
                return False
            time.sleep(1e-4)
        return True

    def abandon(self) -> None:
        if self._signals:
            return  # they know
        self._gave_up = self.rank if self._gave_up is None else self._gave_up
        self._word[:] = self._gave_up.to_bytes(4, "little")
        others = (rank for rank in range(self.ranks) if rank != self.rank)
        self._signals = [self._comm.Isend([self._word, self._mpi.BYTE], rank, _SIGNAL_TAG) for rank in others]
        # Some MPI libraries connect two processes when they first exchange a message, and send only while called.
        for request in self._signals:
            self._ends(request, 0.2 / len(self._signals))

    def all_gather(self, mine: memoryview, everyone: memoryview) -> None:
        request = self._comm.Iallgather([mine, self._mpi.BYTE], [everyone, self._mpi.BYTE])
        if not self.wait(_Message(request, None, 0), self.timeout):
            raise RuntimeError(
                f"rank {self.rank} waited {self.timeout:g} s for what all ranks gather, without an answer"
            )


_keyval: Any = None


def connection(communicator: Any) -> Connection:
    """The connection over a communicator, which is duplicated when a call first has it; all ranks do so together. It is
    kept with the communicator, as MPI keeps what belongs to one."""
    global _keyval
    mpi = _mpi()
    if not isinstance(communicator, mpi.Comm):
        raise TypeError(f"comm is {communicator!r}; allowed: a communicator of mpi4py, MPI.COMM_WORLD for instance")
    if communicator == mpi.COMM_NULL or communicator.Is_inter():
        raise ValueError(f"comm is {communicator!r}; allowed: one group of processes, to which this one belongs")
    if _keyval is None:
        _keyval = mpi.Comm.Create_keyval()
    found: Optional[Connection] = communicator.Get_attr(_keyval)
    if found is None:
        found = Connection(_Processes(mpi, communicator))
        communicator.Set_attr(_keyval, found)
    return found


def refuse(communicator: Any, error: BaseException) -> None:
    """Tells the communicator's ranks, if they are connected, that this one does not make a call."""
    if _keyval is not None and isinstance(communicator, _mpi().Comm):
        found: Optional[Connection] = communicator.Get_attr(_keyval)
        if found is not None:
            found.refuse(error)


def attention(options: Options, dropout: float, threads: int, communicator: Any) -> Any:
    """What computes an attention over a communicator's ranks; one rank computes like one process."""
    if options.implementation not in ("auto", "ring", "distributed"):
        raise ValueError(
            f"implementation is {options.implementation!r}, with comm, whose ranks hold parts of the tokens; allowed: "
            "'ring', 'distributed', 'auto'"
        )
    link = connection(communicator)
    if link.ranks == 1:
        return handle(encode(options), dropout, threads)
    return CollectiveAttention(options, dropout, threads, lambda: link)
