"""Fixtures of the tests of the command line."""
import dataclasses
import pathlib

import numpy as np
import pytest

from cli_support import encode


@dataclasses.dataclass
class Inputs:
    """A folder of input files, one for outputs, and what the inputs hold."""
    folder: pathlib.Path
    out: pathlib.Path
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray

    def save(self, dtype="f32", arrange=lambda array: array):
        """Writes q.npy, k.npy and v.npy; returns the options that name them."""
        options = []
        for name in "qkv":
            np.save(self.folder / f"{name}.npy", arrange(encode(getattr(self, name), dtype)))
            options += [f"--{name}", self.folder / f"{name}.npy"]
        return options


@pytest.fixture(name="inputs")
def make_inputs(tmp_path):
    """Two sequences of 45 tokens, 4 heads of which 2 share a key, head dimension 8."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    rng = np.random.default_rng(7)
    q = rng.standard_normal((2, 45, 4, 8)).astype(np.float32)
    k, v = (rng.standard_normal((2, 45, 2, 8)).astype(np.float32) for _ in range(2))
    return Inputs(tmp_path / "in", tmp_path / "out", q, k, v)
