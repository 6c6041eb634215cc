"""Modules whose parameters are divided among processes: results, files, bytes and memory as among threads."""

import pytest

from mpi_launch import BUILD, NO_LEAKS, needs, run

PROGRAM = BUILD / "bin" / "test_multihead_sharded_mpi"

pytestmark = needs("test_multihead_sharded_mpi")


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
def test_same_as_among_threads(ranks):
    status, stdout, stderr = run("-n", ranks, PROGRAM, OMP_NUM_THREADS="1", timeout=200, **NO_LEAKS)
    assert status == 0, stdout + stderr
    assert stdout.count("[       OK ]") == 7
