"""run: what is refused, with which exit code and words; and that nothing is left behind."""
import hashlib
import os
import platform
import struct
import subprocess

import numpy as np
import pytest

from cli_support import encode, refuse, run, write_safetensors

USAGE, FAILED = 2, 1


def snapshot(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in os.listdir(folder) if (folder / name).is_file()}


def command(inputs, **changes):
    """A good command line, changed: None removes an option, True makes it a flag, a tuple adds words."""
    options = {"q": inputs.folder / "q.npy", "k": inputs.folder / "k.npy", "v": inputs.folder / "v.npy",
               "segments": "8,16,32", "rates": "1,2,4", "out": inputs.out / "o.npy", "lse": inputs.out / "l.npy"}
    options.update({name.replace("_", "-"): value for name, value in changes.items() if name != "words"})
    words = list(changes.get("words", ()))
    for name, value in options.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not None:
            words += [f"--{name}", value]
    return ["run", *words]


def assert_refused(inputs, code, parts, words):
    before = snapshot(inputs.folder)
    line = refuse(code, *words)
    assert line.startswith("dilated-attention run: ")
    for part in parts:
        assert part in line, line
    assert os.listdir(inputs.out) == [], "something was left behind"
    assert snapshot(inputs.folder) == before


# Options whose value is wrong whatever the files hold: changes, then parts of the message.
BAD_VALUES = [
    ({"words": ["--colour", "red"]}, ["--colour", "unknown", "--help"]),
    ({"words": ["--colour=red"]}, ["--colour=red", "unknown"]),
    ({"words": ["-z"]}, ["-z", "unknown"]),
    ({"words": ["--causal=yes"]}, ["--causal", "no value"]),
    ({"words": ["stray.npy"]}, ["stray.npy", "not an option"]),
    ({"q": None}, ["--q", "missing"]),
    ({"k": None}, ["--k", "missing"]),
    ({"v": None}, ["--v", "missing"]),
    ({"out": None}, ["--out", "missing"]),
    ({"q": ""}, ["--q", "empty"]),
    ({"segments": None}, ["--segments", "missing", "2048,4096,8192"]),
    ({"rates": None}, ["--rates", "missing", "1,2,4"]),
    ({"segments": ""}, ["--segments", '""', "whole numbers"]),
    ({"segments": "8,,32"}, ["--segments", '"8,,32"', "member 2"]),
    ({"segments": "8,16,32,"}, ["--segments", "member 4"]),
    ({"segments": "8, 16,32"}, ["--segments", "member 2", '" 16"']),
    ({"segments": "8,16,3.5"}, ["--segments", "3.5", "whole numbers from 1 on"]),
    ({"segments": "8,16,0"}, ["--segments", "from 1 on"]),
    ({"segments": "8,16,-32"}, ["--segments", "-32"]),
    ({"segments": "8,16,9223372036854775808"}, ["--segments", "9223372036854775808"]),
    ({"rates": "1,x"}, ["--rates", '"1,x"', "member 2", '"x"']),
    ({"rates": "1,2"}, ["--rates", "2 values", "3"]),
    ({"rates": "1,2,4,8"}, ["--rates", "4 values", "3"]),
    ({"rates": "1,2,33"}, ["33", "1 to its segment length, 32"]),
    ({"rates": "1,2,+4"}, ["--rates", '"+4"']),
    ({"segments": ",".join(["8"] * 65), "rates": ",".join(["1"] * 65)}, ["65", "64"]),
    ({"segments": ",".join(["8"] * 300)}, ["--segments", "more than 256"]),
    ({"preset": "longformer"}, ["--preset", '"longformer"', "torchscale", "head_groups"]),
    ({"mixing": "sum"}, ["--mixing", '"sum"', "longnet", "head_groups"]),
    ({"offset_rule": "random"}, ["--offset-rule", '"random"', "mod", "block"]),
    ({"tail_rule": "pad"}, ["--tail-rule", '"pad"', "mask", "zero_pad"]),
    ({"overlap": "twice"}, ["--overlap", '"twice"', "count", "once"]),
    ({"partition": "ring"}, ["--partition", '"ring"', "contiguous", "zigzag", "striped"]),
    ({"split": "rows"}, ["--split", '"rows"', "auto", "tokens", "heads"]),
    ({"stripe": "-1"}, ["--stripe", '"-1"', "from 0 on"]),
    ({"dtype": "int8"}, ["--dtype", '"int8"', "f32", "bf16"]),
    ({"window": "-5"}, ["--window", '"-5"', "from 0 on"]),
    ({"window": "3x"}, ["--window", '"3x"']),
    ({"scale": "nan"}, ["--scale", '"nan"', "finite"]),
    ({"scale": "inf"}, ["--scale", '"inf"', "finite"]),
    ({"scale": "1e999"}, ["--scale", '"1e999"', "finite"]),
    ({"scale": "0.5f"}, ["--scale", '"0.5f"']),
    ({"scale": " 1"}, ["--scale", '" 1"']),
    ({"scale": ""}, ["--scale", '""']),
    ({"threads": "0"}, ["--threads", '"0"', "from 1 to 1024"]),
    ({"threads": "1025"}, ["--threads", '"1025"', "from 1 to 1024"]),
    ({"threads": "two"}, ["--threads", '"two"']),
    ({"isa": "mmx"}, ["--isa", '"mmx"', "portable", "avx512"]),
    ({"layout": "bdhn"}, ["--layout", '"bdhn"', "bnhd", "bhnd"]),
    ({"impl": "fastest"}, ["--impl", '"fastest"', "standard", "improved"]),
    ({"lengths": "45,x"}, ["--lengths", '"45,x"']),
    ({"lengths": "45,-1"}, ["--lengths", '"-1"', "from 0 on"]),
    ({"lengths": "45"}, ["--lengths", "1 lengths", "2"]),
    ({"lengths": "45,45,45"}, ["--lengths", "3 lengths", "2"]),
    ({"lengths": "45,46"}, ["--lengths", "46", "0 to 45"]),
    ({"impl": "ring", "block": "0"}, ["--block", '"0"', "from 1 on"]),
    ({"impl": "ring", "block": "-5"}, ["--block", '"-5"', "from 1 on"]),
    ({"impl": "ring", "block": "many"}, ["--block", '"many"', "whole number"]),
    ({"impl": "ring", "memory": "0"}, ["--memory", '"0"', "512M"]),
    ({"impl": "ring", "memory": "-1M"}, ["--memory", '"-1M"', "512M"]),
    ({"impl": "ring", "memory": "M"}, ["--memory", '"M"', "512M"]),
    ({"impl": "ring", "memory": "64MB"}, ["--memory", '"64MB"', "512M"]),
    ({"impl": "ring", "memory": "9999999T"}, ["--memory", '"9999999T"', "512M"]),
    ({"block": "10"}, ["--block", "improved", "ring"]),  # so few tokens that "auto" does not choose it
    ({"impl": "standard", "memory": "1G"}, ["--memory", "standard", "ring"]),
    ({"impl": "improved", "resume": True}, ["--resume", "improved", "ring"]),
]


