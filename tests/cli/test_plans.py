"""--plans and --plan: plans are made, kept in a file, used again, and refused where they cannot be trusted."""
import pytest

from cli_support import refuse, succeed, succeed_json

SMALL = ["--n", 300, "--heads", 2, "--head-dim", 16, "--segments", "64,128", "--rates", "1,2", "--threads", 2]


def explain(*words):
    return succeed_json("explain", *SMALL, *words)


def test_explain_shows_estimates_and_tuning():
    report = explain()
    times = {entry["name"]: entry["estimated_seconds"] for entry in report["alternatives"]}
    assert times["improved"] > 0 and times["standard"] > 0 and times["ring"] > 0 and times["distributed"] == 0
    assert report["tuning"]["remembered"] is False and "plan" not in report
    text = succeed("explain", *SMALL)
    assert "estimated time" in text and "tuning" in text


def test_estimate_lists_candidates():
    plan = explain("--plan", "estimate")["plan"]
    assert plan["remembered"] is False and len(plan["candidates"]) > 4
    assert all(entry["estimated_seconds"] > 0 and entry["measured_seconds"] == 0 for entry in plan["candidates"])
    assert plan["choice"] in plan["candidates"]


def test_measured_plans_are_kept_and_used(tmp_path):
    file = tmp_path / "plans.txt"
    measured = explain("--plan", "measure", "--plans", file)["plan"]
    assert measured["remembered"] is False and measured["choice"]["measured_seconds"] > 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["plans.txt"]
    before = file.read_bytes()
    again = explain("--plan", "measure", "--plans", file)["plan"]
    assert again["remembered"] is True and again["candidates"] == []
    assert again["choice"]["tuning"] == measured["choice"]["tuning"]
    assert file.read_bytes() == before
    used = explain("--plans", file)
    if measured["choice"]["implementation"] == used["choice"]:
        assert used["tuning"]["remembered"] is True
    bench = succeed_json("bench", *SMALL, "--repeats", 1, "--plans", file, "--check", "--impl",
                         measured["choice"]["implementation"])
    assert bench["results"][0]["tuning"] == measured["choice"]["tuning"] and bench["results"][0]["check"]["passed"]
    assert bench["results"][0]["estimated_seconds"] > 0


def test_bench_tunes(tmp_path):
    for how in ("estimate", "measure"):
        report = succeed_json("bench", *SMALL, "--repeats", 1, "--plan", how, "--check")
        assert all(entry["check"]["passed"] for entry in report["results"])
    text = succeed("bench", *SMALL, "--repeats", 1)
    assert "estimate s" in text and "off by" in text


@pytest.mark.parametrize("change", [
    lambda text: text[:-5], lambda text: text.replace(" improved ", " standard "),
    lambda text: text.replace("plans 1", "plans 2"), lambda text: "", lambda text: text + "\n",
], ids=["short", "changed", "format", "empty", "longer"])
@pytest.mark.parametrize("command", ["explain", "bench"])
def test_damaged_file_is_refused(tmp_path, command, change):
    file = tmp_path / "plans.txt"
    explain("--plan", "measure", "--plans", file)
    text = file.read_text()
    damaged = change(text)
    if damaged == text:
        damaged = text.replace(" standard ", " improved ")
    file.write_text(damaged)
    line = refuse(1, command, *SMALL, "--plan", "measure", "--plans", file)
    assert "--plans" in line and str(file) in line
    assert file.read_text() == damaged


def test_bad_values(tmp_path):
    assert "allowed: estimate, measure" in refuse(2, "explain", *SMALL, "--plan", "guess")
    assert str(tmp_path) in refuse(1, "explain", *SMALL, "--plans", tmp_path)
    assert "--plans" in refuse(2, "explain", *SMALL, "--plans", "")
    assert "problem.n" in refuse(2, "explain", "--segments", 64, "--rates", 1, "--plan", "estimate")
