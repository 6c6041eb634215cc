"""The ranks over NCCL compile with the headers of NVIDIA's own libraries, where those are installed. Nothing is run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = [Path(folder) / "nvidia" for folder in sys.path if folder]
CUDA = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include",
        *(folder / "cuda_runtime" / "include" for folder in PACKAGES)]
NCCL = [Path(os.environ.get("NCCL_ROOT", "/usr")) / "include", *CUDA,
        *(folder / "nccl" / "include" for folder in PACKAGES)]


def find(header, folders):
    for folder in folders:
        if (folder / header).is_file():
            return folder
    return pytest.skip(f"{header} is not installed")


@pytest.mark.parametrize("compiler", [["cc", "-std=c11"], ["c++", "-std=c++11", "-x", "c++"]], ids=["C", "C++"])
def test_compiles(compiler):
    includes = [find("cuda_runtime_api.h", CUDA), find("nccl.h", NCCL)]
    # The library is C; its header serves both languages.
    source = "src/comm/nccl/nccl.c" if compiler[0] == "cc" else "include/dilated_attention_nccl.h"
    subprocess.run([*compiler, "-fsyntax-only", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror",
                    "-Iinclude", "-Isrc", *(f"-isystem{folder}" for folder in includes), source], cwd=ROOT, check=True)