@pytest.mark.parametrize("changes, parts", BAD_VALUES,
                         ids=[str(next(iter(changes.items())))[:60] for changes, _ in BAD_VALUES])
def test_bad_value(inputs, changes, parts):
    inputs.save()
    assert_refused(inputs, USAGE, parts, command(inputs, **changes))


def test_missing_value_at_the_end(inputs):
    inputs.save()
    assert_refused(inputs, USAGE, ["--scale", "value is missing"], command(inputs) + ["--scale"])


def test_words_of_a_message_stay_on_one_line(inputs):
    inputs.save()
    assert_refused(inputs, USAGE, ["--impl"], command(inputs, impl="a\nb\x1b[31m"))


def test_implementation_that_is_not_there(inputs):
    """A name that the guide knows and this version does not build."""
    inputs.save()
    assert_refused(inputs, FAILED, ["distributed"], command(inputs, impl="distributed"))


def test_instruction_set_that_this_machine_lacks(inputs):
    other = "avx2" if platform.machine() in ("aarch64", "arm64") else "neon"
    inputs.save()
    assert_refused(inputs, FAILED, [f"isa is {other}", "portable"], command(inputs, isa=other))


# ----------------------------------------------------------------------------------------------------------------------
# Input files


def spoil(inputs, name, content):
    path = inputs.folder / name
    if isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(content)
    return path


def header(text):
    raw = text.encode()
    raw += b" " * (63 - (len(raw) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw


GOOD_HEADER = header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 45, 2, 8), }")

