"""`dilated-attention show`: its text, numbers and pictures against the reference's definition of who sees whom.
"""
import json
import os
import random
import re
import resource
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from cli_support import run
from dilated_attention_reference import head_offset, keys_of


@dataclass
class Case:
    n: int
    segments: list
    rates: list
    heads: int = 1
    head: int = 0
    causal: bool = False
    window: int = None
    mixing: str = "longnet"
    offset_rule: str = "mod"
    tail_rule: str = "mask"
    overlap: str = "count"

    def arguments(self):
        words = ["--n", self.n, "--heads", self.heads, "--head", self.head,
                 "--segments", ",".join(map(str, self.segments)), "--rates", ",".join(map(str, self.rates)),
                 "--mixing", self.mixing, "--offset-rule", self.offset_rule, "--tail-rule", self.tail_rule,
                 "--overlap", self.overlap]
        words += ["--causal"] if self.causal else []
        words += ["--window", self.window] if self.window is not None else []
        return [str(word) for word in words]

    def patterns(self):
        """(segment, rate, offset) of those that the head runs, as the reference takes them."""
        patterns = list(zip(self.segments, self.rates))
        if self.mixing == "longnet":
            return [(w, r, head_offset(self.head, self.heads, r, self.offset_rule)) for w, r in patterns]
        group_of = []
        for g in range(len(patterns)):
            group_of += [g] * (self.heads // len(patterns) + (g < self.heads % len(patterns)))
        g = group_of[self.head]
        return [(*patterns[g], g % patterns[g][1])]

    def keys(self, i, pattern):
        """Keys that query i sees by the pattern, and its zero keys; None if it is not kept."""
        seen = keys_of(i, self.n, *pattern, self.causal, self.tail_rule)
        if seen is None:
            return None
        return [j for j in seen[0] if self.window is None or i - j <= self.window], seen[1]

    def counts(self, i):
        count = Counter()
        for pattern in self.patterns():
            seen = self.keys(i, pattern)
            if seen is not None:
                count.update(seen[0])
        return count


def show(*arguments, **options):
    return run("show", *arguments, **options)


def matrix_of(text):
    return [row for row in re.findall(r"^ *\d+  ([.1-9+]+)$", text, re.MULTILINE)]


def expected_matrix(case):
    rows = []
    for i in range(case.n):
        counts = case.counts(i)
        if case.overlap == "once":
            counts = dict.fromkeys(counts, 1)
        values = [counts.get(j, 0) for j in range(case.n)]
        rows.append("".join("." if c == 0 else "+" if c > 9 else str(c) for c in values))
    return rows


def random_case(seed):
    draw = random.Random(seed)
    count = draw.randint(1, 4)
    segments = [draw.randint(1, 40) for _ in range(count)]
    heads = draw.randint(1, 9)
    return Case(draw.randint(1, 60), segments, [draw.randint(1, min(w, 9)) for w in segments], heads,
                draw.randrange(heads), draw.random() < 0.5, draw.choice([None, None, 0, 3, 50]),
                draw.choice(["longnet", "longnet", "head_groups"]), draw.choice(["mod", "block"]),
                draw.choice(["mask", "zero_pad"]), draw.choice(["count", "once"]))


NAMED = {
    "one_token": Case(1, [4], [2]),
    "nested": Case(64, [16, 32, 64], [1, 2, 4], heads=4, head=3),
    "causal": Case(32, [8, 16], [1, 2], heads=2, head=1, causal=True),
    "window": Case(40, [16, 40], [1, 3], heads=3, head=2, window=5),
    "causal_window": Case(40, [16, 40], [1, 3], heads=3, head=2, causal=True, window=7),
    "head_groups": Case(48, [8, 16, 48], [1, 2, 4], heads=7, head=3, mixing="head_groups"),
    "block": Case(32, [16, 32], [2, 4], heads=6, head=4, offset_rule="block"),
    "zero_pad": Case(29, [8, 64], [3, 5], heads=5, head=1, tail_rule="zero_pad"),
    "ragged": Case(37, [10, 16], [3, 5], heads=5, head=4),
    "once": Case(32, [8, 16], [1, 2], overlap="once"),
    "more_than_nine": Case(6, [6] * 11, [1] * 11),
    "longest_text": Case(200, [50, 200], [1, 7], heads=3, head=2),
}


@pytest.mark.parametrize("name", NAMED)
def test_text_is_the_reference_matrix(name):
    done = show(*NAMED[name].arguments(), "--text")
    assert done.returncode == 0, done.stderr
    assert matrix_of(done.stdout) == expected_matrix(NAMED[name])


@pytest.mark.parametrize("seed", range(60))
def test_text_of_random_configurations(seed):
    case = random_case(seed)
    done = show(*case.arguments())
    assert done.returncode == 0, done.stderr
    assert matrix_of(done.stdout) == expected_matrix(case), case


def test_ruler_names_the_columns():
    lines = show(*Case(123, [64], [1]).arguments()).stdout.splitlines()
    first_row = next(k for k, line in enumerate(lines) if re.match(r" +0  ", line))
    ruler = [line.ljust(6 + 123)[6:] for line in lines[first_row - 3:first_row]]
    columns = ["".join(digits).strip() for digits in zip(*ruler)]
    assert columns[0] == "0" and columns[7] == "7" and columns[10] == "10" and columns[120] == "120"


@pytest.mark.parametrize("seed", range(40))
def test_reach_of_a_query(seed):
    case = random_case(seed)
    query = random.Random(seed).randrange(case.n)
    report = json.loads(show(*case.arguments(), "--query", query, "--json").stdout)
    assert report["query"] == query and report["panels"] == []
    assert report["distinct_keys"] == len(case.counts(query))
    assert len(report["patterns"]) == len(case.patterns())
    for told, pattern in zip(report["patterns"], case.patterns()):
        assert (told["segment"], told["rate"], told["offset"]) == pattern
        seen = case.keys(query, pattern)
        keys, zeros = seen if seen is not None else ([], 0)
        assert told["keeps_query"] == (seen is not None)
        assert (told["keys"], told["zero_keys"]) == (len(keys), zeros)
        assert told["reach_back"] == max([query - j for j in keys if j < query], default=0)
        assert told["reach_ahead"] == max([j - query for j in keys if j > query], default=0)
        all_keys = [case.keys(i, pattern) for i in range(case.n)]
        assert told["pairs"] == sum(len(seen[0]) for seen in all_keys if seen is not None)


# Pictures.

def decode_png(path):
    """Pixels (height, width, 3) of an 8-bit RGB picture, checking every chunk."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed, header, ended = 8, b"", None, False
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length:at + 12 + length])[0] == zlib.crc32(kind + body)
        header = struct.unpack(">IIBBBBB", body) if kind == b"IHDR" else header
        packed += body if kind == b"IDAT" else b""
        ended = kind == b"IEND"
        at += 12 + length
    assert ended
    width, height, depth, color, _, _, interlace = header
    assert (depth, color, interlace) == (8, 2, 0)
    raw = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + 3 * width)
    pixels = np.zeros((height + 1, 3 * width), np.uint8)
    for y in range(height):
        pixels[y + 1] = unfilter(raw[y, 0], raw[y, 1:], pixels[y])
    return pixels[1:].reshape(height, width, 3)


def unfilter(kind, row, above):
    if kind in (0, 2):
        return row + above if kind == 2 else row
    if kind == 1:
        return np.cumsum(row.reshape(-1, 3), axis=0, dtype=np.uint8).reshape(-1)
    row, above = row.tolist(), [0, 0, 0] + above.tolist()
    out = [0, 0, 0]
    for k, value in enumerate(row):
        a, b, c = out[k], above[k + 3], above[k]
        if kind == 3:
            guess = (a + b) // 2
        else:
            pa, pb, pc = abs(b - c), abs(a - c), abs(a + b - 2 * c)
            guess = a if pa <= pb and pa <= pc else b if pb <= pc else c
        out.append((value + guess) & 255)
    return np.array(out[3:], np.uint8)


def is_shade(pixels):
    """Pixels of the colours that stand for pairs that are seen: more blue or green than red, and not grey."""
    red, green, blue = (pixels[..., c].astype(int) for c in range(3))
    return (np.maximum(green, blue) - red > 40) & (np.maximum(green, blue) > 60)


PAPER = ([2048, 4096, 8192], [1, 2, 4])
PICTURES = {
    "n64": Case(64, [16, 32, 64], [1, 2, 4], heads=4, head=1),
    "n300": Case(300, [32, 100], [1, 3], heads=3, head=1, causal=True),
    "n4096": Case(4096, [512, 1024, 4096], [1, 2, 8], heads=8, head=5),
    "n1000000": Case(1000000, *PAPER, heads=12, head=3),
    "n1000000_causal": Case(1000000, [2048, 16384, 1000000], [1, 8, 64], heads=12, head=3, causal=True, window=500000),
}


@pytest.mark.parametrize("name", PICTURES)
def test_png(name, tmp_path):
    path = tmp_path / "picture.png"
    done = show(*PICTURES[name].arguments(), "--out", path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(str(path))
    assert os.listdir(tmp_path) == ["picture.png"]
    pixels = decode_png(path)
    height, width = pixels.shape[:2]
    assert 1800 <= width <= 3000 and 900 <= height <= 3000
    assert (pixels == 255).all(axis=2).mean() > 0.2, "there is a white margin"
    assert (pixels < 80).all(axis=2).any(), "there is text"
    assert is_shade(pixels).mean() > 0.01, "there are pairs"
    assert (pixels[[0, -1]] == 255).all() and (pixels[:, [0, -1]] == 255).all(), "nothing is cut off at the edge"


@pytest.mark.parametrize("name", PICTURES)
def test_svg(name, tmp_path):
    path = tmp_path / "picture.svg"
    done = show(*PICTURES[name].arguments(), "--heads-strip", "--out", path)
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["picture.svg"]
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    left, top, width, height = map(float, root.get("viewBox").split())
    assert (left, top) == (0, 0) and 900 <= width <= 1500 and 450 <= height <= 1600
    shapes = list(root.iter("{http://www.w3.org/2000/svg}path"))
    assert len(shapes) > 50
    images = list(root.iter("{http://www.w3.org/2000/svg}image"))
    assert (len(images) > 0) == (PICTURES[name].n > 160), "blocks are an image, single pairs are shapes"
    assert path.stat().st_size < 3_000_000


@pytest.mark.parametrize("segments, rates", [([64], [64]), ([1000], [1]), ([1], [1])])
def test_the_thinnest_pattern_is_seen_on_the_whole_diagonal(segments, rates, tmp_path):
    case = Case(100_000_000, segments, rates)
    path = tmp_path / "picture.png"
    report = json.loads(show(*case.arguments(), "--out", path, "--json").stdout)
    whole = report["panels"][0]
    assert (whole["first"], whole["end"]) == (0, case.n)
    per_segment = len(range(0, segments[0], rates[0])) ** 2
    assert whole["pairs"] == pytest.approx(case.n / segments[0] * per_segment, rel=1e-4)
    pixels = decode_png(path)
    first_panel = is_shade(pixels[:1050, :pixels.shape[1] // 3])
    rows = np.flatnonzero(first_panel.any(axis=1))
    assert len(rows) >= 600, "of the 640 rows of pixels; the mark of the next panel covers some"


@pytest.mark.parametrize("case", [
    Case(4096, [512, 1024, 4096], [1, 2, 8], heads=8, head=5),
    Case(4096, [512, 768, 3000], [2, 3, 5], heads=8, head=5, causal=True),
    Case(3000, [100, 250, 1500], [1, 4, 6], heads=3, head=2, window=40, overlap="once"),
    Case(700, [64, 128], [4, 8], heads=8, head=7, mixing="head_groups"),
], ids=lambda case: f"n{case.n}")
def test_pairs_of_panels_are_exact_where_blocks_are_small(case, tmp_path):
    report = json.loads(show(*case.arguments(), "--out", tmp_path / "picture.png", "--json").stdout)
    seen = [case.counts(i) for i in range(case.n)]
    assert len(report["panels"]) == (3 if case.n > 1024 else 2)
    for panel in report["panels"]:
        assert panel["block"] <= 48
        inside = range(panel["first"], panel["end"])
        pairs = sum(sum(j in inside for j in seen[i]) for i in inside)
        assert panel["pairs"] == pytest.approx(pairs, rel=1e-9)
    for outer, inner in zip(report["panels"], report["panels"][1:]):
        assert outer["first"] <= inner["first"] < inner["end"] <= outer["end"]
        assert inner["end"] - inner["first"] < outer["end"] - outer["first"]
    last = report["panels"][-1]
    assert (last["block"], last["end"] - last["first"]) == (1, 64)


def test_pairs_of_a_million_tokens(tmp_path):
    periods = 122
    case = Case(periods * 8192, *PAPER, heads=12, head=3)
    report = json.loads(show(*case.arguments(), "--out", tmp_path / "picture.svg", "--json").stdout)
    one_period = Case(8192, *PAPER, heads=12, head=3)
    distinct = sum(len(one_period.counts(i)) for i in range(8192))
    whole = report["panels"][0]
    assert whole["block"] > 48, "the overlap of patterns is estimated"
    assert whole["pairs"] == pytest.approx(periods * distinct, rel=0.02)
    counted = sum(told["pairs"] for told in report["patterns"])
    assert counted == periods * (4 + 2 + 1) * 2048 ** 2
    assert whole["pairs"] < counted


def test_equal_calls_draw_equal_pictures(tmp_path):
    for name in ("a.png", "b.png", "a.svg", "b.svg"):
        assert show(*PICTURES["n1000000"].arguments(), "--out", tmp_path / name).returncode == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


# What is refused.

SMALL = ["--n", "16", "--segments", "8", "--rates", "2"]


@pytest.mark.parametrize("arguments, message", [
    ([], "--n"),
    (["--segments", "8", "--rates", "2"], "--n is missing"),
    (["--n", "16", "--rates", "2"], "--segments"),
    (["--n", "16", "--segments", "8"], "--rates"),
    (["--n", "0", "--segments", "8", "--rates", "2"], "--n"),
    (["--n", "-3", "--segments", "8", "--rates", "2"], "--n"),
    (["--n", "many", "--segments", "8", "--rates", "2"], "many"),
    (["--n", "99999999999999999999", "--segments", "8", "--rates", "2"], "--n"),
    (["--n", "16", "--segments", "8", "--rates", "9"], "9"),
    (["--n", "16", "--segments", "8,16", "--rates", "1"], "--rates"),
    ([*SMALL, "--heads", "0"], "--heads"),
    ([*SMALL, "--heads", "4", "--head", "4"], "--head 4: there are 4 heads; allowed: 0 to 3"),
    ([*SMALL, "--head", "-1"], "--head"),
    ([*SMALL, "--query", "16"], "--query 16: there are 16 tokens; allowed: 0 to 15"),
    ([*SMALL, "--mixing", "stirred"], "stirred"),
    ([*SMALL, "--text", "--json"], "--json and --text"),
    ([*SMALL, "--heads-strip"], "--out"),
    ([*SMALL, "--colour"], "colour"),
    ([*SMALL, "surplus"], "surplus"),
    (["--n", "201", "--segments", "8", "--rates", "2"], "text shows up to 200 tokens; draw a picture with --out"),
    (["--n", "201", "--segments", "8", "--rates", "2", "--text"], "--n 201"),
])
def test_usage(arguments, message):
    done = show(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["picture.jpg", "picture", "png", ".png", "picture.PNG.txt"])
def test_unknown_ending(name, tmp_path):
    done = show(*SMALL, "--out", tmp_path / name if name != ".png" else ".png", cwd=tmp_path)
    assert done.returncode == 2 and ".png or .svg" in done.stderr and name in done.stderr
    assert os.listdir(tmp_path) == []


def test_out_and_text_exclude_each_other(tmp_path):
    done = show(*SMALL, "--out", tmp_path / "picture.png", "--text")
    assert done.returncode == 2 and "--out and --text" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_folder_that_does_not_exist(ending, tmp_path):
    path = tmp_path / "missing" / f"picture.{ending}"
    done = show(*SMALL, "--out", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert str(path) in done.stderr and "No such file or directory" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_folder_in_the_way(ending, tmp_path):
    path = tmp_path / f"picture.{ending}"
    path.mkdir()
    done = show(*SMALL, "--out", path)
    assert done.returncode == 1 and str(path) in done.stderr
    assert os.listdir(tmp_path) == [path.name] and os.listdir(path) == []


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_no_space_leaves_the_old_picture(ending, tmp_path):
    path = tmp_path / f"picture.{ending}"
    path.write_bytes(b"old")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    done = show(*SMALL, "--out", path, preexec_fn=limit, restore_signals=False)  # Python ignores SIGXFSZ
    assert (done.returncode, done.stdout) == (1, "")
    assert str(path) in done.stderr and "File too large" in done.stderr
    assert os.listdir(tmp_path) == [path.name] and path.read_bytes() == b"old"


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_an_old_picture_is_replaced(ending, tmp_path):
    path = tmp_path / f"picture.{ending}"
    path.write_bytes(b"old")
    assert show(*SMALL, "--out", path).returncode == 0
    assert os.listdir(tmp_path) == [path.name] and path.stat().st_size > 2000


def test_help():
    done = show("--help")
    assert done.returncode == 0
    for word in ("--out", "--text", "--heads-strip", "--query", "--segments", "--causal", "--json"):
        assert word in done.stdout
