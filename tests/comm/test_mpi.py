"""Ranks that are processes: every check of checks.c over MPI, and what the others do when one rank fails."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "mpi"))
from mpi_launch import BUILD, NO_LEAKS, RECOVER, needs, run  # noqa: E402

PROGRAM = BUILD / "bin" / "mpi_rank"

# Checks that leave the da_comm in order, and what they need more than one rank for.
ALONE = ["refusals", "order", "gather", "reduce", "same_bits", "slices", "agree"]
TOGETHER = [*ALONE, "sizes", "large", "looking", "never_sent"]

pytestmark = needs("mpi_rank")


def start(ranks, *checks, options=(), timeout=30.0):
    """Its status and standard output, with what it has to complain of."""
    status, stdout, stderr = run(*options, "-n", ranks, PROGRAM, *checks, DA_TEST_TIMEOUT=str(timeout), **NO_LEAKS)
    return status, stdout + stderr


def passed(output, check):
    """The ranks that say that a check passed, and what else they say."""
    lines = re.findall(rf"rank (\d+): {check}: passed, ?(.*)", output)
    return {int(rank): rest for rank, rest in lines}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
def test_checks(ranks):
    checks = ALONE if ranks == 1 else TOGETHER
    status, output = start(ranks, *checks)
    for check in checks:
        assert sorted(passed(output, check)) == list(range(ranks)), output
    assert status == 0, output


@pytest.mark.parametrize("ranks", [2, 3, 7])
@pytest.mark.parametrize("check", ["other_length", "abandoned"])
def test_checks_after_which_nothing_goes_on(check, ranks):
    _, output = start(ranks, check, options=RECOVER)
    assert sorted(passed(output, check)) == list(range(ranks)), output


@pytest.mark.parametrize("transport", ["shared memory", "tcp"])
@pytest.mark.parametrize("ranks", [2, 4, 7])
def test_a_rank_that_gives_up_ends_all(ranks, transport):
    options = RECOVER if transport == "shared memory" else [*RECOVER, "--mca", "btl", "tcp,self"]
    _, output = start(ranks, "gives_up", options=options)
    others = passed(output, "gives_up")
    assert sorted(others) == list(range(ranks)), output
    for rank in range(ranks - 1):
        assert f"rank {ranks - 1} has given up" in others[rank]
        assert float(re.match(r"after ([\d.]+) s", others[rank])[1]) < 5, output


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_message_that_never_comes(ranks):
    _, output = start(ranks, "silent", options=RECOVER, timeout=1)
    others = passed(output, "silent")
    assert sorted(others)[:ranks - 1] == list(range(ranks - 1)), output
    assert any("waited 1 s for what all ranks gather" in rest for rest in others.values()), output


@pytest.mark.parametrize("ranks", [2, 4, 7])
def test_a_rank_that_is_killed(ranks):
    """Where mpirun does not kill the others, they find out."""
    _, output = start(ranks, "killed", options=RECOVER, timeout=1.5)
    others = passed(output, "killed")
    assert sorted(others) == list(range(ranks - 1)), output
    assert any("waited 1.5 s for what all ranks gather" in rest for rest in others.values()), output


def test_a_rank_that_is_killed_under_mpirun():
    """Where mpirun does, they end with it: none says that it went well."""
    status, output = start(3, "killed", timeout=30)
    assert status != 0, output
    assert passed(output, "killed") == {}, output
