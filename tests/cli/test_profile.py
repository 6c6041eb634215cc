"""profile: what it finds for each head is saved, and computed by; refusals."""
import numpy as np
import pytest

from cli_support import refuse, succeed, succeed_json

WORDS = ["--segments", 256, "--rates", 1, "--block-size", 32]


@pytest.fixture(name="sample")
def make_sample(tmp_path):
    """One sequence of 256 tokens, three heads. Queries of head 0 look at their neighbours, those of head 1 at one block each
    that is anywhere, those of head 2 at nothing in particular."""
    rng = np.random.default_rng(5)
    n, blocks, size = 256, 8, 32
    directions = np.eye(blocks, 16)
    block = np.arange(n) // size
    q, k = (0.1 * rng.standard_normal((1, n, 3, 16)) for _ in range(2))
    targets = rng.permutation(blocks)
    k[0, :, 0] += 8 * directions[block]
    q[0, :, 0] += 8 * directions[block]
    k[0, :, 1] += 8 * directions[block]
    q[0, :, 1] += 8 * directions[targets[block]]
    for name, x in (("q", q), ("k", k), ("v", rng.standard_normal((1, n, 3, 16)))):
        np.save(tmp_path / f"{name}.npy", x.astype(np.float32))
    return tmp_path


def files(sample, *names):
    return [word for name in names for word in (f"--{name}", sample / f"{name}.npy")]


def test_each_head_gets_what_it_needs(sample):
    profile = sample / "profile.txt"
    found = succeed_json("profile", *files(sample, "q", "k"), *WORDS, "--quality-target", 0.9, "--out", profile)
    assert found["out"] == str(profile) and found["block_size"] == 32 and found["quality_target"] == 0.9
    neighbours, anywhere, nowhere = found["heads"]
    assert neighbours["ratio"] <= 0.25
    assert anywhere["pattern"] == "content" and anywhere["ratio"] <= 0.25
    assert nowhere["ratio"] > 0.7
    words = ["run", *files(sample, "q", "k", "v"), *WORDS, "--impl", "block_sparse", "--out", sample / "out.npy"]
    report = succeed_json(*words, "--sparse-profile", profile)
    assert report["sparse"]["mass_kept"] > 0.88
    assert report["sparse"]["tiles_kept"] < 0.6 * report["sparse"]["tiles_all"]
    computed = np.load(sample / "out.npy")
    succeed(*words[:-1], sample / "whole.npy", "--sparsity-ratio", 1, "--quiet")
    whole = np.load(sample / "whole.npy")
    assert 0 < np.abs(computed - whole).max() and np.abs(computed - whole).mean() < 0.1 * np.abs(whole).mean()


def test_text_quiet_and_the_same_file_again(sample):
    words = ["profile", *files(sample, "q", "k"), *WORDS, "--quality-target", 0.8, "--out"]
    lines = succeed(*words, sample / "a.txt").splitlines()
    assert len(lines) == 3 and all("% of the tiles" in line for line in lines)
    assert succeed(*words, sample / "b.txt", "--quiet", "--threads", 1) == ""
    assert (sample / "a.txt").read_bytes() == (sample / "b.txt").read_bytes()
    report = succeed_json("bench", *WORDS, "--n", 256, "--heads", 3, "--head-dim", 16, "--repeats", 1, "--impl",
                          "block_sparse", "--check", "--sparse-profile", sample / "a.txt")
    assert report["results"][0]["check"]["passed"] and report["results"][0]["sparse"]["tiles_kept"] > 0


@pytest.mark.parametrize("words, message", [
    (["--quality-target", 1], "--quality-target: is 1; allowed: a number above 0 and below 1"),
    ([], "--quality-target: missing; allowed"),
    (["--quality-target", 0.9, "--sparse-pattern", "axial"], "--sparse-pattern: is what this command finds"),
    (["--quality-target", 0.9, "--sparsity-ratio", 0.5], "--sparsity-ratio: is what this command finds"),
    (["--quality-target", 0.9, "--lengths", "1,2"], "--lengths: gives 2 lengths; the batch of --q is 1"),
    (["--quality-target", 0.9, "--out", "IN/q.npy"], "is the file of --q; an output may not replace an input"),
], ids=str)
def test_refused_options(sample, words, message):
    words = [str(word).replace("IN", str(sample)) for word in words]
    line = refuse(2, "profile", *files(sample, "q", "k"), *WORDS, "--out", sample / "profile.txt", *words)
    assert message in line and not (sample / "profile.txt").exists()


def test_other_refusals(sample):
    words = [*WORDS, "--quality-target", 0.9]
    assert "--k: missing" in refuse(2, "profile", *files(sample, "q"), *words, "--out", sample / "p.txt")
    assert "--out: missing" in refuse(2, "profile", *files(sample, "q", "k"), *words)
    np.save(sample / "k.npy", np.zeros((1, 256, 2, 16), np.float32))
    assert "heads" in refuse(2, "profile", *files(sample, "q", "k"), *words, "--out", sample / "p.txt")
    np.save(sample / "k.npy", np.zeros((1, 256, 3, 16)))
    assert "--k: " in refuse(1, "profile", *files(sample, "q", "k"), *words, "--out", sample / "p.txt")
    np.save(sample / "k.npy", np.zeros((1, 256, 3, 16), np.float32))
    assert "--out: " in refuse(1, "profile", *files(sample, "q", "k"), *words, "--out", sample / "none" / "p.txt")


def test_profiles_that_cannot_be_used(sample):
    profile = sample / "profile.txt"
    succeed("profile", *files(sample, "q", "k"), *WORDS, "--quality-target", 0.8, "--out", profile, "--quiet")
    words = ["run", *files(sample, "q", "k", "v"), *WORDS, "--impl", "block_sparse", "--out", sample / "out.npy",
             "--quiet", "--sparse-profile"]
    assert "--sparse-profile: " in refuse(1, *words, sample / "none.txt")
    assert "not with --sparse-pattern" in refuse(2, *words, profile, "--sparsity-ratio", 0.5)
    assert "has no effect on improved" in refuse(2, *words, profile, "--impl", "improved")
    text = profile.read_text()
    profile.write_text(text.replace("heads 3", "heads 4"))
    assert "damaged" in refuse(1, *words, profile)
    profile.write_text(text)
    for name in "qkv":
        np.save(sample / f"{name}.npy", np.load(sample / f"{name}.npy")[:, :, :2])
    assert "heads" in refuse(1, *words, profile)
    assert not (sample / "out.npy").exists()
