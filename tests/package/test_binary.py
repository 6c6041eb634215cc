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

# The C library, its mathematics and threads, and OpenMP's run-time library. No CUDA, no JSON, no drawing.
ALLOWED_NEEDS = re.compile(r"(lib(c|m|dl|pthread|gomp|omp|gcc_s)|ld-linux[-\w]*)\.so(\.\d+)*")

# AVX and later: anything on wide or mask registers, and every instruction in the VEX or EVEX encoding on narrow ones.
VECTOR_EXTENSION = re.compile(r"%[yz]mm\d|%k[1-7]\b|\tv\w+\s.*%xmm\d")


def output(*command):
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def declared_functions():
    """Functions that the public header declares DA_API."""
    text = (ROOT / "include" / "dilated_attention.h").read_text(encoding="utf-8")
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r"^#(.*\\\n)*.*$", "", text, flags=re.MULTILINE)
    return re.findall(r"\bDA_API\b[^;(]*?\b(\w+)\s*\(", text)


def test_exports_are_the_header_functions():
    symbols = [line.split()[-1] for line in output("nm", "-D", "--defined-only", SHARED).splitlines()]
    declared = declared_functions()
    assert len(declared) > 50  # the header was understood
    assert sorted(symbols) == sorted(declared)


def test_needs_only_the_system():
    needs = re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "--dynamic", "--wide", SHARED))
    assert needs
    assert [name for name in needs if not ALLOWED_NEEDS.fullmatch(name)] == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="instruction sets are compiled apart on x86-64 only")
def test_vector_extensions_stay_in_their_folders():
    """One binary runs on any x86-64: only kernels/avx2 and kernels/avx512, chosen at run time, hold later code."""
    objects = sorted((BUILD / "src").rglob("*.o"))
    offending, kernels = [], []
    for path in objects:
        found = VECTOR_EXTENSION.search(output("objdump", "--disassemble", "--no-show-raw-insn", path))
        if re.search(r"/kernels/avx\w+/", str(path)):
            kernels.append(bool(found))
        elif found:
            offending.append(f"{path.name}: {found.group().strip()}")
    assert kernels and all(kernels)  # the pattern recognises what it looks for
    assert offending == []
