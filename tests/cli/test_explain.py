"""explain: the factory's rules on this and on imagined hardware."""
import pytest

from cli_support import refuse, succeed, succeed_json

PATTERN = ["--segments", "2048,4096,8192", "--rates", "1,2,4"]


def explain(*words):
    return succeed_json("explain", *PATTERN, *words)


def rule(report, number):
    return report["rules"][number - 1]


def test_text_and_json_agree():
    report = explain("--n", 4096, "--heads", 12)
    text = succeed("explain", *PATTERN, "--n", 4096, "--heads", 12)
    assert report["choice"] in text
    for entry in report["rules"]:
        assert entry["condition"] in text


def test_json_holds_rules_cost_and_alternatives():
    report = explain("--n", 8192, "--batch", 2, "--heads", 12, "--kv-heads", 4, "--head-dim", 32, "--dtype", "bf16")
    assert report["problem"] == {"batch": 2, "n": 8192, "heads": 12, "kv_heads": 4, "head_dim": 32, "dtype": "bf16"}
    assert len(report["rules"]) == 6 and sum(entry["chosen"] for entry in report["rules"]) == 1
    cost = report["cost"]
    assert cost["counted_pairs"] == 2 * 12 * 8192 * (2048 + 1024 + 512)
    assert cost["counted_flops"] == 4 * 32 * cost["counted_pairs"]
    assert cost["distinct_pairs"] < cost["counted_pairs"] < cost["dense_pairs"] == 2 * 12 * 8192**2
    assert {entry["name"] for entry in report["alternatives"]} >= {"standard", "improved"}
    assert next(e for e in report["rules"] if e["chosen"])["implementation"] == report["choice"]


def test_unknown_length_has_no_cost():
    assert explain("--heads", 2)["cost"] is None


@pytest.mark.parametrize("words, holds", [([], False), (["--quality-target", 0.99], True), (["--sparsity-ratio", 0.1], False)])
def test_rule_of_a_quality_target(words, holds):
    """Quality is traded for speed only where that is asked for."""
    report = explain("--n", 200000, *words)
    assert (rule(report, 1)["implementation"], rule(report, 1)["holds"]) == ("block_sparse", holds)
    assert (report["choice"] == "block_sparse") == holds


@pytest.mark.parametrize("n, holds", [(100000, False), (100001, True)])
def test_rule_of_many_tokens(n, holds):
    entry = rule(explain("--n", n, "--hardware-gpus", "none"), 3)
    assert (entry["implementation"], entry["holds"]) == ("ring", holds)


@pytest.mark.parametrize("version, gpus, holds", [
    (3, "H100:9.0:80", True),
    (3, "A100:8.0:80", False),
    (2, "H100:9.0:80", False),
    (3, "none", False),
])
def test_rule_of_flash_attention_3(version, gpus, holds):
    entry = rule(explain("--n", 1000, "--flash-attention", version, "--hardware-gpus", gpus), 2)
    assert (entry["implementation"], entry["holds"]) == ("improved", holds)


@pytest.mark.parametrize("gpus, n, holds", [
    ("A100:8.0:80,A100:8.0:80", 50001, True),
    ("A100:8.0:80,A100:8.0:80", 50000, False),
    ("A100:8.0:80", 60000, False),
])
def test_rule_of_several_gpus(gpus, n, holds):
    entry = rule(explain("--n", n, "--hardware-gpus", gpus), 4)
    assert (entry["implementation"], entry["holds"]) == ("distributed", holds)


BAD = [
    (["--n", "0"], ["--n", "from 1 on"]),
    (["--n", "1e6"], ["--n", '"1e6"']),
    (["--heads", "0"], ["--heads"]),
    (["--batch", "-1"], ["--batch"]),
    (["--head-dim", "257"], ["--head-dim", "from 1 to 256"]),
    (["--heads", "6", "--kv-heads", "4"], ["4", "6"]),
    (["--flash-attention", "4"], ["--flash-attention", "from 2 to 3"]),
    (["--hardware-gpus", "H100"], ["--hardware-gpus", "NAME:CC:GIB"]),
    (["--hardware-gpus", "H100:9:80"], ["--hardware-gpus"]),
    (["--hardware-gpus", "H100:9.0:80,"], ["--hardware-gpus"]),
    (["--hardware-gpus", "H100:9.0:-1"], ["--hardware-gpus"]),
    (["--hardware-gpus", "H100:9.0:nan"], ["--hardware-gpus"]),
    (["--hardware-gpus", ",".join(["G:8.0:1"] * 17)], ["--hardware-gpus", "16"]),
    (["--hardware-gpus", "G" * 96 + ":8.0:1"], ["--hardware-gpus"]),
]


@pytest.mark.parametrize("words, parts", BAD)
def test_bad_value(words, parts):
    line = refuse(2, "explain", *PATTERN, *words)
    for part in parts:
        assert part in line, line


def test_pattern_is_needed():
    assert "--segments" in refuse(2, "explain", "--n", 100)


def test_ranks():
    words = ["--n", 16384, "--heads", 4, "--ranks", 4, "--network-bandwidth", "1G", "--network-latency", "10u"]
    report = explain(*words)["ranks"]
    assert report["choice"] in ("ring", "distributed")
    assert report["ring"]["bytes"] == report["distributed_tokens"]["bytes"] > 0
    assert report["split"]["forward"] in ("tokens", "heads") and report["distributed_heads"]["bytes"] > 0
    text = succeed("explain", *PATTERN, *words)
    assert "over 4 ranks, contiguous, 16384 tokens, forward" in text and "why:" in text
    assert "ranks" not in explain("--n", 16384)
    assert "problem.n is 0" in refuse(2, "explain", *PATTERN, "--ranks", 4)
