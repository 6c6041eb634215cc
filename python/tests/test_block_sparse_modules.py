"""Modules, configurations and the factory's functions for "block_sparse"."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from dilated_attention_pytorch import (
    SparseAttentionConfig,
    SparsePatternConfig,
    TileMask,
    create_adaptive_sparse_attention,
    create_block_sparse_attention,
    create_dilated_attention,
    create_multihead_dilated_attention,
    dilated_attention,
)
from dilated_attention_pytorch.attention import BlockSparseDilatedAttention
from dilated_attention_pytorch.core import DilatedAttentionConfig, select_implementation
from dilated_attention_pytorch.multihead import BlockSparseMultiheadDilatedAttention
from torch.nn.attention.flex_attention import create_block_mask

PATTERNS = {"segment_lengths": [64, 150], "dilation_rates": [1, 2]}
SIZES = {"embed_dim": 32, "num_heads": 4, **PATTERNS}
SPARSE = {"sparse_pattern": "axial", "sparsity_ratio": 0.3, "block_size": 16}
N, BLOCKS = 150, 10


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, N, 4, 8, generator=generator) for _ in range(3)]


def expected(q, k, v, **options):
    return dilated_attention(q, k, v, **PATTERNS, implementation="block_sparse", **options)


WAYS = {
    "fields": lambda: create_dilated_attention("block_sparse", **PATTERNS, **SPARSE),
    "pattern_type": lambda: create_dilated_attention(
        "block_sparse", **PATTERNS, pattern_type="axial", sparsity_ratio=0.3, block_size=16
    ),
    "configuration": lambda: create_dilated_attention(
        "block_sparse", config=DilatedAttentionConfig(**PATTERNS, **SPARSE)
    ),
    "sparse configuration": lambda: create_dilated_attention(
        config=SparseAttentionConfig(**PATTERNS, pattern_type="axial", sparsity_ratio=0.3, block_size=16)
    ),
    "arguments over a configuration": lambda: create_dilated_attention(
        "block_sparse", config=SparseAttentionConfig(**PATTERNS, sparsity_ratio=0.9), **SPARSE
    ),
    "sparse_config": lambda: BlockSparseDilatedAttention(
        **PATTERNS, sparse_config=SparsePatternConfig("axial", 0.3, 16)
    ),
    "a dict": lambda: BlockSparseDilatedAttention(
        **PATTERNS, sparse_config={"pattern_type": "axial", "sparsity_ratio": 0.3, "block_size": 16}
    ),
    "options over sparse_config": lambda: BlockSparseDilatedAttention(
        **PATTERNS, sparse_config=SparsePatternConfig("hybrid", 0.3, 64), pattern_type="axial", block_size=16
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_makes_the_same_module(way):
    made = WAYS[way]()
    assert isinstance(made, BlockSparseDilatedAttention) and made.config.implementation == "block_sparse"
    q, k, v = tensors()
    torch.testing.assert_close(made(q, k, v), expected(q, k, v, **SPARSE), rtol=0, atol=0)
    assert "sparsity_ratio=0.3" in repr(made) and "sparse_pattern='axial'" in repr(made)


def test_masks_of_configurations_and_of_calls():
    q, k, v = tensors(1)
    kept = np.random.default_rng(1).random((4, BLOCKS, BLOCKS)) < 0.4
    mask = TileMask.from_dense(kept, N, 16)
    wanted = expected(q, k, v, tile_mask=mask)
    made = create_dilated_attention("block_sparse", **PATTERNS, tile_mask=mask)
    torch.testing.assert_close(made(q, k, v), wanted)
    np.testing.assert_array_equal(made.tiles(q, k).to_dense()[0], kept)
    torch.testing.assert_close(copy.deepcopy(made)(q, k, v), wanted)
    other = create_dilated_attention("block_sparse", **PATTERNS, **SPARSE)
    torch.testing.assert_close(other(q, k, v, tile_mask=mask), wanted)
    torch.testing.assert_close(other(q, k, v, tile_mask=other.tiles(q, k)), other(q, k, v), rtol=0, atol=0)
    flex = create_block_mask(lambda b, h, i, j: i >= j, None, None, N, N, device="cpu", BLOCK_SIZE=16)
    lower = TileMask.from_dense(np.tri(BLOCKS, dtype=bool), N, 16)
    of_flex = create_dilated_attention("block_sparse", **PATTERNS, tile_mask=flex)
    torch.testing.assert_close(of_flex(q, k, v), expected(q, k, v, tile_mask=lower))
    with pytest.raises(ValueError, match="tile_mask is given with implementation 'improved'"):
        create_dilated_attention("improved", **PATTERNS)(q, k, v, tile_mask=mask)


def test_tiles_of_a_causal_padded_call():
    q, k, v = tensors(2)
    made = create_dilated_attention("block_sparse", **PATTERNS, **SPARSE)
    mask = made.tiles(q, k, is_causal=True, key_lengths=[150, 40])
    assert mask.report.tiles_kept <= made.tiles(q, k).report.tiles_kept
    assert made.tiles(q, k, report=False).report is None
    found = made(q, k, v, is_causal=True, key_lengths=[150, 40])
    torch.testing.assert_close(found, expected(q, k, v, tile_mask=mask, is_causal=True, key_lengths=[150, 40]))


# ---- multihead -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: create_multihead_dilated_attention("block_sparse", **SIZES, **SPARSE),
        lambda: create_block_sparse_attention(0.3, "axial", 32, 4, **PATTERNS, block_size=16),
        lambda: BlockSparseMultiheadDilatedAttention(**SIZES, sparse_config=SparsePatternConfig("axial", 0.3, 16)),
        lambda: BlockSparseMultiheadDilatedAttention(32, 4, [64, 150], [1, 2], **SPARSE),
    ],
)
def test_multihead_modules(make):
    torch.manual_seed(0)
    made = make()
    assert isinstance(made, BlockSparseMultiheadDilatedAttention)
    assert made.attention.config.sparsity_ratio == 0.3 and made.attention.config.block_size == 16
    whole = create_multihead_dilated_attention("improved", **SIZES)
    whole.load_state_dict(made.state_dict())
    x = torch.randn(2, N, 32)
    q, k, v = made.split_heads(*made.project(x, x, x))
    wanted = made.merge_heads(expected(q, k, v, **SPARSE))
    found = made(x)
    torch.testing.assert_close(found, wanted)
    assert (whole(x) - found).abs().max() > 1e-4
    found.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in made.parameters())


def test_all_tiles_are_the_improved_module():
    torch.manual_seed(1)
    made = create_block_sparse_attention(1.0, "local_window", 32, 4, **PATTERNS, block_size=16)
    whole = create_multihead_dilated_attention("improved", **SIZES)
    whole.load_state_dict(made.state_dict())
    x = torch.randn(2, N, 32)
    torch.testing.assert_close(made(x), whole(x))


@pytest.mark.parametrize("masked", [False, True])
def test_weights_are_of_the_tiles_alone(masked):
    torch.manual_seed(2)
    mask = TileMask.from_dense(np.random.default_rng(2).random((2, 4, BLOCKS, BLOCKS)) < 0.4, N, 16)
    options = {"tile_mask": mask} if masked else SPARSE
    made = create_multihead_dilated_attention("block_sparse", **SIZES, **options, layer_norm=False)
    x = torch.randn(2, N, 32)
    out, weights = made(x, need_weights=True, average_attn_weights=False)
    q, k, v = made.split_heads(*made.project(x, x, x))
    kept = np.broadcast_to(made.attention.tiles(q, k).to_dense(), (2, 4, BLOCKS, BLOCKS))
    hidden = ~torch.from_numpy(kept.repeat(16, -1).repeat(16, -2)[..., :N, :N].copy())
    assert (weights[hidden] == 0).all()
    sums = weights.sum(-1)
    assert ((sums - 1).abs().minimum(sums) < 1e-5).all() and (sums > 0.5).any()
    torch.testing.assert_close(made.merge_heads(torch.einsum("bhqk,bkhd->bqhd", weights, v)), out)


def test_key_mass_is_the_sum_of_weights():
    from dilated_attention_pytorch import attention_weights, key_mass

    q, k, _ = tensors(3)
    mask = TileMask.from_dense(np.random.default_rng(3).random((4, BLOCKS, BLOCKS)) < 0.4, N, 16)
    for options in ({"tile_mask": mask}, {**SPARSE, "implementation": "block_sparse"}):
        weights = attention_weights(q, k, queries=range(N), **PATTERNS, **options)
        torch.testing.assert_close(key_mass(q, k, **PATTERNS, **options), weights.sum(2).transpose(1, 2))


def test_an_adaptive_module_has_a_target():
    made = create_adaptive_sparse_attention(32, 4, **PATTERNS, block_size=16)
    assert made.attention.config.quality_target == 0.95 and made.attention.config.sparse_pattern is None
    assert isinstance(made, BlockSparseMultiheadDilatedAttention)
    x = torch.randn(2, N, 32)
    q, k, v = made.split_heads(*made.project(x, x, x))
    wanted = made.merge_heads(expected(q, k, v, quality_target=0.95, block_size=16))
    torch.testing.assert_close(made(x), wanted)
    assert create_adaptive_sparse_attention(32, 4, quality_target=0.8).attention.config.quality_target == 0.8


def test_a_module_by_a_profile():
    from dilated_attention_pytorch import profile_attention

    q, k, v = tensors(4)
    profile = profile_attention(q, k, **PATTERNS, quality_target=0.7, block_size=16)
    made = create_dilated_attention("block_sparse", **PATTERNS, sparse_profile=profile, block_size=16)
    torch.testing.assert_close(made(q, k, v), expected(q, k, v, sparse_profile=profile, block_size=16))
    assert made.tiles(q, k).report.mass_kept > 0.6
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, v), made(q, k, v))
    assert copy.deepcopy(made).config.sparse_profile == profile
    with pytest.raises(TypeError, match="sparse_profile is a str; allowed: SparseProfile"):
        DilatedAttentionConfig(**PATTERNS, sparse_profile="profile.txt")


def test_auto_takes_it_only_with_a_target():
    for lengths in (None, 1000, 60_000, 10**6):
        assert select_implementation(lengths).implementation != "block_sparse"
        assert select_implementation(lengths, quality_target=1.0).implementation != "block_sparse"
        assert select_implementation(lengths, quality_target=0.9).implementation == "block_sparse"
    assert create_dilated_attention("auto", **PATTERNS, sparsity_ratio=0.1).config.implementation == "improved"
    assert create_dilated_attention("auto", **PATTERNS, quality_target=0.9).config.implementation == "block_sparse"
    config = DilatedAttentionConfig(**PATTERNS, quality_target=0.9)
    made = create_multihead_dilated_attention("auto", 32, 4, attention_config=config)
    assert made.attention.config.quality_target == 0.9 and made.attention.config.implementation == "block_sparse"


# ---- names of other packages, and what is refused --------------------------------------------------------------------


def test_configurations_by_the_names_of_other_packages():
    from dilated_attention_pytorch.block_sparse_ring_dilated_attention import BlockSparseRingDilatedAttention
    from dilated_attention_pytorch.block_sparse_ring_dilated_attention import SparsePatternConfig as OldName

    assert OldName is SparsePatternConfig and BlockSparseRingDilatedAttention is BlockSparseDilatedAttention
    made = BlockSparseRingDilatedAttention(
        **PATTERNS, sparse_config=OldName(pattern_type="global_local", block_size=32, global_tokens=40, seed=4)
    )
    config = made.config
    assert (config.sparse_pattern, config.global_blocks, config.sparse_seed) == ("global_local", 2, 4)
    adaptive = BlockSparseRingDilatedAttention(**PATTERNS, pattern_type="adaptive")
    assert adaptive.config.sparse_pattern == "content"
    assert SparseAttentionConfig(**PATTERNS, enable_adaptive=True, seed=5).sparse_seed == 5
    copied = dataclasses.replace(SparseAttentionConfig(**PATTERNS, pattern_type="axial"), sparsity_ratio=0.5)
    assert copied.sparse_pattern == "axial" and copied.implementation == "block_sparse"
    with pytest.warns(UserWarning, match="local_window_size, ring_size has no effect"):
        BlockSparseRingDilatedAttention(**PATTERNS, ring_size=1, local_window_size=512)
    with pytest.warns(UserWarning, match="max_sparsity, min_sparsity has no effect"):
        BlockSparseMultiheadDilatedAttention(**SIZES, min_sparsity=0.1, max_sparsity=0.9)


@pytest.mark.parametrize(
    "fields, error, message",
    [
        ({"sparse_pattern": "mask"}, ValueError, "sparse_pattern is 'mask'; allowed: 'content'"),
        ({"sparsity_ratio": 0}, ValueError, "sparsity_ratio is 0.0; allowed"),
        ({"sparsity_ratio": True}, TypeError, "sparsity_ratio is True"),
        ({"block_size": 100}, ValueError, "block_size is 100; allowed: multiples of 16 up to 1024"),
        ({"quality_target": 2}, ValueError, "quality_target is 2.0"),
        ({"global_blocks": 1.5}, TypeError, "global_blocks is 1.5"),
        ({"sparse_seed": "x"}, TypeError, "sparse_seed is 'x'"),
        ({"tile_mask": np.ones((10, 10), bool)}, TypeError, "tile_mask is a ndarray; allowed in a configuration"),
    ],
    ids=str,
)
def test_bad_fields_are_refused(fields, error, message):
    for make in (
        lambda: DilatedAttentionConfig(**PATTERNS, **fields),
        lambda: create_dilated_attention("block_sparse", **PATTERNS, **fields),
        lambda: BlockSparseMultiheadDilatedAttention(**SIZES, **fields),
    ):
        with pytest.raises(error, match=message):
            make()


def test_other_refusals():
    with pytest.raises(ValueError, match="pattern_type is 'axial' and sparse_pattern 'random'; allowed: one of them"):
        SparseAttentionConfig(**PATTERNS, pattern_type="axial", sparse_pattern="random")
    with pytest.raises(TypeError, match="sparse_config is a int; allowed: SparsePatternConfig, dict"):
        BlockSparseDilatedAttention(**PATTERNS, sparse_config=3)
    with pytest.raises(ValueError, match="pattern_type is 'learned'"):
        SparsePatternConfig("learned")
    with pytest.raises(TypeError, match="got the argument 'sparsity'"):
        create_dilated_attention("block_sparse", sparsity=0.1)
    with pytest.raises(ValueError, match=r"quality_target is 0\.0"):
        create_adaptive_sparse_attention(32, 4, quality_target=0)
