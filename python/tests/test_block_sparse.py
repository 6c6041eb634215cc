"""Attention over tiles: against masked dense attention in float64, its gradients, masks of all kinds, bad input."""

import pickle

import dilated_attention_pytorch as package
import numpy as np
import pytest
import tiles_reference
import torch
from dilated_attention_pytorch import SparseProfile, TileMask, attention_tiles, dilated_attention, profile_attention
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

N, BLOCK, BLOCKS = 150, 16, 10
PATTERNS = ([32, 64, 150], [1, 2, 3])
FIXED = ("local_window", "global_local", "dilated_sparse", "axial", "random", "hybrid")


def problem(seed=0, dtype=torch.float64, heads=4, kv_heads=2, n=N, batch=2, requires_grad=True):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, n, count, 8) for count in (heads, kv_heads, kv_heads)]
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_(requires_grad) for s in shapes]


def some_tiles(*shape, seed=0, part=0.4):
    return np.random.default_rng(seed).random((*shape, BLOCKS, BLOCKS)) < part


def sparse(q, k, v, **options):
    return dilated_attention(q, k, v, *PATTERNS, implementation="block_sparse", **options)


OPTIONS = [
    {},
    {"is_causal": True},
    {"window": 20},
    {"is_causal": True, "window": 40},
    {"preset": "torchscale"},
    {"preset": "head_groups"},
    {"overlap": "once"},
    {"key_lengths": [150, 61]},
    {"key_lengths": [0, 100], "is_causal": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", [(), (4,), (2, 4), (2, 1)], ids=str)
def test_results_and_gradients_are_those_of_masked_dense_attention(options, shape):
    inputs, kept = problem(), some_tiles(*shape, seed=len(options) + len(shape))
    out, lse = sparse(*inputs, tile_mask=kept, block_size=BLOCK, return_lse=True, **options)
    expected, expected_lse = tiles_reference.attention(*inputs, *PATTERNS, kept, BLOCK, **options)
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(lse, expected_lse, rtol=1e-11, atol=1e-12)
    seen = torch.isfinite(expected_lse)
    grad_out = torch.randn_like(out)
    ways = [
        torch.autograd.grad((o, torch.where(seen, s, 0.0)), inputs, (grad_out, 0.5 * seen.double()))
        for o, s in ((out, lse), (expected, expected_lse))
    ]
    for found, wanted in zip(*ways):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dtype, error", [(torch.float32, 2e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_other_data_types(dtype, error):
    inputs, kept = problem(1, dtype), some_tiles(2, 4)
    out, lse = sparse(*inputs, tile_mask=kept, block_size=BLOCK, return_lse=True)
    expected, expected_lse = tiles_reference.attention(*inputs, *PATTERNS, kept, BLOCK)
    assert out.dtype == dtype and lse.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected, rtol=error, atol=error)
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-5, atol=1e-5)
    grad_out = torch.randn_like(out)
    found = torch.autograd.grad(out, inputs, grad_out)
    wanted = torch.autograd.grad(expected, inputs, grad_out.double())
    for one, other in zip(found, wanted):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other, rtol=4 * error, atol=8 * error)


def test_all_tiles_are_the_whole_attention():
    q, k, v = problem(2, torch.float32)
    whole = dilated_attention(q, k, v, *PATTERNS, implementation="improved")
    torch.testing.assert_close(sparse(q, k, v, tile_mask=np.ones((BLOCKS, BLOCKS), bool), block_size=BLOCK), whole)
    torch.testing.assert_close(sparse(q, k, v, sparse_pattern="local_window", sparsity_ratio=1, block_size=16), whole)


def test_a_row_without_tiles_is_zero():
    q, k, v = problem(3)
    kept = np.ones((BLOCKS, BLOCKS), bool)
    kept[2] = False
    out, lse = sparse(q, k, v, tile_mask=kept, block_size=BLOCK, return_lse=True)
    assert (out[:, 32:48] == 0).all() and torch.isneginf(lse[:, 32:48]).all()
    assert torch.isfinite(lse[:, :32]).all() and torch.isfinite(lse[:, 48:]).all()
    grads = torch.autograd.grad(out.sum(), (q, k, v))
    assert (grads[0][:, 32:48] == 0).all() and all(torch.isfinite(g).all() for g in grads)


