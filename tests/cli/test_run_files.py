"""run: layouts, data types, formats, key padding, reports."""
import math
import os
import stat
import subprocess

import numpy as np
import pytest
import safetensors.numpy

from cli_support import (IMPLEMENTATIONS, assert_matches, decode, dilated_attention, encode, expected, read_safetensors,
                         succeed, succeed_json, write_safetensors)

CASE = {"segment_lengths": [8, 16, 32], "dilation_rates": [1, 2, 4], "causal": True}
PATTERN = ["--segments", "8,16,32", "--rates", "1,2,4", "--causal"]


def stored(inputs, dtype):
    return [encode(getattr(inputs, name), dtype) for name in "qkv"]


def test_output_is_mentioned_and_readable(inputs):
    out = inputs.out / "o.npy"
    line = succeed("run", *inputs.save(), *PATTERN, "--impl", "standard", "--threads", 2, "--out", out)
    assert "2 threads): 2 x 45 x 4 x 8 f32 in " in line
    assert "tokens/s" in line and "GF/s" in line and "beyond inputs and outputs" in line and "chosen" not in line
    assert os.listdir(inputs.out) == ["o.npy"]
    assert stat.S_IMODE(out.stat().st_mode) & stat.S_IRUSR


def test_line_says_why_auto_chose(inputs):
    assert "; chosen because: " in succeed("run", *inputs.save(), *PATTERN, "--out", inputs.out / "o.npy")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "bf16"])
def test_data_types(inputs, dtype, implementation):
    out, lse = inputs.out / "o.npy", inputs.out / "l.npy"
    report = succeed_json("run", *inputs.save(dtype), *PATTERN, "--impl", implementation, "--out", out, "--lse", lse)
    assert (report["dtype"], report["converted_input_bytes"]) == (dtype, 0)
    assert_matches(np.load(out), np.load(lse), *stored(inputs, dtype), CASE, dtype)
    assert np.load(lse).dtype == (np.float64 if dtype == "f64" else np.float32)


@pytest.mark.parametrize("to", ["f32", "f64", "f16", "bf16"])
@pytest.mark.parametrize("held", ["f32", "f64", "f16", "bf16"])
def test_dtype_converts_inputs(inputs, held, to):
    out = inputs.out / "o.npy"
    report = succeed_json("run", *inputs.save(held), *PATTERN, "--dtype", to, "--out", out)
    assert report["dtype"] == to
    assert (report["converted_input_bytes"] > 0) == (held != to)
    seen = [encode(decode(array), to) for array in stored(inputs, held)]
    assert_matches(np.load(out), None, *seen, CASE, to)


def test_dtype_joins_inputs_of_different_types(inputs):
    files = inputs.save("f32")
    np.save(inputs.folder / "k.npy", encode(inputs.k, "f16"))
    out = inputs.out / "o.npy"
    succeed("run", *files, *PATTERN, "--dtype", "f32", "--out", out)
    assert_matches(np.load(out), None, inputs.q, encode(inputs.k, "f16"), inputs.v, CASE, "f32")


def test_conversion_rounds_as_numpy_does(inputs):
    """One key per query: the output is the value itself."""
    rng = np.random.default_rng(3)
    values = (rng.standard_normal(16 * 64) * 2.0 ** rng.integers(-26, 16, 16 * 64)).astype(np.float32)
    inputs.q = inputs.k = np.zeros((1, 16, 1, 64), np.float32)
    inputs.v = np.clip(values, -60000, 60000).reshape(1, 16, 1, 64)
    out = inputs.out / "o.npy"
    succeed("run", *inputs.save(), "--segments", 1, "--rates", 1, "--dtype", "f16", "--impl", "standard", "--out", out)
    np.testing.assert_array_equal(np.load(out), inputs.v.astype(np.float16))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_heads_first_layout(inputs, implementation):
    def swap(array):
        return np.ascontiguousarray(array.swapaxes(1, 2))

    out, lse = inputs.out / "o.npy", inputs.out / "l.npy"
    succeed("run", *inputs.save(arrange=swap), *PATTERN, "--layout", "bhnd", "--impl", implementation, "--out", out,
            "--lse", lse)
    assert np.load(out).shape == (2, 4, 45, 8) and np.load(lse).shape == (2, 4, 45)
    assert_matches(swap(np.load(out)), np.load(lse).swapaxes(1, 2), inputs.q, inputs.k, inputs.v, CASE, "f32")


@pytest.mark.parametrize("layout", ["bnhd", "bhnd"])
def test_three_axes_are_a_batch_of_one(inputs, layout):
    def arrange(array):
        return array[1] if layout == "bnhd" else array[1].swapaxes(0, 1)

    out, lse = inputs.out / "o.npy", inputs.out / "l.npy"
    succeed("run", *inputs.save(arrange=arrange), *PATTERN, "--layout", layout, "--out", out, "--lse", lse)
    found, found_lse = np.load(out), np.load(lse)
    if layout == "bhnd":
        assert found.shape == (4, 45, 8)
        found, found_lse = found.swapaxes(0, 1), found_lse.swapaxes(0, 1)
    assert_matches(found[None], found_lse[None], inputs.q[1:], inputs.k[1:], inputs.v[1:], CASE, "f32")


