"""The generated cases over processes: forward and backward, ring and distributed, all partitions, lengths that nothing
divides, against the reference. Each process compares all rows, those that it was sent too."""

import re

import pytest

from mpi_launch import BUILD, needs, run

pytestmark = needs("test_compare_mpi")

# Of the cases, every k-th: with 4 ranks, some hundreds.
MOST = {4: 5}
FEW = 40


def count_cases(stdout):
    return sum(map(int, re.findall(r"^(?:ring|distributed)_over_ranks \S+ \S+ +(\d+)", stdout, re.MULTILINE)))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("passes", ["compare", "gradient"])
def test_cases(passes, ranks):
    status, stdout, stderr = run("-n", ranks, BUILD / "bin" / f"test_{passes}_mpi", OMP_NUM_THREADS="1",
                                 DA_COMPARE_STRIDE=str(MOST.get(ranks, FEW)), timeout=300)
    assert status == 0, stdout + stderr
    assert stdout.count("[       OK ]") == 8
    assert count_cases(stdout) >= {("compare", 4): 350, ("gradient", 4): 150}.get((passes, ranks), 20)