BAD_FILES = [
    ("not there", None, ["No such file"]),
    ("empty", b"", ["empty"]),
    ("garbage", b"these are not the bytes of a tensor", ["neither"]),
    ("cut in the magic", b"\x93NUM", []),
    ("cut in the header", GOOD_HEADER[:40], ["truncated"]),
    ("header without data", GOOD_HEADER, ["bytes"]),
    ("big-endian", np.zeros((2, 45, 2, 8), ">f4"), ["big-endian"]),
    ("strings", np.zeros((2, 45, 2, 8), "S4"), ["descr"]),
    ("integers", np.zeros((2, 45, 2, 8), np.int32), ["i32", "allowed: f32, f64, bf16, f16"]),
    ("two axes", np.zeros((45, 8), np.float32), ["2 axes", "allowed: 4"]),
    ("five axes", np.zeros((1, 2, 45, 2, 8), np.float32), ["5 axes"]),
    ("an axis of 0", np.zeros((2, 0, 2, 8), np.float32), ["axis of 0"]),
    ("other batch", np.zeros((1, 45, 2, 8), np.float32), ["batch is 1", "--q is 2"]),
    ("other n", np.zeros((2, 44, 2, 8), np.float32), ["n is 44", "--q is 45"]),
    ("other head dim", np.zeros((2, 45, 2, 9), np.float32), ["head dim is 9", "--q is 8"]),
    ("heads that do not divide", np.zeros((2, 45, 3, 8), np.float32), ["heads is 3", "--q is 4", "divisor"]),
    ("more heads than the query", np.zeros((2, 45, 8, 8), np.float32), ["heads is 8", "--q is 4"]),
    ("other data type", np.zeros((2, 45, 2, 8), np.float16), ["f16", "f32", "--dtype"]),
]


@pytest.mark.parametrize("content, parts", [item[1:] for item in BAD_FILES], ids=[item[0] for item in BAD_FILES])
@pytest.mark.parametrize("option", ["k", "v"])
def test_bad_input_file(inputs, option, content, parts):
    inputs.save()
    path = inputs.folder / "bad.npy" if content is None else spoil(inputs, "bad.npy", content)
    assert_refused(inputs, FAILED, [f"--{option}: ", str(path), *parts], command(inputs, **{option: path}))


def test_heads_of_key_and_value_differ(inputs):
    inputs.save()
    path = spoil(inputs, "bad.npy", np.zeros((2, 45, 1, 8), np.float32))
    assert_refused(inputs, FAILED, ["--v", "heads is 1", "--k is 2"], command(inputs, v=path))


def test_truncated_data(inputs):
    inputs.save()
    path = inputs.folder / "q.npy"
    path.write_bytes(path.read_bytes()[:-3])
    assert_refused(inputs, FAILED, ["--q", str(path), "bytes"], command(inputs))


def test_head_dim_above_256(inputs):
    inputs.q = inputs.k = inputs.v = np.zeros((1, 4, 1, 257), np.float32)
    inputs.save()
    assert_refused(inputs, FAILED, ["--q", "head dim is 257", "1 to 256"], command(inputs))


def test_input_is_a_folder(inputs):
    inputs.save()
    assert_refused(inputs, FAILED, ["--q", str(inputs.folder)], command(inputs, q=inputs.folder))


def test_input_is_a_pipe(inputs):
    inputs.save()
    os.mkfifo(inputs.folder / "pipe.npy")
    assert_refused(inputs, FAILED, ["--q", "pipe.npy"], command(inputs, q=inputs.folder / "pipe.npy"))


@pytest.mark.parametrize("name, parts", [("", ["name one", "q", "k"]), (":w", ['"w"', "q", "k"])])
def test_safetensors_without_that_tensor(inputs, name, parts):
    inputs.save()
    path = inputs.folder / "t.safetensors"
    write_safetensors(path, {"q": encode(inputs.q, "f32"), "k": encode(inputs.k, "f32")})
    assert_refused(inputs, FAILED, ["--q", *parts], command(inputs, q=f"{path}{name}"))


@pytest.mark.parametrize("offsets", [[0, 10**12], [4, 23044], [100, 0], [-4, 8]])
def test_safetensors_header_that_lies(inputs, offsets):
    inputs.save()
    text = b'{"q":{"dtype":"F32","shape":[2,45,4,8],"data_offsets":[%d,%d]}}' % tuple(offsets)
    path = spoil(inputs, "t.safetensors", struct.pack("<Q", len(text)) + text + bytes(2 * 45 * 4 * 8 * 4))
    assert_refused(inputs, FAILED, ["--q", str(path)], command(inputs, q=path))


BAD_MASKS = [
    (np.zeros((2, 45), np.float32), ["f32", "bool, u8"]),
    (np.zeros((2, 44), bool), ["(2, 45)"]),
    (np.zeros((45, 2), bool), ["(2, 45)"]),
    (np.zeros(45, bool), ["(2, 45)"]),
    (np.zeros((2, 45, 1), bool), ["(2, 45)"]),
    (b"", ["empty"]),
]


@pytest.mark.parametrize("content, parts", BAD_MASKS)
def test_bad_key_mask(inputs, content, parts):
    inputs.save()
    path = spoil(inputs, "m.npy", content)
    assert_refused(inputs, FAILED, ["--key-mask", str(path), *parts], command(inputs, key_mask=path))


