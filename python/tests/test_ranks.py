"""Attention over the ranks of torch.distributed, processes that torchrun starts, or this file; their rates."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dilated_attention_pytorch as package
import pytest
from dilated_attention_pytorch import _core

PROGRAMS = Path(__file__).with_name("rank_programs.py")
LIMIT = 240  # seconds; none takes more than a few unless the machine is busy


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **more}


def torchrun(ranks, program, tmp_path, **variables):
    found = tmp_path / "found.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    done = subprocess.run(
        [*command, str(PROGRAMS), program, str(found)],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads(found.read_text())


def processes(ranks, program, tmp_path):
    """Without torchrun, which ends all ranks when one does."""
    port = str(20000 + os.getpid() % 20000)
    begun = [
        subprocess.Popen(
            [sys.executable, str(PROGRAMS), program, str(tmp_path / "found.json")],
            env=environment(RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        errors = [process.communicate(timeout=LIMIT)[1] for process in begun]
    finally:
        for process in begun:
            process.kill()
    for process, error in zip(begun, errors):
        assert process.returncode == 0, error[-6000:]
    return json.loads((tmp_path / "found.json").read_text())


def test_two_ranks(tmp_path):
    """Generated cases, forward and backward, within the bounds of tests/tolerances.md; gradients by differences."""
    found = torchrun(2, "compare,differences", tmp_path, DA_CASES="50")
    assert found == {"compare": 50, "differences": "equal"}


def test_three_ranks(tmp_path):
    assert torchrun(3, "compare", tmp_path, DA_CASES="60") == {"compare": 60}


def test_four_ranks(tmp_path):
    """Also modules, the factory, training under DDP and FSDP2, and a second group of the same name."""
    assert torchrun(4, "compare,interfaces", tmp_path, DA_CASES="60") == {"compare": 60, "interfaces": "all"}


def test_faults(tmp_path):
    assert processes(3, "faults", tmp_path)["faults"]["death"] < 10


@pytest.mark.parametrize(
    "name, value",
    [
        ("network_bandwidth", 0),
        ("network_bandwidth", -1.0),
        ("network_bandwidth", float("inf")),
        ("network_latency", -1e-9),
        ("network_overhead", float("nan")),
        ("forward_flops", 0.0),
        ("backward_flops", -5),
    ],
)
def test_refused_rates(name, value):
    least = "of at least 0" if name in ("network_latency", "network_overhead") else "above 0"
    with pytest.raises(ValueError, match=rf"^{name} is {value}; allowed: a finite number {least}$"):
        package.set_rank_rates(**{name: value})


def test_rates_of_the_wrong_kind():
    with pytest.raises(TypeError, match=r"^network_bandwidth is '25G'; allowed: a finite number above 0, or None$"):
        package.set_rank_rates(network_bandwidth="25G")
    with pytest.raises(TypeError, match="allowed: one of them"):
        package.set_rank_rates("0", comm=object())
    with pytest.raises(TypeError, match="process_group is 5; allowed"):
        package.set_rank_rates(5)


def test_rates_of_one_process_change_nothing():
    package.set_rank_rates(network_bandwidth=1e9)
    package.set_rank_rates(False, network_latency=0)


@pytest.mark.parametrize("rates", [(1.0,), 5, (1.0, 2.0, 3.0, "4", 5.0)])
def test_the_extension_refuses_what_are_no_rates(rates):
    with pytest.raises(TypeError):
        _core.Communicator(0, 2, 1.0, object(), rates)
