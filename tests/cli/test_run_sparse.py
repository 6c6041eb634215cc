"""run, bench and explain with block_sparse: results on tiles, what is reported of them, and refusals."""
import math
import re

import numpy as np
import pytest

from cli_support import assert_matches, decode, options_of, refuse, succeed, succeed_json

CASE = {"segment_lengths": [16, 45], "dilation_rates": [1, 2]}
BLOCK, BLOCKS = 16, 3


def tiles(*shape, seed=0):
    return np.random.default_rng(seed).random((*shape, BLOCKS, BLOCKS)) < 0.6


def run_sparse(inputs, *words, dtype="f32", case=CASE, json=True):
    paths = ["--out", inputs.out / "out.npy", "--lse", inputs.out / "lse.npy"]
    words = ["run", *inputs.save(dtype), *options_of(case), "--impl", "block_sparse", *words, *paths]
    report = succeed_json(*words) if json else succeed(*words)
    return report, np.load(inputs.out / "out.npy"), np.load(inputs.out / "lse.npy")


@pytest.mark.parametrize("shape", [(), (4,), (2, 4), (2, 1)], ids=str)
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"window": 9}, {"key_padding": [45, 20]}], ids=str)
def test_a_mask_in_a_file(inputs, shape, options):
    kept = tiles(*shape, seed=len(shape))
    np.save(inputs.folder / "tiles.npy", np.asfortranarray(kept) if len(shape) == 2 else kept.astype(np.uint8))
    case = {**CASE, **options}
    report, out, lse = run_sparse(inputs, "--tile-mask", inputs.folder / "tiles.npy", "--block-size", BLOCK, case=case)
    q, k, v = (np.load(inputs.folder / f"{name}.npy") for name in "qkv")
    whole = kept.reshape((1,) * (4 - kept.ndim) + kept.shape)
    assert_matches(out, lse, q, k, v, {**case, "tiles": (BLOCK, whole)}, "f32")
    assert report["implementation"] == "block_sparse"
    sparse = report["sparse"]
    assert 0 < sparse["tiles_kept"] <= sparse["tiles_all"] and sparse["choose_seconds"] >= 0
    assert report["seconds"] > sparse["choose_seconds"]  # which is a part of it
    assert 0 < sparse["pairs_kept"] < sparse["pairs_all"]


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16"])
def test_other_data_types(inputs, dtype):
    np.save(inputs.folder / "tiles.npy", tiles())
    _, out, lse = run_sparse(inputs, "--tile-mask", inputs.folder / "tiles.npy", "--block-size", BLOCK, dtype=dtype)
    q, k, v = (np.load(inputs.folder / f"{name}.npy") for name in "qkv")
    assert_matches(out, lse, q, k, v, {**CASE, "tiles": (BLOCK, tiles()[None, None])}, dtype)


@pytest.mark.parametrize("pattern", ["local_window", "global_local", "dilated_sparse", "axial", "random", "hybrid"])
def test_patterns(inputs, pattern):
    """The diagonal is kept by all but global ones; a ratio of 1 is the whole attention."""
    words = ["--sparse-pattern", pattern, "--block-size", BLOCK]
    report, out, _ = run_sparse(inputs, *words, "--sparsity-ratio", 0.3)
    assert 0 < report["sparse"]["tiles_kept"] < report["sparse"]["tiles_all"]
    whole, all_out, all_lse = run_sparse(inputs, *words, "--sparsity-ratio", 1)
    assert whole["sparse"]["tiles_kept"] == whole["sparse"]["tiles_all"]
    assert whole["sparse"]["pairs_kept"] == whole["sparse"]["pairs_all"]
    assert whole["counted_flops"] > report["counted_flops"] > 0
    q, k, v = (np.load(inputs.folder / f"{name}.npy") for name in "qkv")
    assert_matches(all_out, all_lse, q, k, v, CASE, "f32")
    assert np.abs(decode(out) - decode(all_out)).max() > 1e-3


