"""info: the machine and the implementations."""
import os
import platform

import pytest

from cli_support import refuse, succeed, succeed_json


def test_json_describes_this_machine():
    report = succeed_json("info")
    hardware = report["hardware"]
    assert hardware["architecture"] == platform.machine()
    assert 1 <= hardware["cores"] <= len(os.sched_getaffinity(0))
    assert hardware["memory_bytes"] > 2**28
    assert isinstance(hardware["gpus"], list) and hardware["gpu_note"]
    assert not hardware["flash_attention_3"] and not hardware["flash_attention_2"] and not hardware["xformers"]
    assert report["threads"] == hardware["cores"]
    assert report["instruction_set"] in ("portable", "avx2", "avx512", "avx512_bf16", "amx_bf16", "neon")


def test_cpu_features_are_those_of_the_system():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        flags = next((line.split() for line in file if line.startswith("flags")), None)
    if flags is None:
        pytest.skip("the system does not list x86 features")
    found = succeed_json("info")["hardware"]["cpu_features"]
    names = {"avx2": "avx2", "fma": "fma", "f16c": "f16c", "avx512_bf16": "avx512_bf16", "amx_bf16": "amx_bf16"}
    assert {name for name in names if name in found} == {name for name, flag in names.items() if flag in flags}


def test_json_describes_the_implementations():
    implementations = {entry["name"]: entry for entry in succeed_json("info")["implementations"]}
    for name in ("standard", "improved", "ring"):
        entry = implementations[name]
        assert entry["available"] and entry["reason"] == "" and entry["built_in"]
        assert entry["description"] and entry["best_for"] and entry["memory"]
        assert entry["dtypes"] == ["f32", "f64", "bf16", "f16"]
        options = ["causal", "window", "key_padding", "grouped_queries", "logsumexp", "head_groups",
                   "block_offsets", "zero_pad", "overlap_once", "dropout"]
        assert entry["options"] == options + ([] if name == "standard" else ["query_range"])
        assert entry["backward"] is True
    assert "auto" not in implementations
    for entry in implementations.values():
        assert entry["available"] != bool(entry["reason"])


def test_one_implementation():
    entry = succeed_json("info", "--implementation", "standard")
    assert entry == next(item for item in succeed_json("info")["implementations"] if item["name"] == "standard")
    text = succeed("info", "--implementation", "standard")
    assert text.startswith("  standard: ") and "improved:" not in text


def test_text_says_why_something_is_not_available():
    text = succeed("info")
    for entry in succeed_json("info")["implementations"]:
        assert f"  {entry['name']}: {entry['description']}" in text
        if not entry["available"]:
            assert f"no: {entry['reason']}" in text


def test_threads_and_instruction_set():
    report = succeed_json("info", "--threads", 3, "--isa", "portable")
    assert (report["threads"], report["instruction_set"]) == (3, "portable")


def test_unknown_implementation():
    line = refuse(2, "info", "--implementation", "nothing")
    assert line.startswith("dilated-attention info: --implementation: ") and "standard" in line and '"nothing"' in line
