"""bench: its figures agree with each other, and --check looks at the results."""
import math

import pytest

from cli_support import refuse, succeed, succeed_json

SMALL = ["--n", "300", "--heads", 3, "--head-dim", 16, "--segments", "64,128,256", "--rates", "1,2,4", "--repeats", 2,
         "--threads", 2]


def test_json():
    report = succeed_json("bench", *SMALL, "--check")
    assert report["segment_lengths"] == [64, 128, 256] and report["repeats"] == 2 and report["threads"] == 2
    peak = report["peak"]["best_flops_per_second"]
    assert peak >= report["peak"]["median_flops_per_second"] > 1e8
    assert [entry["implementation"] for entry in report["results"]] == ["improved", "standard"]
    for entry in report["results"]:
        assert 0 < entry["fastest_seconds"] <= entry["median_seconds"] <= entry["slowest_seconds"]
        assert math.isclose(entry["tokens_per_second"], 300 / entry["median_seconds"], rel_tol=1e-6)
        counted = entry["counted_flops"] / entry["median_seconds"]
        assert math.isclose(entry["counted_flops_per_second"], counted, rel_tol=1e-6)
        assert math.isclose(entry["counted_fraction_of_peak"], counted / peak, rel_tol=1e-6)
        assert 0 < entry["distinct_flops"] < entry["counted_flops"]
        assert 0 < entry["distinct_fraction_of_peak"] < 1
        assert entry["check"]["passed"] and entry["check"]["queries"] == 64
        assert 0 < entry["check"]["largest_error"] and entry["check"]["largest_error_over_allowed"] < 1


def test_text():
    text = succeed("bench", *SMALL, "--impl", "standard", "--n", "100,200", "--check")
    assert "multiply-add peak of this machine: " in text
    assert text.count("standard ") == 2 and text.count(": right\n") == 2 and "improved" not in text


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "bf16"])
def test_check_passes_for_every_data_type(dtype):
    report = succeed_json("bench", *SMALL, "--dtype", dtype, "--check")
    assert report["dtype"] == dtype and all(entry["check"]["passed"] for entry in report["results"])


@pytest.mark.parametrize("words", [
    ["--causal"], ["--window", 50], ["--preset", "torchscale"], ["--preset", "torchscale", "--causal"],
    ["--preset", "head_groups"], ["--preset", "head_groups", "--tail-rule", "zero_pad"], ["--overlap", "once"],
    ["--scale", 2], ["--segments", "70,150", "--rates", "3,7"], ["--preset", "torchscale", "--n", 127],
    ["--kv-heads", 1], ["--batch", 2, "--n", 65], ["--rates", "2,4,8", "--n", 33], ["--n", 1],
    ["--isa", "portable"],
], ids=lambda words: "_".join(map(str, words)))
def test_check_passes_for_every_option(words):
    report = succeed_json("bench", *SMALL, "--repeats", 1, *words, "--check")
    assert [entry["check"]["passed"] for entry in report["results"]] == [True, True]


@pytest.mark.parametrize("words", [
    [], ["--causal"], ["--dtype", "f64", "--window", 50], ["--dtype", "bf16"], ["--dtype", "f16", "--scale", 1],
    ["--preset", "torchscale", "--n", 127], ["--preset", "head_groups", "--tail-rule", "zero_pad"],
    ["--overlap", "once", "--segments", "70,150", "--rates", "3,7"], ["--heads", 4, "--kv-heads", 2, "--batch", 2, "--n", 65],
    ["--isa", "portable", "--n", 1],
], ids=lambda words: "_".join(map(str, words)))
def test_backward(words):
    report = succeed_json("bench", *SMALL, "--repeats", 1, *words, "--backward", "--check")
    forward = succeed_json("bench", *SMALL, "--repeats", 1, *words)
    assert report["backward"] and not forward["backward"]
    for entry, half in zip(report["results"], forward["results"]):
        assert entry["check"]["passed"] and entry["gradient_check"]["passed"] and "gradient_check" not in half
        assert entry["gradient_check"]["queries"] == 48
        assert entry["gradient_check"]["largest_error"] > 0 or 1 in words
        assert math.isclose(entry["counted_flops"], 3.5 * half["counted_flops"])


def test_backward_as_text():
    text = succeed("bench", *SMALL, "--impl", "improved", "--backward", "--check")
    assert "forward and backward pass" in text and "48 rows of gradients against f64" in text and text.count(": right\n") == 2


def test_generated_data_do_not_depend_on_threads():
    errors = [[entry["check"]["largest_error"] for entry in
               succeed_json("bench", *SMALL, "--threads", threads, "--check")["results"]] for threads in (1, 3)]
    assert errors[0] == errors[1]


def test_defaults_are_the_usual_problem():
    report = succeed_json("bench", "--impl", "improved", "--n", 1000, "--repeats", 1)
    assert (report["heads"], report["head_dim"], report["dtype"]) == (12, 64, "f32")
    assert report["segment_lengths"] == [2048, 4096, 8192] and report["dilation_rates"] == [1, 2, 4]
    assert "check" not in report["results"][0]


@pytest.mark.parametrize("words, parts", [
    (["--impl", "fastest"], ["--impl", '"fastest"', "standard"]),
    (["--impl", "standard,"], ["--impl", "names"]),
    (["--n", "0"], ["--n"]),
    (["--repeats", "0"], ["--repeats", "from 1 to 1000"]),
    (["--heads", "6", "--kv-heads", "4"], ["--kv-heads", "4", "6"]),
    (["--rates", "1,2"], ["--segments", "missing"]),
])
def test_bad_value(words, parts):
    line = refuse(2, "bench", *words)
    for part in parts:
        assert part in line


def test_tensors_beyond_any_memory():
    assert "memory" in refuse(1, "bench", "--n", 2**62, "--impl", "standard", "--json")
