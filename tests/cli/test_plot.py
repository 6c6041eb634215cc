"""plot: curves from logs of trainings; logs that are none."""
import json
import re
import struct

import pytest

from cli_support import refuse, run, succeed

pytestmark = pytest.mark.skipif("plot" not in run("--help").stdout, reason="built without the library of modules")


def line(step, loss, validation=None):
    point = {"step": step, "tokens": 100 * step, "loss": loss, "tokens_per_second": 10.5}
    return json.dumps(point if validation is None else point | {"validation_bits_per_byte": validation}) + "\n"


@pytest.fixture(name="log")
def make_log(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(line(k, 5 / k, 6 / k if k % 5 == 0 else None) for k in range(1, 21)))
    return path


def png_size(path):
    raw = path.read_bytes()
    assert raw[:8] == b"\x89PNG\r\n\x1a\n" and raw[12:16] == b"IHDR"
    return struct.unpack(">II", raw[16:24])


def test_a_row_for_each_log(tmp_path, log):
    other, one, two = tmp_path / "b.jsonl", tmp_path / "one.png", tmp_path / "two.png"
    other.write_text(line(1, 5.5) + line(2, 4.5))
    assert succeed("plot", "--logs", log, "--out", one) == ""
    succeed("plot", "--logs", f"{log},{other}", "--names", "dilated,dense", "--out", two)
    (width, height), (_, higher) = png_size(one), png_size(two)
    assert 1000 < width < 2000 and 600 < height < higher < height + 100


def points_of_curves(path):
    """Lengths of the paths that are drawn as lines, the longest first."""
    paths = [path for path in re.findall("<path[^>]*>", path.read_text()) if re.search('fill(:|=")none', path)]
    return sorted((re.search(' d="([^"]*)"', path)[1].count("L") + 1 for path in paths), reverse=True)


def test_svg_has_every_point(tmp_path, log):
    out = tmp_path / "a.svg"
    succeed("plot", "--logs", log, "--out", out)
    assert points_of_curves(out)[:2] == [20, 4]


def test_steps_that_come_again_replace_the_old(tmp_path, log):
    out = tmp_path / "a.svg"
    with open(log, "a", encoding="utf-8") as file:
        file.write(line(11, 0.4) + line(12, 0.3))
    succeed("plot", "--logs", log, "--out", out)
    assert points_of_curves(out)[:2] == [12, 2]


@pytest.mark.parametrize("content, part", [
    ("", "empty"), ("step 1  loss 5\n", "line 1"), (line(1, 5.0) + line(2, 4.0)[:-9], "line 2"), ("[]\n", "line 1"),
    ('{"step": 1, "tokens": 5, "loss": 1.0}\n', "tokens_per_second"), (line(0, 5.0), "below 1"),
    ('{"step": 1, "tokens": 5, "loss": "x", "tokens_per_second": 1.0}\n', "line 1"), ("\0\n", "line 1"),
    (line(1, 1.0)[:-2] + ', "loss": NaN}\n', "line 1")])
def test_bad_logs(tmp_path, log, content, part):
    bad, out = tmp_path / "bad.jsonl", tmp_path / "o.png"
    bad.write_text(content)
    message = refuse(1, "plot", "--logs", f"{log},{bad}", "--out", out)
    assert str(bad) in message and part in message and not out.exists()


def test_refusals(tmp_path, log):
    out = tmp_path / "o.png"
    assert "--logs: missing" in refuse(2, "plot", "--out", out)
    assert "--out: missing" in refuse(2, "plot", "--logs", log)
    assert "allowed: 1" in refuse(2, "plot", "--logs", log, "--names", "a,b", "--out", out)
    assert ".png or .svg" in refuse(2, "plot", "--logs", log, "--out", tmp_path / "o.gif")
    for words in ("a,,b", "", ",".join("abcdefg"), "x" * 5000):
        assert "--logs" in refuse(2, "plot", "--logs", words, "--out", out)
    assert "none.jsonl" in refuse(1, "plot", "--logs", tmp_path / "none.jsonl", "--out", out)
    assert "/nowhere" in refuse(1, "plot", "--logs", log, "--out", "/nowhere/o.png")
