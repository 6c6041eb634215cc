"""Compares a sample of a part's outputs with the definition in float64, row by row, and fails where rounding cannot
explain a difference. Only the rows that a sampled query sees are read, so a long book takes seconds too."""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from book import DemoError, Tokens
from exact import exact_row, keys_and_counts

SAMPLES = 64
SEED = 2307
NEAR = 512          # tokens; the farthest that the model itself could look
SHOWN_HEAD = 8      # a head that looks for meaning more than for place
SHOWN_WORDS = (("Ge1:3", "light"), ("Eccl1:2", "vanity"), ("Jonah1:17", "fish"), ("1Cor13:13", "charity"))


def sample_positions(n: int, segments: list[int], chosen: list[int]) -> list[int]:
    """First and last token, both sides of edges of every segment length at the front and the end, the chosen ones, and
    one at random from each of as many equal stretches as fill the sample."""
    positions = {0, n - 1, *chosen}
    for w in segments:
        positions.update(p for edge in (w, (n - 1) // w * w) for p in (edge - 1, edge) if 0 <= p < n)
    rng = np.random.default_rng(SEED)
    stretches = np.linspace(0, n, max(SAMPLES - len(positions), 1) + 1).astype(np.int64)
    positions.update(int(rng.integers(a, b)) for a, b in zip(stretches, stretches[1:]) if a < b)
    return sorted(positions)


class Worst:
    """The comparison that came nearest to its bound, or went beyond it."""

    def __init__(self):
        self.difference, self.bound, self.share, self.place = 0.0, 0.0, -1.0, None

    def add(self, difference: float, bound: float, place: tuple[int, int]) -> None:
        share = difference / bound if bound > 0 else (0.0 if difference == 0 else np.inf)
        if np.isnan(share):
            share = np.inf
        if share > self.share:
            self.difference, self.bound, self.share, self.place = difference, bound, share, place

    def report(self) -> dict:
        return {"difference": self.difference, "bound": self.bound, "share_of_bound": self.share,
                "token": self.place[0], "head": self.place[1]}


def top_words(tokens: Tokens, row, count: int = 6) -> list[str]:
    """The words of the keys with most weight, each once, with the verse of the heaviest."""
    words = {}
    for index in np.argsort(-row.weights):
        word = tokens.word(row.keys[index])
        if word.isalpha():
            words.setdefault(word, tokens.reference(row.keys[index]))
        if len(words) == count:
            break
    return [f"{word} {reference}" for word, reference in words.items()]


def load(part: Path, name: str) -> np.ndarray:
    try:
        return np.load(part / f"{name}.npy", mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DemoError(f"{part / name}.npy: {error}") from error


def check(part: Path, segments: list[int], rates: list[int], tokens: Tokens, results: str) -> dict:
    q, k, v, out, lse = (load(part, name) for name in ("q", "k", "v", f"out{results}", f"lse{results}"))
    _, n, heads, head_dim = q.shape
    if out.shape != q.shape or out.dtype != q.dtype or lse.size != n * heads:
        raise DemoError(f"{part}: out {out.shape} {out.dtype} or lse {lse.shape} does not fit q {q.shape} {q.dtype}")
    lse = lse.reshape(n, heads)
    shown = {p: word for word in SHOWN_WORDS if (p := tokens.find(*word)) is not None and p < n}
    positions = sample_positions(n, segments, list(shown))
    worst_out, worst_lse, largest, far, words = Worst(), Worst(), [0.0, 0.0], [], []
    for i in positions:
        for h in range(heads):
            keys, counts = keys_and_counts(i, n, list(zip(segments, rates)), h, heads)
            row = exact_row(q[0, i, h].astype(np.float64), keys, counts, k[0, keys, h].astype(np.float64),
                            v[0, keys, h].astype(np.float64), q.dtype.name)
            differences = np.abs(out[0, i, h].astype(np.float64) - row.out)
            lse_difference = abs(float(lse[i, h]) - row.lse)
            for c in range(head_dim):
                worst_out.add(float(differences[c]), float(row.out_bound[c]), (i, h))
            worst_lse.add(lse_difference, row.lse_bound, (i, h))
            largest = [np.fmax(largest[0], differences.max()), np.fmax(largest[1], lse_difference)]
            far.append(row.weights[np.abs(keys - i) > NEAR].sum())
            if i in shown and h == SHOWN_HEAD:
                words.append({"word": shown[i][1], "verse": shown[i][0], "sees": top_words(tokens, row)})
    return {"positions": len(positions), "rows": len(positions) * heads, "dtype": q.dtype.name,
            "largest_out_difference": float(largest[0]), "largest_lse_difference": float(largest[1]),
            "out": worst_out.report(), "lse": worst_lse.report(),
            "within_bounds": bool(worst_out.share <= 1 and worst_lse.share <= 1),
            "weight_beyond_512_tokens": float(np.mean(far)), "shown_head": SHOWN_HEAD, "words": words}


def main() -> int:
    def integers(text: str) -> list[int]:
        return [int(x) for x in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the prepared folder")
    parser.add_argument("part", choices=("first", "book"))
    parser.add_argument("--segments", type=integers, required=True)
    parser.add_argument("--rates", type=integers, required=True)
    parser.add_argument("--results", default="", help="end of the names of out and lse, such as _ranks")
    arguments = parser.parse_args()
    part = arguments.folder / arguments.part
    try:
        result = check(part, arguments.segments, arguments.rates, Tokens(arguments.folder / "tokens.npz"),
                       arguments.results)
        (part / f"check{arguments.results}.json").write_text(json.dumps(result, indent=2))
    except (DemoError, OSError) as error:
        print(f"check.py: {error}", file=sys.stderr)
        return 1
    for name in ("out", "lse"):
        worst = result[name]
        print(f"  {name}  largest difference {result[f'largest_{name}_difference']:.1e}; nearest to its bound: "
              f"{worst['difference']:.1e} of {worst['bound']:.1e} (token {worst['token']:,}, head {worst['head']})")
    if not result["within_bounds"]:
        print(f"check.py: {part}: a difference is larger than rounding of {result['dtype']} allows", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
