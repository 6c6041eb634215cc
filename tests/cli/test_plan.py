"""plan: messages, memory and time of many ranks, without data."""
import pytest

from cli_support import refuse, run, succeed, succeed_json

WHOLE = ["--segments", "1024,65536", "--rates", "1,16"]
PLAN = ["--tokens", 65536, "--heads", 4, "--rate", "100G"]


def plan(*words):
    return succeed_json("plan", *WHOLE, *PLAN, *words)


def test_bytes_by_hand():
    """Of 16384 tokens of each other rank, each head keeps one in 16: keys and values of 64 numbers, 4 bytes each."""
    report = plan("--ranks", 4)
    received = 3 * 4 * 16384 // 16 * 2 * 64 * 4
    for name in ["ring", "distributed_tokens"]:
        assert report[name]["rank_bytes_received"] == {"least": received, "mean": received, "most": received}
        assert report[name]["rank_messages_received"]["most"] == 3
        assert report[name]["bytes"] == 4 * received
    assert report["ranks_gone_through"] == 4


def times_over(bandwidth):
    report = plan("--ranks", 4, "--network-bandwidth", bandwidth, "--network-latency", "1u", "--network-overhead", 0)
    gathered = report["distributed_tokens"]
    transfer, computing = (gathered[f"rank_{name}_seconds"]["most"] for name in ["transfer", "compute"])
    return report, transfer, computing


def test_messages_are_hidden_while_they_are_the_shorter():
    report, transfer, computing = times_over("1G")
    assert transfer < computing / 10
    for name in ["ring", "distributed_tokens"]:
        assert report[name]["seconds"] == pytest.approx(computing, rel=1e-3)
    assert report["choice"] == "ring"  # it needs less memory


def test_messages_are_waited_for_while_they_are_the_longer():
    report, transfer, computing = times_over("10M")
    assert transfer > 2 * computing
    for name in ["ring", "distributed_tokens"]:
        assert transfer < report[name]["seconds"] < transfer + computing


@pytest.mark.parametrize("partition, low, high", [("contiguous", 1.12, 2), ("zigzag", 1, 1.01), ("striped", 1, 1.1)])
def test_causal_balance(partition, low, high):
    report = plan("--ranks", 4, "--causal", "--partition", partition)
    assert low <= report["ring"]["balance"] < high


def test_backward_sends_more():
    forward, both = plan("--ranks", 2), plan("--ranks", 2, "--backward")
    assert both["ring"]["bytes"] > 2 * forward["ring"]["bytes"]
    assert both["ring"]["rank_flops"]["most"] == pytest.approx(4.5 * forward["ring"]["rank_flops"]["most"])


def test_heads_by_hand():
    """Of each other rank a rank gets its tokens of one head's query, key and value, and later of three heads' results."""
    report = plan("--ranks", 4, "--split", "heads")
    received = 3 * 16384 * (4 * 64 * 4 + 8)
    assert report["distributed_heads"]["rank_bytes_received"] == {"least": received, "mean": received, "most": received}
    assert report["split"] == {"forward": "heads"}
    assert report["distributed"]["seconds"] == report["distributed_heads"]["seconds"]


@pytest.mark.parametrize("bandwidth, split", [("100M", "tokens"), ("1T", "heads")])
def test_split_follows_the_network(bandwidth, split):
    """Causal work in contiguous parts is uneven by tokens, and by heads even, but all tensors travel."""
    words = ["--ranks", 4, "--causal", "--backward", "--network-bandwidth", bandwidth]
    report = plan(*words)
    assert report["split"] == {"forward": split, "backward": split}
    assert report["distributed"]["bytes"] == report[f"distributed_{split}"]["bytes"]
    text = succeed("plan", *WHOLE, *PLAN, *words)
    assert f"split:  forward by {split}: " in text and f"split:  backward by {split}: " in text


def test_too_few_key_heads_for_heads():
    report = plan("--ranks", 4, "--kv-heads", 2, "--causal", "--network-bandwidth", "1T")
    assert report["split"] == {"forward": "tokens"}
    assert report["distributed_heads"]["balance"] == pytest.approx(2)
    assert "split:  forward by tokens: 2 key heads for 4 ranks" in succeed("plan", *WHOLE, *PLAN, "--ranks", 4,
                                                                            "--kv-heads", 2)


def test_scaling_keeps_bytes_and_is_drawn(tmp_path):
    picture = tmp_path / "scaling.png"
    report = plan("--ranks", 4, "--split", "tokens", "--scaling", "2,8,32", "--plot", picture)
    assert [point["tokens"] for point in report["scaling"]] == [32768, 131072, 524288]
    received = [point["distributed_bytes_most"] for point in report["scaling"]]
    assert received[0] < received[1] < received[2] < 2 * received[0]  # never more than all that is kept
    assert report["scaling"][2]["dense_seconds"] > 15 * report["scaling"][0]["dense_seconds"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_text_names_the_choice_and_one_implementation():
    text = succeed("plan", *WHOLE, *PLAN, "--ranks", 4, "--impl", "ring")
    assert "choice: " in text and "why: " in text
    assert "\nring, of each rank" in text and "\ndistributed, of each rank" not in text


def test_rates_of_this_machine():
    report = succeed_json("plan", "--segments", 256, "--rates", 1, "--tokens", 2048, "--ranks", 2, "--backward")
    assert report["ring"]["rank_compute_seconds"]["most"] > 0


@pytest.mark.parametrize("words, part", [
    ([], "--tokens: missing"),
    (["--tokens", 0], "--tokens"),
    (["--tokens", 10, "--ranks", 65537], "--ranks"),
    (["--tokens", 10, "--impl", "improved"], '--impl: "improved" is unknown; allowed: ring, distributed, '),
    (["--tokens", 10, "--network-bandwidth", "fast"], "--network-bandwidth"),
    (["--tokens", 10, "--network-bandwidth", "25GB"], "--network-bandwidth"),
    (["--tokens", 10, "--network-bandwidth", 0], "options.bandwidth is 0"),
    (["--tokens", 10, "--network-latency", "-1"], "--network-latency"),
    (["--tokens", 10, "--plot", "x.png"], "--plot: there is nothing to draw"),
    (["--tokens", 10, "--plot", "x.txt", "--scaling", "1,2"], "a picture's name ends in .png or .svg"),
])
def test_refusals(words, part):
    assert part in refuse(2, "plan", "--segments", 4, "--rates", 1, *words)


def test_bench_over_ranks():
    words = ["bench", "--ranks", 2, "--threads", 1, "--n", 2048, "--heads", 2, "--repeats", 2, "--segments", "256,2048",
             "--rates", "1,4", "--network-bandwidth", "1G", "--network-latency", "100u", "--backward"]
    report = succeed_json(*words)
    assert [row["implementation"] for row in report["results"]] == ["ring", "distributed"]
    for row in report["results"]:
        assert min(row[f"{kind}_seconds"] for kind in ["single", "free", "limited", "predicted", "transfer"]) > 0
    assert "overlap" in succeed(*words)


@pytest.mark.parametrize("words, part", [(["--impl", "improved"], "allowed with --ranks: ring, distributed"),
                                         (["--check"], "--check: not with --ranks"), (["--n", 1], "less than --ranks")])
def test_bench_over_ranks_refuses(words, part):
    done = run("bench", "--ranks", 2, *words)
    assert done.returncode == 2 and part in done.stderr
