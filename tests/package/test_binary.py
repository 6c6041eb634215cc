"""What the built library shows to the outside, needs from it, and which instructions it holds."""

import os
import platform
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("DA_BUILD_DIR", ROOT / "build"))
SHARED = BUILD / "lib" / "libdilated_attention.so"
MODULES = BUILD / "lib" / "libdilated_attention_nn.so"
RANKS = BUILD / "lib" / "libdilated_attention_mpi.so"

needs_mpi = pytest.mark.skipif(not RANKS.exists(), reason="built without MPI")

# The C library, its mathematics and threads, and OpenMP's run-time library. No CUDA, no JSON, no drawing.
ALLOWED_NEEDS = re.compile(r"(lib(c|m|dl|pthread|gomp|omp|gcc_s)|ld-linux[-\w]*)\.so(\.\d+)*")

# AVX and later: anything on wide or mask registers, and every instruction in the VEX or EVEX encoding on narrow ones.
VECTOR_EXTENSION = re.compile(r"%[yz]mm\d|%k[1-7]\b|\tv\w+\s.*%xmm\d")


def output(*command):
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def declared_functions(header):
    """Functions that a public header declares DA_API."""
    text = (ROOT / "include" / header).read_text(encoding="utf-8")
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r"^#(.*\\\n)*.*$", "", text, flags=re.MULTILINE)
    return re.findall(r"\bDA_API\b[^;(]*?\b(\w+)\s*\(", text)


@pytest.mark.parametrize("library, header, least", [(SHARED, "dilated_attention.h", 50),
                                                    (MODULES, "dilated_attention_nn.h", 15),
                                                    pytest.param(RANKS, "dilated_attention_mpi.h", 1, marks=needs_mpi)])
def test_exports_are_the_header_functions(library, header, least):
    symbols = [line.split()[-1] for line in output("nm", "-D", "--defined-only", library).splitlines()]
    declared = declared_functions(header)
    assert len(declared) > least  # the header was understood
    assert sorted(symbols) == sorted(declared)


def test_needs_only_the_system():
    needs = re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "--dynamic", "--wide", SHARED))
    assert needs
    assert [name for name in needs if not ALLOWED_NEEDS.fullmatch(name)] == []


def test_modules_need_the_core_a_blas_and_json():
    needs = re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "--dynamic", "--wide", MODULES))
    others = [name for name in needs if not ALLOWED_NEEDS.fullmatch(name)]
    assert [name for name in others if not re.match(r"lib(dilated_attention|jansson|dnnl|openblas|blis|cblas|blas|mkl_\w+)\.so",
                                                    name)] == []
    assert any(name.startswith("libdilated_attention.so") for name in others)


@needs_mpi
def test_only_ranks_need_mpi():
    assert "libmpi" in output("readelf", "--dynamic", "--wide", RANKS)
    for library in (SHARED, MODULES):
        assert "libmpi" not in output("readelf", "--dynamic", "--wide", library)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="instruction sets are compiled apart on x86-64 only")
def test_vector_extensions_stay_in_their_folders():
    """One binary runs on any x86-64: only the folders of kernels, chosen at run time, hold later code."""
    objects = sorted((BUILD / "src").rglob("*.o"))
    offending, kernels = [], []
    for path in objects:
        found = VECTOR_EXTENSION.search(output("objdump", "--disassemble", "--no-show-raw-insn", path))
        if re.search(r"/kernels/(avx\w+|amx)/", str(path)):
            kernels.append(bool(found))
        elif found:
            offending.append(f"{path.name}: {found.group().strip()}")
    assert kernels and all(kernels)  # the pattern recognises what it looks for
    assert offending == []
