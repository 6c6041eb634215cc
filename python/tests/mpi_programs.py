"""What the processes of test_ranks_mpi.py run under mpirun: python mpi_programs.py compare|faults. Not collected by
pytest."""

from __future__ import annotations

import sys
import time
import traceback

import conftest  # noqa: F401, which sets the paths
import dilated_attention_pytorch as package
import exact
import generate_cases
import numpy as np
from dilated_attention_pytorch import _core, _mpi
from mpi4py import MPI

COMM = MPI.COMM_WORLD
RANK, RANKS = COMM.Get_rank(), COMM.Get_size()
PARTITIONS = ("contiguous", "zigzag", "striped")
KINDS = {"f32": np.float32, "f64": np.float64, "f16": np.float16}


def rows_of(partition, n, rank):
    rows = np.empty(_core.partition_rows(partition, 3, n, RANKS, rank, None), np.int64)
    _core.partition_rows(partition, 3, n, RANKS, rank, rows.ctypes.data)
    return rows


def compare(count=40):
    for number in range(count):
        case = exact.random_case(9000 + number)
        if case.value_type == "bf16":
            continue
        partition = PARTITIONS[number % 3]
        rows = rows_of(partition, case.n, RANK)
        parts = [np.ascontiguousarray(x[:, rows].astype(KINDS[case.value_type])) for x in (case.q, case.k, case.v)]
        found = package.dilated_attention(
            *parts,
            case.segments,
            case.rates,
            comm=COMM,
            implementation=["ring", "distributed", "auto"][number // 3 % 3],
            partition=partition,
            stripe=3,
            return_lse=True,
            **exact.options(case),
        )
        out, lse = np.zeros(case.q.shape), np.zeros(case.q.shape[:3])
        for rank, theirs in enumerate(COMM.allgather(found)):
            for whole, part in zip((out, lse), theirs):
                whole[:, rows_of(partition, case.n, rank)] = part
        if number % RANKS == RANK:
            exact.check_forward(case, generate_cases.all_rows(case), out, lse)
    x = np.random.default_rng(1).standard_normal((1, 20, 2, 4))
    rates()
    alone = package.dilated_attention(x, x, x, [8], [1], comm=MPI.COMM_SELF, implementation="ring")
    assert (alone == package.dilated_attention(x, x, x, [8], [1])).all()


def rates():
    """What is known of the network says how a call is divided: by heads whole tensors travel, by tokens kept rows."""
    n, heads = 16 * RANKS, RANKS
    x = np.random.default_rng(2).standard_normal((1, n, heads, 4))
    part = np.ascontiguousarray(x[:, rows_of("contiguous", n, RANK)])
    transport, sent = _mpi.connection(COMM)._transport, []
    transport.send = lambda data, to, tag: (sent.append(len(data)), type(transport).send(transport, data, to, tag))[1]
    by_heads = (4 * 4 + 1) * 8 * 16 * (RANKS - 1)  # q, k and v of the others' heads, and back out and lse
    for bandwidth, divides_heads in ((1e18, True), (1e6, False), (1e18, True)):
        package.set_rank_rates(comm=COMM, network_bandwidth=bandwidth, network_latency=0, network_overhead=0)
        sent.clear()
        package.dilated_attention(part, part, part, [8, n], [1, 8], is_causal=True, comm=COMM)
        assert (sum(sent) == by_heads) == divides_heads, (bandwidth, sum(sent), by_heads)
    del transport.send


def attend(comm, **options):
    x = np.random.default_rng(1).standard_normal((1, 20, 2, 4))
    return package.dilated_attention(x, x, x, [8, 16], [1, 2], comm=comm, implementation="distributed", **options)


def expect(error, message, call):
    begin = time.monotonic()
    try:
        call()
    except error as found:
        assert any(part in str(found) for part in message.split("|")), (RANK, message, str(found))
        assert time.monotonic() - begin < 10
        return
    raise AssertionError(f"rank {RANK}: no {error.__name__}: {message}")


def faults():
    _mpi.TIMEOUT = 2.0
    for wrong in (3, "COMM_WORLD"):
        expect(TypeError, "allowed: a communicator of mpi4py", lambda wrong=wrong: attend(wrong))
    expect(TypeError, "process_group", lambda: attend(COMM, process_group="0"))
    expect(RuntimeError, "differs|given up", lambda: attend(COMM.Dup(), window=3 if RANK == 1 else 4))
    comm = COMM.Dup()
    attend(comm)
    refused = ValueError if RANK == 1 else RuntimeError
    wrong = dict(key_lengths=[-1]) if RANK == 1 else {}
    expect(refused, "key_lengths|given up", lambda: attend(comm, **wrong))
    expect(RuntimeError, "of no further use", lambda: attend(comm))
    comm = COMM.Dup()
    attend(comm)
    refused = TypeError if RANK == 1 else RuntimeError
    wrong = dict(key_lengths=[1.5]) if RANK == 1 else {}
    expect(refused, "allowed|given up", lambda: attend(comm, **wrong))
    expect(RuntimeError, "of no further use", lambda: attend(comm))
    comm = COMM.Dup()
    attend(comm)
    if RANK != 1:
        expect(RuntimeError, "waited 2 s|given up", lambda: attend(comm))
    COMM.Barrier()


if __name__ == "__main__":
    try:
        {"compare": compare, "faults": faults}[sys.argv[1]]()
    except BaseException:
        traceback.print_exc()
        COMM.Abort(1)
    print("done", flush=True)
    if sys.argv[1] == "faults":
        COMM.Barrier()
        time.sleep(0.5)  # for what was printed
        COMM.Abort(0)  # MPI.Finalize might wait for messages that were given up