def test_arrays_are_computed_like_tensors():
    tensors = problem(4, torch.float32, requires_grad=False)
    kept = some_tiles(4)
    out = sparse(*(x.numpy() for x in tensors), tile_mask=kept, block_size=BLOCK)
    assert isinstance(out, np.ndarray)
    np.testing.assert_array_equal(out, sparse(*tensors, tile_mask=torch.from_numpy(kept), block_size=BLOCK).numpy())
    found = attention_tiles(*(x.numpy() for x in tensors[:2]), *PATTERNS, sparse_pattern="axial", block_size=BLOCK)
    of_tensors = attention_tiles(*tensors[:2], *PATTERNS, sparse_pattern="axial", block_size=BLOCK)
    np.testing.assert_array_equal(found.to_dense(), of_tensors.to_dense())


def test_gradcheck():
    q, k, v = problem(5, n=40, batch=1)
    mask = TileMask.from_dense([[1, 0, 1], [0, 1, 1], [1, 1, 0]], 40, 16)

    def both(*inputs):
        out, lse = dilated_attention(
            *inputs, [16, 40], [1, 2], implementation="block_sparse", tile_mask=mask, return_lse=True
        )
        return out, lse.nan_to_num(neginf=0.0)

    assert torch.autograd.gradcheck(both, (q, k, v))


def test_dropout_is_that_of_improved():
    """A pair's dropout depends on its place alone, so that all tiles lose what the whole attention loses."""
    q, k, v = problem(6, torch.float32)
    torch.manual_seed(1)
    whole = dilated_attention(q, k, v, *PATTERNS, dropout_p=0.3, implementation="improved")
    torch.manual_seed(1)
    tiles = sparse(q, k, v, tile_mask=np.ones((BLOCKS, BLOCKS), bool), block_size=BLOCK, dropout_p=0.3)
    torch.testing.assert_close(tiles, whole)


# ---- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1), (1, 3)], ids=str)
def test_masks_hold_what_they_are_made_from(shape):
    kept = some_tiles(*shape)
    mask = TileMask.from_dense(kept, N, BLOCK)
    dense = kept.reshape((1,) * (4 - kept.ndim) + kept.shape)
    np.testing.assert_array_equal(mask.to_dense(), dense)
    assert (mask.batch, mask.heads, mask.n, mask.block_size, mask.blocks) == (*dense.shape[:2], N, BLOCK, BLOCKS)
    assert mask.tiles == kept.sum() and mask.report is None
    again = TileMask(mask.counts, torch.from_numpy(mask.columns), N, BLOCK)
    copied = pickle.loads(pickle.dumps(mask))
    for other in (again, copied):
        np.testing.assert_array_equal(other.to_dense(), dense)


