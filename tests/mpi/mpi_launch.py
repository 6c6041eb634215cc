"""Starts processes under mpirun, which end in bounded time whatever happens."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("DA_BUILD_DIR", ROOT / "build"))

# For Open MPI; others do not look at it. As root, and more ranks than cores, as tests are run.
OPEN_MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMP_WAIT_POLICY": "passive"}
# MPI libraries keep memory until the end; where a program was built with the address sanitizer, that is no leak of ours, and
# their plug-ins are gone when it could name them.
NO_LEAKS = {"ASAN_OPTIONS": ":".join(filter(None, [os.environ.get("ASAN_OPTIONS"), "detect_leaks=0"]))}
# mpirun leaves the others alone when one rank ends otherwise than by MPI_Finalize.
RECOVER = ["--enable-recovery"]


def needs(program):
    """Skips the tests of a file where the program, or mpirun, is not there."""
    return pytest.mark.skipif(not (BUILD / "bin" / program).exists() or not shutil.which("mpirun"),
                              reason="MPI is not installed, or was not when the tests were built")


def begin(*words, **more):
    """mpirun with these words, output as text; `more` is added to the environment."""
    environment = {**os.environ, **OPEN_MPI, **more}
    return subprocess.Popen(["mpirun", *map(str, words)], env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, start_new_session=True)


def end(process, timeout=100):
    """Its standard output and standard error, when it has ended."""
    try:
        return process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        pytest.fail(f"did not end:\n{stdout}\n{stderr}")


def run(*words, timeout=100, **more):
    """Status, standard output and standard error."""
    with begin(*words, **more) as process:
        stdout, stderr = end(process, timeout)
    return process.returncode, stdout, stderr
