"""run: every golden case, by every implementation and instruction set."""
import numpy as np
import pytest

from cli_support import CASES, GOLDEN, IMPLEMENTATIONS, assert_close, options_of, succeed, succeed_json, tolerance


def files_of(name):
    return [word for letter in "qkv" for word in (f"--{letter}", GOLDEN / name / f"{letter}.npy")]


def check(name, out_path, lse_path):
    """The golden output itself, not only what the reference says today."""
    q, k, v, out, lse = (np.load(GOLDEN / name / f"{part}.npy") for part in ("q", "k", "v", "out", "lse"))
    allowed_out, allowed_lse = tolerance(q, k, v, CASES[name], out, "f32")
    found, found_lse = np.load(out_path), np.load(lse_path)
    assert (found.dtype, found_lse.dtype) == (np.float32, np.float32)
    assert_close(found.astype(np.float64), out, allowed_out, "output")
    assert_close(found_lse.astype(np.float64), lse, allowed_lse, "logsumexp")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_golden_case(name, implementation, tmp_path):
    out, lse = tmp_path / "out.npy", tmp_path / "lse.npy"
    line = succeed("run", *files_of(name), *options_of(CASES[name]), "--impl", implementation,
                   "--out", out, "--lse", lse)
    assert line.startswith(f"{implementation} (") and line.count("\n") == 1
    check(name, out, lse)


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "avx512_bf16", "amx_bf16"])
@pytest.mark.parametrize("name", CASES)
def test_golden_case_with_instruction_set(name, isa, tmp_path):
    if isa != "portable" and isa not in succeed_json("info")["hardware"]["cpu_features"]:
        pytest.skip(f"this machine has no {isa}")
    out, lse = tmp_path / "out.npy", tmp_path / "lse.npy"
    report = succeed_json("run", *files_of(name), *options_of(CASES[name]), "--impl", "improved", "--isa", isa, "--out",
                          out, "--lse", lse)
    assert report["instruction_set"] == isa
    check(name, out, lse)


@pytest.mark.parametrize("name", CASES)
def test_auto_runs_every_golden_case(name, tmp_path):
    out, lse = tmp_path / "out.npy", tmp_path / "lse.npy"
    report = succeed_json("run", *files_of(name), *options_of(CASES[name]), "--out", out, "--lse", lse)
    assert report["requested"] == "auto" and report["implementation"] in IMPLEMENTATIONS and report["reason"]
    check(name, out, lse)