@pytest.mark.parametrize("heads", [None, 4])
def test_flex_attentions_block_mask(heads):
    """On a dense pattern, PyTorch computes the same from the same BlockMask."""
    n, block = 512, 128
    kept = torch.from_numpy(np.random.default_rng(3).random((heads or 1, 4, 4)) < 0.5) | torch.eye(4, dtype=torch.bool)

    def mask_mod(b, h, i, j):
        return kept[h if heads else 0, i // block, j // block]

    mask = create_block_mask(mask_mod, None, heads, n, n, device="cpu", BLOCK_SIZE=block)
    assert isinstance(mask, BlockMask)
    q, k, v = problem(7, torch.float32, kv_heads=4, n=n, batch=1, requires_grad=False)
    with torch.no_grad():
        expected = flex_attention(*(x.transpose(1, 2) for x in (q, k, v)), block_mask=mask).transpose(1, 2)
    found = dilated_attention(q, k, v, [n], [1], implementation="block_sparse", tile_mask=mask)
    torch.testing.assert_close(found, expected)
    np.testing.assert_array_equal(TileMask.from_block_mask(mask).to_dense()[0], kept.numpy())


@pytest.mark.parametrize("pattern", FIXED)
@pytest.mark.parametrize("causal", [False, True])
def test_fixed_patterns_are_the_masks_that_they_say(pattern, causal):
    q, k, v = problem(8)
    options = {"sparse_pattern": pattern, "sparsity_ratio": 0.3, "block_size": BLOCK, "is_causal": causal}
    mask = attention_tiles(q, k, *PATTERNS, **options)
    report = mask.report
    assert 0 < report.tiles_kept < report.tiles_all and 0 < report.pairs_kept < report.pairs_all
    kept = np.broadcast_to(mask.to_dense(), (2, 4, BLOCKS, BLOCKS))
    assert kept.sum() == report.tiles_kept and kept.any(-1).all()
    out = sparse(q, k, v, **options)
    torch.testing.assert_close(out, sparse(q, k, v, tile_mask=mask, is_causal=causal), rtol=0, atol=0)
    expected, _ = tiles_reference.attention(q, k, v, *PATTERNS, kept, BLOCK, is_causal=causal)
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-12)
    for one, other in zip(torch.autograd.grad(out.sum(), (q, k, v)), torch.autograd.grad(expected.sum(), (q, k, v))):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


def test_options_of_patterns():
    q, k, _ = problem(9, requires_grad=False)

    def tiles(**options):
        return attention_tiles(q, k, [N], [1], block_size=BLOCK, **options).to_dense()[0, 0]

    wide = tiles(sparse_pattern="global_local", global_blocks=3, sparsity_ratio=0.4)
    assert wide[:, :3].all() and wide[:3].all()
    drawn = [tiles(sparse_pattern="random", sparse_seed=seed, sparsity_ratio=0.3) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
    assert tiles(sparse_pattern="local_window", sparsity_ratio=0.1).sum() == BLOCKS
    larger = attention_tiles(q, k, [N], [1], sparse_pattern="axial", block_size=64)
    assert larger.block_size == 64 and larger.blocks == 3


def test_without_a_report():
    q, k, _ = problem(10)
    assert attention_tiles(q, k, *PATTERNS, sparse_pattern="axial", report=False).report is None
    told = attention_tiles(q, k, *PATTERNS, tile_mask=some_tiles(), block_size=BLOCK)
    np.testing.assert_array_equal(told.to_dense()[0, 0], some_tiles())
    assert told.report.tiles_kept < told.report.tiles_all


# ---- by content ------------------------------------------------------------------------------------------------------


def peaked(seed=0, n=256):
    """Each block of queries looks at one block of keys, another for each head."""
    generator = torch.Generator().manual_seed(seed)
    blocks = n // 32
    directions = torch.randn(blocks, 16, generator=generator, dtype=torch.float64)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    q = torch.randn(1, n, 2, 16, generator=generator, dtype=torch.float64) * 0.1
    k = q + 6 * directions.repeat_interleave(32, 0)[:, None]
    targets = torch.stack([torch.randperm(blocks, generator=generator) for _ in range(2)], 1)
    q = q + 6 * directions[targets].repeat_interleave(32, 0)
    v = torch.randn(1, n, 2, 16, generator=generator, dtype=torch.float64)
    return [x.requires_grad_() for x in (q, k, v)], targets


def test_content_finds_the_blocks_that_queries_look_at():
    (q, k, _), targets = peaked()
    mask = attention_tiles(q, k, [256], [1], sparsity_ratio=0.125, block_size=32)
    for head in range(2):
        assert mask.to_dense()[0, head][np.arange(8), targets[:, head]].all()
    assert mask.report.tiles_kept == 16 and mask.report.mass_kept > 0.99


@pytest.mark.parametrize("options", [{"sparsity_ratio": 0.25}, {"quality_target": 0.9}], ids=str)
def test_gradients_have_the_tiles_of_the_forward_pass(options, monkeypatch):
    (q, k, v), _ = peaked(1)
    options = {**options, "block_size": 32, "implementation": "block_sparse"}
    mask = attention_tiles(q, k, [256], [1], **options)
    from dilated_attention_pytorch import _torch_ops

    choices = []
    choose = _torch_ops._tiles
    monkeypatch.setattr(_torch_ops, "_tiles", lambda *inputs: choices.append(1) or choose(*inputs))
    out = dilated_attention(q, k, v, [256], [1], **options)
    found = torch.autograd.grad(out.sum(), (q, k, v))
    assert len(choices) == 1
    expected, _ = tiles_reference.attention(q, k, v, [256], [1], mask.to_dense(), 32)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-11)
    for one, other in zip(found, torch.autograd.grad(expected.sum(), (q, k, v))):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(dilated_attention(q, k, v, [256], [1], **options), out, rtol=0, atol=0)
    assert len(choices) == 1


