"""What the tests of the command line share: running it, files in all data types, the reference and its tolerance."""
import json
import math
import os
import pathlib
import struct
import subprocess
import sys

import numpy as np

REFERENCE = pathlib.Path(__file__).resolve().parent.parent / "reference"
sys.path.insert(0, str(REFERENCE))
from dilated_attention_reference import dilated_attention  # noqa: E402

GOLDEN = REFERENCE / "golden"
CASES = json.loads((GOLDEN / "cases.json").read_text())
IMPLEMENTATIONS = ["standard", "improved", "ring"]
ROUNDOFF = {"f32": 2.0**-24, "f64": 2.0**-53, "bf16": 2.0**-8, "f16": 2.0**-11}


def run(*arguments, timeout=300, **options):
    """Runs the command line; stdout and stderr are text."""
    return subprocess.run([os.environ["DA_CLI"], *map(str, arguments)], capture_output=True, text=True, timeout=timeout,
                          check=False, **options)


def succeed(*arguments, **options):
    """Runs the command line, which must do what it is asked without a word on stderr; returns stdout."""
    done = run(*arguments, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def succeed_json(*arguments, **options):
    return json.loads(succeed(*arguments, "--json", **options))


def refuse(code, *arguments, **options):
    """Runs the command line, which must say in one line what is wrong; returns that line."""
    done = run(*arguments, **options)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.endswith("\n") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


# ----------------------------------------------------------------------------------------------------------------------
# Data types. bf16 is kept as its 16 bits.

NUMPY_TYPES = {"f32": "<f4", "f64": "<f8", "f16": "<f2", "bf16": "<V2"}


def encode(array, dtype):
    """The array in a data type's own storage, rounded to nearest even."""
    if dtype != "bf16":
        return np.asarray(array).astype(NUMPY_TYPES[dtype])
    bits = np.asarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").view("<V2")


def decode(array):
    """Stored numbers as float64."""
    if array.dtype.kind == "V":
        bits = np.ascontiguousarray(array).view("<u2").astype(np.uint32) << 16
        return bits.view(np.float32).astype(np.float64)
    return array.astype(np.float64)


def dtype_name(array):
    return {"f4": "f32", "f8": "f64", "f2": "f16", "V2": "bf16"}[array.dtype.str[1:]]


SAFETENSORS_NAMES = {"f32": "F32", "f64": "F64", "f16": "F16", "bf16": "BF16"}


def write_safetensors(path, tensors):
    """tensors: name -> stored array."""
    header, data = {}, b""
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": SAFETENSORS_NAMES[dtype_name(array)], "shape": array.shape,
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path):
    raw = pathlib.Path(path).read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + length])
    header.pop("__metadata__", None)
    types = {SAFETENSORS_NAMES[name]: NUMPY_TYPES[name] for name in SAFETENSORS_NAMES}
    tensors = {}
    for name, entry in header.items():
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(raw[start:stop], types[entry["dtype"]]).reshape(entry["shape"])
    return tensors


# ----------------------------------------------------------------------------------------------------------------------
# The reference

OPTION_NAMES = {"segment_lengths": "--segments", "dilation_rates": "--rates", "scale": "--scale", "mixing": "--mixing",
                "offset_rule": "--offset-rule", "tail_rule": "--tail-rule", "overlap": "--overlap",
                "window": "--window", "key_padding": "--lengths"}


def listed(values):
    return ",".join(map(str, values))


def options_of(case):
    """A case of cases.json as options of the command line."""
    options = []
    for name, value in case.items():
        if name == "causal":
            options += ["--causal"] if value else []
        else:
            options += [OPTION_NAMES[name], listed(value) if isinstance(value, list) else value]
    return options


def expected(q, k, v, case):
    """The reference on stored arrays (batch, n, heads, head_dim) in any data type."""
    settings = dict(case)
    if "key_padding" in settings:
        settings["key_padding"] = np.arange(q.shape[1])[None] >= np.array(settings["key_padding"])[:, None]
    return dilated_attention(decode(q), decode(k), decode(v), settings.pop("segment_lengths"),
                             settings.pop("dilation_rates"), **settings)


def tolerance(q, k, v, case, out, dtype):
    """What may differ, of the output and of the logsumexp: the bounds of tests/tolerances.md with each query's figures
    replaced by the largest there can be, and room for the second order."""
    q, k, v = decode(q), decode(k), decode(v)
    d = q.shape[3]
    unit = ROUNDOFF["f64"] if dtype == "f64" else ROUNDOFF["f32"]
    scale = case.get("scale", 1 / math.sqrt(d))
    score = abs(scale) * (np.abs(q).max(axis=(0, 1, 2)) * np.abs(k).max(axis=(0, 1, 2))).sum()
    keys = q.shape[1] * len(case["segment_lengths"])
    relative = (2 * (d + 8) * score + 4 * math.sqrt(keys) + 16) * unit
    stored = ROUNDOFF[dtype] * np.abs(out) + (2.0**-24 if dtype == "f16" else 0)
    if dtype == "bf16":  # weights may be rounded to bf16 before they meet the values
        stored = stored + ROUNDOFF["bf16"] * np.abs(v).max()
    return relative * np.abs(v).max() + stored, relative + 8 * unit * (score + math.log(keys + 1) + 1)


def assert_close(found, wanted, allowed, what):
    """Equal where infinite; elsewhere within what is allowed."""
    assert found.shape == wanted.shape
    infinite = np.isinf(wanted)
    np.testing.assert_array_equal(found[infinite], wanted[infinite], err_msg=what)
    error = np.abs(np.subtract(found, wanted, where=~infinite, out=np.zeros(wanted.shape)))
    assert np.all(error <= allowed), f"{what}: largest error {error.max()}, allowed {np.max(allowed)}"


def assert_matches(out, lse, q, k, v, case, dtype):
    """Stored results against the reference."""
    wanted_out, wanted_lse = expected(q, k, v, case)
    allowed_out, allowed_lse = tolerance(q, k, v, case, wanted_out, dtype)
    assert dtype_name(out) == dtype
    assert_close(decode(out), wanted_out, allowed_out, "output")
    if lse is not None:
        assert_close(decode(lse), wanted_lse, allowed_lse, "logsumexp")