def test_seeds_draw_other_tiles(inputs):
    outs = [run_sparse(inputs, "--sparse-pattern", "random", "--sparsity-ratio", 0.5, "--block-size", 16,
                       "--sparse-seed", seed)[1] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(outs[0], outs[1])
    assert (outs[0] != outs[2]).any()


def test_content_and_a_quality_target(inputs):
    report, _, _ = run_sparse(inputs, "--sparsity-ratio", 0.5, "--block-size", 16)
    sparse = report["sparse"]
    assert 0 < sparse["mass_kept"] <= 1 and sparse["mass_error"] >= 0 and sparse["sampled_queries"] > 0
    assert sparse["tiles_kept"] < sparse["tiles_all"]
    text, out, _ = run_sparse(inputs, "--quality-target", 0.6, "--block-size", 16, json=False)
    second = text.splitlines()[1]
    assert re.match(r"computed \d+ of \d+ tiles \(.*%\), .*% of the pairs, .*% of the attention \(.*; chosen in ", second)
    chosen = succeed_json("run", *inputs.save(), *options_of(CASE), "--quality-target", 0.6, "--block-size", 16, "--out",
                          inputs.out / "auto.npy")
    assert chosen["implementation"] == "block_sparse" and "quality" in chosen["reason"]
    np.testing.assert_array_equal(np.load(inputs.out / "auto.npy"), out)


def test_text_and_quiet(inputs):
    text, _, _ = run_sparse(inputs, "--sparse-pattern", "local_window", "--block-size", 16, json=False)
    first, second = text.splitlines()
    assert first.startswith("block_sparse (")
    assert re.match(r"computed \d+ of \d+ tiles \(\d+\.\d\d%\), \d+\.\d\d% of the pairs.*; chosen in \d", second)
    assert run_sparse(inputs, "--sparse-pattern", "local_window", "--quiet", json=False)[0] == ""


def test_other_implementations_say_nothing_of_tiles(inputs):
    report = succeed_json("run", *inputs.save(), *options_of(CASE), "--out", inputs.out / "out.npy")
    assert "sparse" not in report and report["implementation"] == "improved"


# ---- bench and explain -----------------------------------------------------------------------------------------------

SMALL = ["--n", 300, "--heads", 2, "--head-dim", 16, "--segments", "64,300", "--rates", "1,2", "--repeats", 1]


@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16"])
@pytest.mark.parametrize("words", [["local_window"], ["random", "--causal"], ["hybrid", "--backward"]], ids=str)
def test_bench_checks_against_the_definition_on_tiles(words, dtype):
    report = succeed_json("bench", *SMALL, "--impl", "improved,block_sparse", "--dtype", dtype, "--block-size", 32,
                          "--sparsity-ratio", 0.3, "--check", "--sparse-pattern", *words)
    improved, sparse = report["results"]
    assert improved["check"]["passed"] and sparse["check"]["passed"] and "sparse" not in improved
    assert ("gradient_check" in sparse) == ("--backward" in words)
    assert sparse.get("gradient_check", {"passed": True})["passed"]
    part = sparse["sparse"]["pairs_kept"] / sparse["sparse"]["pairs_all"]
    assert 0 < part < 1
    assert math.isclose(sparse["distinct_flops"], improved["distinct_flops"] * part, rel_tol=1e-9)


def test_bench_with_a_mask_and_as_text(tmp_path):
    np.save(tmp_path / "tiles.npy", np.eye(10, dtype=bool))
    text = succeed("bench", *SMALL, "--impl", "block_sparse", "--block-size", 32, "--tile-mask", tmp_path / "tiles.npy",
                   "--check")
    assert re.search(r"\n +computes 20 of \d+ tiles \(", text) and text.count(": right\n") == 1
    line = refuse(1, "bench", *SMALL, "--impl", "block_sparse", "--block-size", 64, "--tile-mask",
                  tmp_path / "tiles.npy", "--json")
    assert "must end in the axes (blocks, blocks), (5, 5) for 300 tokens in blocks of 64" in line


def test_explain_offers_it_only_for_a_target():
    words = ["explain", "--segments", 2048, "--rates", 1, "--n", 32768]
    assert succeed_json(*words)["choice"] != "block_sparse"
    assert succeed_json(*words, "--sparsity-ratio", 0.1)["choice"] != "block_sparse"
    assert succeed_json(*words, "--quality-target", 1)["choice"] != "block_sparse"
    assert succeed_json(*words, "--quality-target", 0.95)["choice"] == "block_sparse"
    assert succeed(*words, "--quality-target", 0.95).startswith("choice: block_sparse\n")


def block_sparse_bytes(*words):
    explained = succeed_json("explain", "--segments", 4096, "--rates", 1, "--n", 32768, "--heads", 2, *words)
    return next(other["workspace_bytes"] for other in explained["alternatives"] if other["name"] == "block_sparse")


def test_explain_counts_the_lists(inputs):
    """More tiles, more bytes; those of a mask are the caller's, and a profile's are what it says for each head."""
    words = ["--block-size", 16, "--sparse-pattern", "local_window", "--sparsity-ratio"]
    some, all_tiles = block_sparse_bytes(*words, 0.5), block_sparse_bytes(*words, 1)
    bytes_of_all = 4 * 2048 * 256  # of a tile, blocks of queries, blocks of keys; the heads are alike
    assert all_tiles - some == bytes_of_all / 2
    np.save(inputs.folder / "all.npy", np.ones((2048, 2048), bool))
    assert block_sparse_bytes("--block-size", 16, "--tile-mask", inputs.folder / "all.npy") < some
    few = inputs.folder / "few.txt"
    words = ["profile", *inputs.save("f32")[:4], *options_of(CASE), "--block-size", 16, "--quality-target", 0.5]
    succeed(*words, "--out", few)
    assert 0 < block_sparse_bytes("--block-size", 16, "--sparse-profile", few)


def test_explain_refuses_a_mask_without_a_length(inputs):
    np.save(inputs.folder / "tiles.npy", np.ones((2, 2), bool))
    line = refuse(2, "explain", "--segments", 64, "--rates", 1, "--tile-mask", inputs.folder / "tiles.npy")
    assert "--tile-mask: is of so many tokens; allowed with --n" in line
    line = refuse(1, "explain", "--segments", 64, "--rates", 1, "--n", 64, "--tile-mask", inputs.folder / "tiles.npy")
    assert "must end in the axes (blocks, blocks), (1, 1) for 64 tokens" in line


def test_show_leaves_out_what_is_not_computed():
    words = ["show", "--n", 64, "--heads", 2, "--segments", 64, "--rates", 1]
    rows = {}
    for pattern in ([], ["--sparse-pattern", "local_window", "--sparsity-ratio", 0.25, "--block-size", 16]):
        text = succeed(*words, *pattern)
        rows[len(pattern)] = [line.split()[1] for line in text.splitlines() if re.match(r" *\d+ +[.1]{64}$", line)]
    assert "block_sparse computes, of all heads: 8 of 32 tiles (25.00%), 25.00% of the pairs" in text
    assert rows[0] == ["1" * 64] * 64
    assert rows[6] == ["." * (i // 16 * 16) + "1" * 16 + "." * (48 - i // 16 * 16) for i in range(64)]
    for wrong in (["--sparsity-ratio", 0.1], ["--sparse-pattern", "content"], ["--quality-target", 0.9]):
        assert "tiles that data decide cannot be shown" in refuse(2, *words, *wrong)
    assert "tiles are shown as text" in refuse(2, *words, "--sparse-pattern", "axial", "--out", "pattern.png")


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words, message", [
    (["--sparse-pattern", "mask"], '--sparse-pattern: "mask" is said by its file: --tile-mask FILE'),
    (["--sparse-pattern", "diagonal"], '--sparse-pattern: "diagonal" is unknown; allowed: content, local_window'),
    (["--sparsity-ratio", "0"], '--sparsity-ratio: "0" is not a number above 0, at most 1'),
    (["--sparsity-ratio", "1.1"], '--sparsity-ratio: "1.1" is not a number above 0, at most 1'),
    (["--sparsity-ratio", "nan"], '--sparsity-ratio: "nan" is not a number above 0, at most 1'),
    (["--quality-target", "-1"], '--quality-target: "-1" is not a number above 0, at most 1'),
    (["--block-size", "40"], '--block-size: "40" is not a multiple of 16 up to 1024'),
    (["--block-size", "0"], '--block-size: "0" is not a multiple of 16 up to 1024'),
    (["--block-size", "1040"], '--block-size: "1040" is not a multiple of 16 up to 1024'),
    (["--global-blocks", "-1"], '--global-blocks: "-1" is not a whole number from 0 on'),
    (["--sparse-seed", "x"], '--sparse-seed: "x" is not a whole number from 0 on'),
    (["--tile-mask", "t.npy", "--sparsity-ratio", "0.5"], "--tile-mask: says which tiles are computed; not with"),
    (["--impl", "improved", "--sparsity-ratio", "0.5"], "--sparsity-ratio: has no effect on improved; allowed with"),
    (["--impl", "auto", "--block-size", "64"], "--block-size: has no effect on auto; allowed with --impl block_sparse"),
    (["--impl", "ring", "--tile-mask", "t.npy"], "--tile-mask: has no effect on ring; allowed with"),
], ids=str)
def test_refused_options(inputs, words, message):
    line = refuse(2, "run", *inputs.save(), *options_of(CASE), "--impl", "block_sparse", *words, "--out",
                  inputs.out / "out.npy")
    assert message in line
    assert not list(inputs.out.iterdir())


@pytest.mark.parametrize("kept, message", [
    (np.ones((3, 3)), "holds f64; allowed: bool, u8"),
    (np.ones(3, bool), "must end in the axes (blocks, blocks), (3, 3) for 45 tokens in blocks of 16"),
    (np.ones((3, 4), bool), "must end in the axes (blocks, blocks), (3, 3)"),
    (np.ones((1, 1, 1, 3, 3), bool), "must end in the axes"),
    (np.ones((3, 3, 3), bool), "heads"),
    (np.ones((3, 4, 3, 3), bool), "batch"),
], ids=lambda value: str(value.shape) if hasattr(value, "shape") else value)
def test_masks_that_do_not_fit(inputs, kept, message):
    np.save(inputs.folder / "tiles.npy", kept)
    line = refuse(1, "run", *inputs.save(), *options_of(CASE), "--impl",
                  "block_sparse", "--block-size", 16, "--tile-mask", inputs.folder / "tiles.npy", "--out",
                  inputs.out / "out.npy", "--quiet")
    assert message in line
    assert not list(inputs.out.iterdir())


def test_a_mask_that_is_not_there(inputs):
    line = refuse(1, "run", *inputs.save(), *options_of(CASE), "--impl", "block_sparse", "--tile-mask",
                  inputs.folder / "none.npy", "--out", inputs.out / "out.npy")
    assert "--tile-mask: " in line and "none.npy" in line