def test_a_quality_target_is_kept():
    q, k, _ = problem(11, torch.float32, kv_heads=4, n=1024, batch=1, requires_grad=False)
    low, high = (
        attention_tiles(q, k, [1024], [1], quality_target=target, block_size=64).report for target in (0.5, 0.9)
    )
    assert low.tiles_kept < high.tiles_kept < high.tiles_all
    for target, report in ((0.5, low), (0.9, high)):
        assert report.mass_kept > target - 4 * report.mass_error - 0.02 and report.sampled_queries > 0


def test_auto_approximates_only_with_a_target():
    (q, k, v), _ = peaked(2)
    whole = dilated_attention(q, k, v, [256], [1], implementation="improved")
    torch.testing.assert_close(dilated_attention(q, k, v, [256], [1], sparsity_ratio=0.1), whole)
    rough = dilated_attention(q, k, v, [256], [1], quality_target=0.6, block_size=32)
    assert (rough - whole).abs().max() > 1e-6
    expected = dilated_attention(q, k, v, [256], [1], quality_target=0.6, block_size=32, implementation="block_sparse")
    torch.testing.assert_close(rough, expected)
    assert "block_sparse" in package.explain([256], [1], n=256, heads=2, head_dim=16, quality_target=0.6).split("\n")[0]
    assert "block_sparse" not in package.explain([256], [1], n=256, heads=2, head_dim=16).split("\n")[0]


# ---- profiles --------------------------------------------------------------------------------------------------------


def test_a_profile_says_what_each_head_needs(tmp_path):
    (q, k, v), _ = peaked(4)
    profile = profile_attention(q, k, [256], [1], quality_target=0.9, block_size=32)
    assert len(profile.heads) == 2 and profile.quality_target == 0.9 and profile.block_size == 32
    assert all(pattern in ("content", *FIXED) and 0 < ratio <= 1 for pattern, ratio in profile.heads)
    profile.save(tmp_path / "profile.txt")
    for again in (SparseProfile.load(tmp_path / "profile.txt"), pickle.loads(pickle.dumps(profile))):
        assert again == profile and again.heads == profile.heads
    options = {"implementation": "block_sparse", "sparse_profile": profile, "block_size": 32}
    mask = attention_tiles(q, k, [256], [1], sparse_profile=profile, block_size=32)
    assert mask.report.tiles_kept < mask.report.tiles_all and mask.report.mass_kept > 0.85
    out = dilated_attention(q, k, v, [256], [1], **options)
    expected, _ = tiles_reference.attention(q, k, v, [256], [1], mask.to_dense(), 32)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-11)
    found = torch.autograd.grad(out.sum(), (q, k, v))
    for one, other in zip(found, torch.autograd.grad(expected.sum(), (q, k, v))):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
    arrays = [x.detach().numpy() for x in (q, k, v)]
    assert profile_attention(*arrays[:2], [256], [1], quality_target=0.9, block_size=32) == profile
    np.testing.assert_allclose(dilated_attention(*arrays, [256], [1], **options), out.detach(), rtol=1e-12, atol=1e-13)