def test_fortran_order_is_read(inputs):
    out = inputs.out / "o.npy"
    succeed("run", *inputs.save(arrange=np.asfortranarray), *PATTERN, "--out", out)
    assert_matches(np.load(out), None, inputs.q, inputs.k, inputs.v, CASE, "f32")


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "bf16"])
def test_safetensors_in_and_out(inputs, dtype):
    weights, out, lse = inputs.folder / "t.safetensors", inputs.out / "o.safetensors", inputs.out / "l.safetensors"
    write_safetensors(weights, dict(zip(("layer.0.q", "layer.0.k", "v"), stored(inputs, dtype))))
    succeed("run", "--q", f"{weights}:layer.0.q", "--k", f"{weights}:layer.0.k", "--v", f"{weights}:v", *PATTERN,
            "--out", f"{out}:attended", "--lse", lse)
    assert list(read_safetensors(out)) == ["attended"]
    assert list(read_safetensors(lse)) == ["tensor"]
    attended = read_safetensors(out)["attended"]
    assert_matches(attended, read_safetensors(lse)["tensor"], *stored(inputs, dtype), CASE, dtype)
    if dtype != "bf16":
        np.testing.assert_array_equal(safetensors.numpy.load_file(out)["attended"], attended)


def test_file_of_one_tensor_needs_no_name(inputs):
    files = inputs.save()
    write_safetensors(inputs.folder / "q.safetensors", {"only": inputs.q})
    out = inputs.out / "o.npy"
    succeed("run", "--q", inputs.folder / "q.safetensors", *files[2:], *PATTERN, "--out", out)
    assert_matches(np.load(out), None, inputs.q, inputs.k, inputs.v, CASE, "f32")


def test_one_file_may_be_all_inputs(inputs):
    inputs.save()
    q, out = inputs.folder / "q.npy", inputs.out / "o.npy"
    succeed("run", "--q", q, "--k", q, "--v", q, *PATTERN, "--out", out)
    assert_matches(np.load(out), None, inputs.q, inputs.q, inputs.q, CASE, "f32")


# ----------------------------------------------------------------------------------------------------------------------
# Key padding


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("lengths", [[45, 20], [0, 45], [1, 44]])
def test_lengths(inputs, lengths, implementation):
    inputs.k[1, lengths[1]:] = np.nan  # what is padded may hold anything
    inputs.v[1, lengths[1]:] = np.nan
    out, lse = inputs.out / "o.npy", inputs.out / "l.npy"
    succeed("run", *inputs.save(), *PATTERN, "--lengths", ",".join(map(str, lengths)), "--impl", implementation,
            "--out", out, "--lse", lse)
    k, v = np.nan_to_num(inputs.k), np.nan_to_num(inputs.v)
    assert_matches(np.load(out), np.load(lse), inputs.q, k, v, dict(CASE, key_padding=lengths), "f32")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("mask_type", [np.bool_, np.uint8])
def test_key_mask(inputs, mask_type, implementation):
    mask = np.random.default_rng(5).random((2, 45)) < 0.4
    held = mask if mask_type is np.bool_ else mask.astype(np.uint8) * 7
    np.save(inputs.folder / "m.npy", np.asfortranarray(held))
    out = inputs.out / "o.npy"
    succeed("run", *inputs.save(), *PATTERN, "--key-mask", inputs.folder / "m.npy", "--impl", implementation,
            "--out", out)
    wanted, _ = expected(inputs.q, inputs.k, inputs.v, CASE)
    masked, _ = expected_with_mask(inputs, mask)
    assert np.abs(wanted - masked).max() > 0.1
    np.testing.assert_allclose(np.load(out), masked, rtol=0, atol=1e-5)


def expected_with_mask(inputs, mask):
    return dilated_attention(inputs.q, inputs.k, inputs.v, CASE["segment_lengths"], CASE["dilation_rates"], causal=True,
                             key_padding=mask)


def test_mask_and_lengths_add_up(inputs):
    mask = np.random.default_rng(6).random(45) < 0.3
    np.save(inputs.folder / "m.npy", mask)
    inputs.q, inputs.k, inputs.v = inputs.q[:1], inputs.k[:1], inputs.v[:1]
    out = inputs.out / "o.npy"
    succeed("run", *inputs.save(), *PATTERN, "--key-mask", inputs.folder / "m.npy", "--lengths", 30, "--out", out)
    masked, _ = expected_with_mask(inputs, (mask | (np.arange(45) >= 30))[None])
    np.testing.assert_allclose(np.load(out), masked, rtol=0, atol=1e-5)


def test_no_key_left_gives_zero_and_minus_infinity(inputs):
    out, lse = inputs.out / "o.npy", inputs.out / "l.npy"
    succeed("run", *inputs.save(), *PATTERN, "--lengths", "0,0", "--out", out, "--lse", lse)
    assert not np.load(out).any() and np.isneginf(np.load(lse)).all()


