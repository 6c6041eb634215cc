"""`comm=`: arrays over the ranks of an MPI program, through mpi4py."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dilated_attention_pytorch import dilated_attention

PROGRAMS = Path(__file__).with_name("mpi_programs.py")
HAS_MPI = importlib.util.find_spec("mpi4py") is not None and shutil.which("mpirun") is not None


@pytest.mark.skipif(not HAS_MPI, reason="mpi4py or mpirun is not installed")
@pytest.mark.parametrize("program", ["compare", "faults"])
def test_mpi(program):
    variables = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    variables.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_mpi_yield_when_idle="1")
    done = subprocess.run(
        ["mpirun", "--oversubscribe", "-n", "3", sys.executable, str(PROGRAMS), program],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.count("done") == 3, done.stderr[-6000:]


@pytest.mark.skipif(importlib.util.find_spec("mpi4py") is not None, reason="mpi4py is installed")
def test_without_mpi4py():
    x = np.zeros((1, 4, 1, 4))
    with pytest.raises(TypeError, match="mpi4py is not installed"):
        dilated_attention(x, x, x, [4], [1], comm=object())