def test_profiles_that_cannot_be_used(tmp_path):
    (q, k, v), _ = peaked(5)
    profile = profile_attention(q, k, [256], [1], quality_target=0.9, block_size=32)

    def compute(*inputs, **options):
        return dilated_attention(*inputs, [256], [1], implementation="block_sparse", **options)

    for name, value in (("sparsity_ratio", 0.5), ("sparse_pattern", "axial"), ("quality_target", 0.9)):
        with pytest.raises(ValueError, match=f"{name} is {value!r}, and sparse_profile says which tiles"):
            compute(q, k, v, sparse_profile=profile, **{name: value})
    with pytest.raises(ValueError, match="and tile_mask says which tiles"):
        compute(q, k, v, sparse_profile=profile, tile_mask=np.ones((2, 2), bool))
    for value in (3, profile.text):
        with pytest.raises(TypeError, match=f"sparse_profile is a {type(value).__name__}; allowed: SparseProfile"):
            compute(q, k, v, sparse_profile=value)
    with pytest.raises(ValueError, match="heads"):
        compute(*(x[:, :, :1] for x in (q, k, v)), sparse_profile=profile)
    for text in ("heads 2", profile.text.replace("heads 2", "heads 3"), profile.text[:-20]):
        with pytest.raises(ValueError, match="damaged"):
            SparseProfile(text)
    with pytest.raises(ValueError, match="the file is empty"):
        SparseProfile("")
    with pytest.raises(TypeError, match="text is a bytes"):
        SparseProfile(b"")
    with pytest.raises(OSError, match=r"none\.txt"):
        SparseProfile.load(tmp_path / "none.txt")
    for target in (0, 1, 1.5):
        with pytest.raises(ValueError, match="quality_target is"):
            profile_attention(q, k, [256], [1], quality_target=target)


# ---- PyTorch's compilers and transforms ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"sparse_pattern": "axial"}, {"sparsity_ratio": 0.25}, {"tile_mask": True}], ids=str
)
def test_compile(options):
    (q, k, v), _ = peaked(3)
    if "tile_mask" in options:
        kept = np.eye(8, dtype=bool) | (np.arange(8) < 2)
        options = {"tile_mask": TileMask.from_dense(kept, 256, 32)}
    else:
        options = {**options, "block_size": 32}

    def attend(*inputs):
        return dilated_attention(*inputs, [256], [1], implementation="block_sparse", **options)

    expected = attend(q, k, v)
    grads = torch.autograd.grad(expected.square().sum(), (q, k, v))
    out = torch.compile(attend, fullgraph=True, backend="aot_eager")(q, k, v)
    torch.testing.assert_close(out, expected)
    for one, other in zip(torch.autograd.grad(out.square().sum(), (q, k, v)), grads):
        torch.testing.assert_close(one, other)


