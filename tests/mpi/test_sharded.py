"""Modules whose parameters are divided among processes: results, files, bytes and memory as among threads, and what the others
do when one process is killed."""

import re

import pytest

from mpi_launch import BUILD, NO_LEAKS, RECOVER, needs, run

PROGRAM = BUILD / "bin" / "test_multihead_sharded_mpi"
FAULTY = BUILD / "bin" / "sharded_rank"
TIMEOUT = 1.0  # of that program

pytestmark = needs("test_multihead_sharded_mpi")


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
def test_same_as_among_threads(ranks):
    status, stdout, stderr = run("-n", ranks, PROGRAM, OMP_NUM_THREADS="1", timeout=200, **NO_LEAKS)
    assert status == 0, stdout + stderr
    assert stdout.count("[       OK ]") == 7


@pytest.mark.parametrize("part, share", [("forward", 0.3), ("backward", 0.3), ("backward", 0.95)])
def test_a_rank_that_is_killed_within_a_pass(part, share):
    """The others wait for rows of a weight, for keys or for gradients that never come, and end."""
    _, stdout, stderr = run(*RECOVER, "-n", 3, FAULTY, part, share, **NO_LEAKS)
    found = re.findall(rf"^rank (\d+): {part}: (\w+) after ([\d.]+) s: (.*)$", stdout, re.MULTILINE)
    assert sorted(rank for rank, *_ in found) == ["0", "1"], stdout + stderr
    for _, status, seconds, message in found:
        assert status == "DA_ERROR_COMMUNICATION" and float(seconds) < TIMEOUT + 4, stdout
        assert re.search("without an answer|has given up", message), stdout
