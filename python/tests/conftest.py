"""What the tests of the Python package share: the float64 definition and its cases are those of the C tests."""

import os
import sys
import tempfile
from pathlib import Path

from hypothesis import settings

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # the package's, PyTorch's and NumPy's threads share the cores
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "hypothesis"))
sys.dont_write_bytecode = True

TESTS = Path(__file__).resolve().parents[2] / "tests"
sys.path[:0] = [str(TESTS / "reference"), str(TESTS / "compare"), str(Path(__file__).resolve().parent)]

# The same examples in every run: what a run finds, the next one finds again.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