def test_operators_keep_pytorchs_rules():
    from dilated_attention_pytorch._config import encode, normal_options

    q, k, v = problem(12)
    config = encode(normal_options(*PATTERNS, implementation="block_sparse", block_size=BLOCK))
    mask = TileMask.from_dense(some_tiles(4), N, BLOCK)
    torch.library.opcheck(
        torch.ops.dilated_attention.forward.default, (q, k, v, None, None, config, 0.0, *mask.as_tensors())
    )
    fixed = encode(normal_options(*PATTERNS, implementation="block_sparse", block_size=16, sparse_pattern="axial"))
    counts, columns = torch.ops.dilated_attention.tiles(q.detach(), k.detach(), None, fixed)
    assert counts.shape == (2, 4, BLOCKS) and counts.sum() == columns.numel()
    torch.library.opcheck(
        torch.ops.dilated_attention.tiles.default,
        (q.detach(), k.detach(), None, fixed),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_vmap():
    stack = [torch.stack([x, -x]) for x in problem(13)]
    mask = TileMask.from_dense(some_tiles(4), N, BLOCK)
    found = torch.vmap(lambda *x: sparse(*x, tile_mask=mask))(*stack)
    for number in range(2):
        torch.testing.assert_close(found[number], sparse(*(x[number] for x in stack), tile_mask=mask))
    of_batch = TileMask.from_dense(some_tiles(2, 4), N, BLOCK)
    with pytest.raises(RuntimeError, match="tile_mask is of 2 batch elements, under vmap"):
        torch.vmap(lambda *x: sparse(*x, tile_mask=of_batch))(*stack)


def test_an_empty_batch():
    q, k, v = (x[:0] for x in problem(14))
    assert sparse(q, k, v, sparse_pattern="axial").shape == q.shape
    assert sparse(q, k, v).shape == q.shape


# ---- bad input -------------------------------------------------------------------------------------------------------

KEPT = np.ones((BLOCKS, BLOCKS), bool)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"sparse_pattern": "diagonal"}, ValueError, "sparse_pattern is 'diagonal'; allowed: 'content', 'local"),
        ({"sparse_pattern": "mask"}, ValueError, "sparse_pattern is 'mask'"),
        ({"sparse_pattern": 3}, TypeError, "sparse_pattern is 3"),
        ({"sparsity_ratio": 0}, ValueError, "sparsity_ratio is 0.0; allowed: a number above 0, at most 1"),
        ({"sparsity_ratio": 1.5}, ValueError, "sparsity_ratio is 1.5"),
        ({"sparsity_ratio": float("nan")}, ValueError, "sparsity_ratio is nan"),
        ({"sparsity_ratio": "0.5"}, TypeError, "sparsity_ratio is '0.5'"),
        ({"block_size": 24}, ValueError, "block_size is 24; allowed: multiples of 16 up to 1024"),
        ({"block_size": 2048}, ValueError, "block_size is 2048"),
        ({"block_size": 64.0}, TypeError, "block_size is 64.0"),
        ({"quality_target": 0}, ValueError, "quality_target is 0.0"),
        ({"quality_target": 1.01}, ValueError, "quality_target is 1.01"),
        ({"global_blocks": -1}, ValueError, "global_blocks is -1"),
        ({"sparse_seed": -1}, ValueError, "sparse_seed is -1"),
        ({"sparse_seed": 2**63}, ValueError, "sparse_seed is 9223372036854775808"),
        ({"tile_mask": KEPT, "block_size": 32}, ValueError, r"tile_mask has the shape \(10, 10\); allowed: \(5, 5\)"),
        ({"tile_mask": KEPT[:9]}, ValueError, "tile_mask has the shape"),
        ({"tile_mask": KEPT * 1.0, "block_size": 16}, TypeError, "tile_mask has the data type float64"),
        ({"tile_mask": 3}, TypeError, "tile_mask is a int; allowed: TileMask"),
        ({"tile_mask": KEPT, "sparsity_ratio": 0.1}, ValueError, "sparsity_ratio is 0.1, and tile_mask says"),
        ({"tile_mask": KEPT, "sparse_pattern": "axial"}, ValueError, "sparse_pattern is 'axial', and tile_mask says"),
        ({"tile_mask": KEPT, "quality_target": 0.9}, ValueError, "quality_target is 0.9, and tile_mask says"),
        ({"tile_mask": KEPT, "implementation": "improved"}, ValueError, "with implementation 'improved'; allowed"),
        ({"tile_mask": KEPT, "implementation": "auto"}, ValueError, "with implementation 'auto'; allowed"),
        ({"tile_mask": TileMask.from_dense(KEPT, 149, 16)}, ValueError, "tile_mask is for 149 tokens; allowed: .* 150"),
        ({"tile_mask": TileMask.from_dense(KEPT, 150, 16), "block_size": 32}, ValueError, "block_size is 32; allowed"),
        ({"tile_mask": np.ones((3, 10, 10), bool), "block_size": 16}, ValueError, "heads"),
        ({"tile_mask": np.ones((3, 4, 10, 10), bool), "block_size": 16}, ValueError, "batch"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, error, message):
    inputs = problem()
    options = {"implementation": "block_sparse", **options}
    with pytest.raises(error, match=message):
        dilated_attention(*inputs, *PATTERNS, **options)
    with pytest.raises(error, match=message):
        dilated_attention(*(x.detach().numpy() for x in inputs), *PATTERNS, **options)