# ----------------------------------------------------------------------------------------------------------------------
# Output files


@pytest.mark.parametrize("option", ["out", "lse"])
@pytest.mark.parametrize("input_name", ["q", "k", "v"])
def test_output_onto_an_input(inputs, option, input_name):
    inputs.save()
    path = inputs.folder / f"{input_name}.npy"
    assert_refused(inputs, USAGE, [f"--{option}", f"--{input_name}"], command(inputs, **{option: path}))


def test_output_onto_an_input_by_another_spelling(inputs):
    inputs.save()
    path = inputs.folder / ".." / inputs.folder.name / "." / "q.npy"
    assert_refused(inputs, USAGE, ["--out", "--q"], command(inputs, out=path))


@pytest.mark.parametrize("make_link", [os.symlink, os.link])
def test_output_onto_an_input_by_a_link(inputs, make_link):
    inputs.save()
    make_link(inputs.folder / "q.npy", inputs.folder / "other.npy")
    assert_refused(inputs, USAGE, ["--out", "--q"], command(inputs, out=inputs.folder / "other.npy"))


def test_output_into_the_file_of_an_input_tensor(inputs):
    inputs.save()
    path = inputs.folder / "t.safetensors"
    write_safetensors(path, {"q": encode(inputs.q, "f32")})
    assert_refused(inputs, USAGE, ["--out", "--q"], command(inputs, q=f"{path}:q", out=f"{path}:out"))


def test_output_onto_the_key_mask(inputs):
    inputs.save()
    path = spoil(inputs, "m.npy", np.zeros((2, 45), bool))
    assert_refused(inputs, USAGE, ["--lse", "--key-mask"], command(inputs, key_mask=path, lse=path))


@pytest.mark.parametrize("spelling", ["o.npy", "./o.npy", "../out/o.npy"])
def test_output_and_logsumexp_in_one_file(inputs, spelling):
    inputs.save()
    assert_refused(inputs, USAGE, ["--lse", "--out"], command(inputs, lse=f"{inputs.out}/{spelling}"))


def test_output_and_logsumexp_in_one_safetensors_file(inputs):
    inputs.save()
    path = inputs.out / "t.safetensors"
    assert_refused(inputs, USAGE, ["--lse", "--out"], command(inputs, out=f"{path}:out", lse=f"{path}:lse"))


@pytest.mark.parametrize("option", ["out", "lse"])
@pytest.mark.parametrize("name", ["o.txt", "o", "o.npz", "o.npy.bak"])
def test_ending_of_an_output(inputs, option, name):
    inputs.save()
    changed = command(inputs, **{option: inputs.out / name})
    assert_refused(inputs, USAGE, [f"--{option}", ".npy", ".safetensors"], changed)


@pytest.mark.parametrize("option", ["out", "lse"])
def test_output_in_no_folder(inputs, option):
    inputs.save()
    path = inputs.out / "missing" / "o.npy"
    assert_refused(inputs, FAILED, [f"--{option}", str(path)], command(inputs, **{option: path}))


def test_output_below_a_file(inputs):
    inputs.save()
    path = inputs.folder / "q.npy" / "o.npy"
    assert_refused(inputs, FAILED, ["--out", str(path)], command(inputs, out=path))


def test_output_in_a_folder_that_may_not_be_written(inputs):
    """The kernel's own folder refuses even root."""
    inputs.save()
    assert_refused(inputs, FAILED, ["--out", "/proc/self/o.npy"], command(inputs, out="/proc/self/o.npy"))


def test_output_is_a_folder(inputs):
    inputs.save()
    (inputs.folder / "d.npy").mkdir()
    assert_refused(inputs, FAILED, ["--out", "d.npy"], command(inputs, out=inputs.folder / "d.npy"))


def test_older_output_survives_a_failure(inputs):
    inputs.save()
    old = inputs.folder / "old.npy"
    old.write_bytes(b"old")
    assert_refused(inputs, FAILED, ["--lse"], command(inputs, out=old, lse=inputs.out / "missing" / "l.npy"))
    assert old.read_bytes() == b"old"


def test_file_size_limit(inputs):
    """No room for the output: an error before anything is computed, not a signal later."""
    inputs.save()
    words = [str(word) for word in command(inputs)]
    program = [os.environ["DA_CLI"], *words]
    done = subprocess.run(["bash", "-c", 'ulimit -f 2; exec "$@"', "-", *program], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 1 and "--out" in done.stderr, (done.returncode, done.stderr)
    assert os.listdir(inputs.out) == []
