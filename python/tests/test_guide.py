"""Every Python block of docs/factory_pattern_guide.md runs, in order and in one namespace, as a reader would type it.

What the guide leaves open ("...") is filled in, the query of a GPU is guarded, and a list of implementations is cut
to those
that are available: all as the guide's own text asks for."""

import re
from pathlib import Path

import pytest
import torch
from dilated_attention_pytorch.core import get_available_implementations, registry

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "factory_pattern_guide.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
FILLED = "embed_dim=64, num_heads=4, segment_lengths=[16, 32], dilation_rates=[1, 2]"


def as_a_reader_would(block: str) -> str:
    block = block.replace(", ...)", f", {FILLED})")
    available = ["auto", *get_available_implementations()]
    block = re.sub(
        r"^implementations = (\[.*\])$",
        rf"implementations = [i for i in \1 if i in {available!r}]",
        block,
        flags=re.MULTILINE,
    )
    return block.replace(
        "if torch.cuda.get_device_properties", "if torch.cuda.is_available() and torch.cuda.get_device_properties"
    )


@pytest.fixture(scope="module")
def namespace():
    before = dict(registry._attentions)
    found = {"torch": torch}
    yield found
    registry._attentions.clear()
    registry._attentions.update(before)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_runs(number, namespace):
    exec(compile(as_a_reader_would(BLOCKS[number]), f"{GUIDE.name}, block {number}", "exec"), namespace)
    if "attention = create_" in BLOCKS[number] and "def " not in BLOCKS[number]:
        assert isinstance(namespace["attention"], torch.nn.Module)


def test_the_guide_was_read():
    assert len(BLOCKS) == 14
    assert not any("..." in as_a_reader_would(block) for block in BLOCKS)


def test_what_the_blocks_defined(namespace):
    """Runs after the blocks: the functions and classes that the guide defines do what it says of them."""
    if "create_optimal_attention" not in namespace:
        pytest.skip("needs the blocks before")
    create = namespace["create_optimal_attention"]
    assert create(1000, 1).embed_dim == 768
    for arguments, name in (((200_000, 1), "ring"), ((60_000, 1, 2), "distributed"), ((20_000, 64), "block_sparse")):
        if name in get_available_implementations():
            made = create(*arguments)
            assert made.attention.config.implementation == name
            x = torch.randn(1, 50, 768)
            assert name == "distributed" or torch.isfinite(made(x)).all()
        else:
            with pytest.raises(ValueError, match=f"'{name}' is not available"):
                create(*arguments)
    assert type(namespace["create_dilated_attention"]("custom", [4], [1])) is namespace["MyCustomAttention"]
    assert namespace["small_model"].embed_dim == 512 and namespace["large_model"].num_heads == 16
    assert namespace["base_config"].dropout == 0.1


@pytest.mark.parametrize("page", ["README.md", "docs/python-modules.md"])
def test_other_pages_run(page, tmp_path, monkeypatch):
    """As they stand, but for lengths: shorter ones do here."""
    text = (GUIDE.parents[1] / page).read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 2
    found = {}
    before = dict(registry._attentions)
    for number, block in enumerate(blocks):
        shorter = block.replace("10_000", "1_000").replace("5000", "500").replace("3100", "310")
        exec(compile(shorter, f"{page}, block {number}", "exec"), found)
    registry._attentions.clear()
    registry._attentions.update(before)
    assert torch.isfinite(torch.as_tensor(found["out"])).all()