@pytest.mark.parametrize(
    "counts, columns, message",
    [
        (np.ones((1, 1, 9), int), np.zeros(9, int), r"counts has the shape \(1, 1, 9\)"),
        (np.ones((10,), int), np.zeros(10, int), r"counts has the shape \(10,\)"),
        (np.ones((1, 1, 10), int), np.zeros(9, int), "tiles: row 9 has 1 tiles"),
        (np.ones((1, 1, 10), int), np.zeros(11, int), "tiles: there are 11 columns; allowed: as many as the"),
        (np.full((1, 1, 10), -1), np.zeros(0, int), "tiles: row 0 has -1 tiles"),
        (np.full((1, 1, 10), 2), np.tile([1, 0], 10), "columns"),
        (np.full((1, 1, 10), 2), np.tile([1, 1], 10), "columns"),
        (np.ones((1, 1, 10), int), np.full(10, 10), "columns"),
        (np.ones((1, 1, 10), int), np.full(10, -1), "columns"),
        (np.full((1, 1, 10), 2**40), np.zeros(10, int), "counts has a number beyond 32 bits"),
    ],
    ids=str,
)
def test_bad_masks_are_refused(counts, columns, message):
    with pytest.raises(ValueError, match=message):
        TileMask(counts, columns, N, BLOCK)


def test_other_bad_masks():
    with pytest.raises(TypeError, match="counts has the data type float64"):
        TileMask(np.ones((1, 1, 10)), np.zeros(10, int), N, BLOCK)
    with pytest.raises(ValueError, match="block_size is 8"):
        TileMask.from_dense(KEPT, N, 8)
    with pytest.raises(ValueError, match="n is 0"):
        TileMask.from_dense(KEPT, 0, 16)
    uneven = create_block_mask(lambda b, h, i, j: i >= j, None, None, 256, 256, device="cpu", BLOCK_SIZE=(64, 128))
    with pytest.raises(ValueError, match="the BlockMask has blocks of 64 x 128"):
        TileMask.from_block_mask(uneven)
    q, k, _ = problem()
    with pytest.raises(ValueError, match="implementation is 'improved', which is 'improved' here"):
        attention_tiles(q, k, *PATTERNS, implementation="improved")
    with pytest.raises(TypeError, match="key is a ndarray"):
        attention_tiles(q, k.detach().numpy(), *PATTERNS)
    with pytest.raises(ValueError, match="process_group is given"):
        attention_tiles(q, k, *PATTERNS, process_group="0")


def test_operators_refuse_tensors_that_are_no_tiles():
    from dilated_attention_pytorch._config import encode, normal_options

    q, k, v = problem()
    config = encode(normal_options(*PATTERNS, implementation="block_sparse", block_size=BLOCK))
    counts, columns = TileMask.from_dense(KEPT, N, BLOCK).as_tensors()
    forward = torch.ops.dilated_attention.forward
    with pytest.raises(ValueError, match=r"tile_counts is of torch\.int64"):
        forward(q, k, v, None, None, config, 0.0, counts.long(), columns)
    with pytest.raises(ValueError, match=r"tile_columns is of torch\.int32 and shape"):
        forward(q, k, v, None, None, config, 0.0, counts, columns[None])
    with pytest.raises(ValueError, match="tiles: 9 rows; allowed"):
        forward(q, k, v, None, None, config, 0.0, counts[..., 1:], columns)
    with pytest.raises(ValueError, match="columns"):
        forward(q, k, v, None, None, config, 0.0, counts, columns + 1)
