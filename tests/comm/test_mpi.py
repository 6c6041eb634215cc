"""Ranks that are processes: every check of checks.c over MPI, and what the others do when one rank fails."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("DA_BUILD_DIR", ROOT / "build"))
PROGRAM = BUILD / "bin" / "mpi_rank"

# Checks that leave the da_comm in order, and what they need more than one rank for.
ALONE = ["refusals", "order", "gather", "reduce", "same_bits", "agree"]
TOGETHER = [*ALONE, "sizes", "large", "looking", "never_sent"]

# For Open MPI; others do not look at it. As root, and more ranks than cores, as tests are run.
OPEN_MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_rmaps_base_oversubscribe": "1"}
# mpirun leaves the others alone when one rank ends otherwise than by MPI_Finalize.
RECOVER = ["--enable-recovery"]

pytestmark = pytest.mark.skipif(not PROGRAM.exists() or not shutil.which("mpirun"),
                                reason="MPI is not installed, or was not when the tests were built")


def start(ranks, *checks, options=(), timeout=30.0):
    """Ends in bounded time, whatever happens; its status and standard output."""
    # Open MPI's own leaks are its own; its plug-ins are gone when a sanitizer could name them.
    sanitizer = ":".join(filter(None, [os.environ.get("ASAN_OPTIONS"), "detect_leaks=0"]))
    environment = {**os.environ, **OPEN_MPI, "DA_TEST_TIMEOUT": str(timeout), "ASAN_OPTIONS": sanitizer}
    with subprocess.Popen(["mpirun", *options, "-n", str(ranks), str(PROGRAM), *checks], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as process:
        try:
            output, _ = process.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            pytest.fail(f"did not end:\n{output}")
    return process.returncode, output


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
