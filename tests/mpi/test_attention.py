"""Whole attention calls over processes: the bytes that each rank sends are those of the kept rows, and when one rank fails,
the others end with an error in bounded time."""

import os
import re
import signal
import time

import pytest

from mpi_launch import BUILD, RECOVER, begin, end, needs, run

PROGRAM = BUILD / "bin" / "attention_rank"
TIMEOUT = 2.0  # of the program

pytestmark = needs("attention_rank")


@pytest.mark.parametrize("ranks", [2, 3, 4, 7])
def test_bytes_are_those_of_the_kept_rows(ranks):
    status, stdout, stderr = run("-n", ranks, PROGRAM, "bytes")
    assert status == 0, stdout + stderr
    assert sorted(stdout.splitlines()) == [f"rank {rank}: bytes: as the kept rows say" for rank in range(ranks)]


def results(stdout, fault):
    """Of each rank that ended by itself: status, seconds since its last good call, message."""
    lines = re.findall(rf"^rank (\d+): {fault}: (\w+) after ([\d.]+) s: (.*)$", stdout, re.MULTILINE)
    return {int(rank): (status, float(seconds), message) for rank, status, seconds, message in lines}


def check_others(found, ranks):
    """All but the last rank ended, in bounded time."""
    assert sorted(found)[:ranks - 1] == list(range(ranks - 1)), found
    for rank in range(ranks - 1):
        status, seconds, _ = found[rank]
        assert status == "DA_ERROR_COMMUNICATION" and seconds < TIMEOUT + 4, found


@pytest.mark.parametrize("fault, message", [("killed", "without an answer|has given up"),
                                            ("refused", "rank 3 has given up"),
                                            ("differs", "configuration of rank 3 differs from that of rank 0")])
@pytest.mark.parametrize("implementation", ["ring", "distributed"])
def test_rank_that_fails(implementation, fault, message):
    _, stdout, stderr = run(*RECOVER, "-n", 4, PROGRAM, fault, implementation)
    found = results(stdout, fault)
    check_others(found, 4)
    assert all(re.search(message, found[rank][2]) for rank in range(3)), stdout + stderr
    if fault == "refused":
        assert found[3][0] == "DA_ERROR_INVALID_ARGUMENT" and "key.shape is (2, " in found[3][2]


def stopped_process(process):
    """The process of the last rank, once it has stopped itself; None: not yet."""
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(children, encoding="ascii") as file:
        for pid in file.read().split():
            with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "T":
                    return int(pid)
    return None


@pytest.mark.parametrize("implementation", ["ring", "distributed"])
def test_rank_that_stops(implementation):
    """Its messages never come, and nobody else sees that it is stopped."""
    with begin(*RECOVER, "-n", 3, PROGRAM, "stopped", implementation) as process:
        limit = time.monotonic() + 30
        while (pid := stopped_process(process)) is None and time.monotonic() < limit:
            time.sleep(0.02)
        time.sleep(TIMEOUT + 3)
        os.kill(pid, signal.SIGKILL)
        stdout, _ = end(process)
    check_others(results(stdout, "stopped"), 3)