# ----------------------------------------------------------------------------------------------------------------------
# Configuration


@pytest.mark.parametrize("preset, rules", [
    ("longnet", {}),
    ("torchscale", {"offset_rule": "block", "tail_rule": "zero_pad"}),
    ("head_groups", {"mixing": "head_groups"}),
])
def test_presets(inputs, preset, rules):
    out = inputs.out / "o.npy"
    succeed("run", *inputs.save(), "--segments", "8,32", "--rates", "1,4", "--preset", preset, "--out", out)
    case = {"segment_lengths": [8, 32], "dilation_rates": [1, 4], **rules}
    assert_matches(np.load(out), None, inputs.q, inputs.k, inputs.v, case, "f32")


def test_rules_override_the_preset_in_any_order(inputs):
    files = inputs.save()
    rules = ["--tail-rule", "mask", "--offset-rule", "mod"]
    orders = [["--preset", "torchscale", *rules], [*rules, "--preset", "torchscale"]]
    case = {"segment_lengths": [8, 32], "dilation_rates": [1, 4]}
    for number, order in enumerate(orders):
        out = inputs.out / f"o{number}.npy"
        succeed("run", *files, "--segments", "8,32", "--rates", "1,4", *order, "--out", out)
        assert_matches(np.load(out), None, inputs.q, inputs.k, inputs.v, case, "f32")


def test_negative_scale_and_window(inputs):
    out = inputs.out / "o.npy"
    succeed("run", *inputs.save(), *PATTERN, "--scale", "-0.5", "--window", 9, "--out", out)
    assert_matches(np.load(out), None, inputs.q, inputs.k, inputs.v, dict(CASE, scale=-0.5, window=9), "f32")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_threads_do_not_change_a_bit(inputs, implementation):
    files, written = inputs.save(), []
    for threads in (1, 2, 7):
        out = inputs.out / f"o{threads}.npy"
        report = succeed_json("run", *files, *PATTERN, "--impl", implementation, "--threads", threads, "--out", out)
        assert report["threads"] == threads
        written.append(out.read_bytes())
    assert written[0] == written[1] == written[2]


# ----------------------------------------------------------------------------------------------------------------------
# Reports and files


def test_json_report(inputs):
    out, lse = inputs.out / "o.npy", inputs.out / "l.npy"
    report = succeed_json("run", *inputs.save(), *PATTERN, "--out", out, "--lse", lse)
    kinds = {"implementation": str, "requested": str, "reason": str, "instruction_set": str, "threads": int,
             "batch": int, "n": int, "heads": int, "kv_heads": int, "head_dim": int, "dtype": str,
             "segment_lengths": list, "dilation_rates": list, "seconds": float, "tokens_per_second": float, "counted_flops": float,
             "counted_gflops_per_second": float, "workspace_bytes": int, "converted_input_bytes": int, "out": str,
             "lse": str, "peak_resident_bytes": int}
    assert {name: type(value) for name, value in report.items()} == kinds
    assert [report[name] for name in ("batch", "n", "heads", "kv_heads", "head_dim")] == [2, 45, 4, 2, 8]
    assert report["segment_lengths"] == [8, 16, 32] and report["dilation_rates"] == [1, 2, 4]
    assert (report["out"], report["lse"]) == (str(out), str(lse))
    assert math.isclose(report["tokens_per_second"], 90 / report["seconds"], rel_tol=1e-6)


def test_json_leaves_out_what_there_is_not(inputs):
    report = succeed_json("run", *inputs.save(), *PATTERN, "--impl", "standard", "--out", inputs.out / "o.npy")
    assert "reason" not in report and "lse" not in report


def test_counted_flops_are_those_of_the_pattern(inputs):
    """One segment of all tokens: 45 * 46 / 2 pairs, 8 heads in all, 4 * 8 operations each."""
    report = succeed_json("run", *inputs.save(), "--segments", 64, "--rates", 1, "--causal",
                          "--out", inputs.out / "o.npy")
    assert report["counted_flops"] == 45 * 46 / 2 * 8 * 32


def test_quiet_says_nothing(inputs):
    out = inputs.out / "o.npy"
    assert succeed("run", *inputs.save(), *PATTERN, "--quiet", "--out", out) == ""
    assert out.exists()


def test_output_replaces_an_older_file_and_follows_a_link(inputs):
    target, link = inputs.out / "target.npy", inputs.out / "link.npy"
    target.write_bytes(b"old")
    link.symlink_to(target)
    succeed("run", *inputs.save(), *PATTERN, "--out", link)
    assert link.is_symlink() and np.load(target).shape == (2, 45, 4, 8)


def test_full_standard_output_is_noticed(inputs):
    with open("/dev/full", "w", encoding="ascii") as full:
        done = subprocess.run([os.environ["DA_CLI"], *map(str, ["run", *inputs.save(), *PATTERN, "--out",
                                                              inputs.out / "o.npy"])],
                              stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and "standard output" in done.stderr
