"""The book: its verses, its tokens, and the way back from a token to the word and verse it stands in."""
from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np

WHOLE_BOOK = "gen1:1-rev22:21"
VERSE = re.compile(r"^((?:[1-3])?[A-Za-z]+\d+:\d+) (.+)$")


class DemoError(Exception):
    """Something that the person who runs the demo can put right; the message says what."""


def read_verses() -> tuple[list[str], list[str]]:
    """References ("Ge1:1") and texts of all verses, from Debian's bible-kjv. The references are no part of the text."""
    program = shutil.which("bible")
    if program is None:
        raise DemoError("the program `bible` is missing; Debian's package bible-kjv holds it and the text")
    # The program takes a data file in the current folder before its own.
    answer = subprocess.run([program, "-f", WHOLE_BOOK], cwd="/", capture_output=True, text=True, check=False)
    if answer.returncode != 0 or not answer.stdout:
        raise DemoError(f"`bible -f {WHOLE_BOOK}` failed with status {answer.returncode}: {answer.stderr.strip()}")
    matches = [VERSE.match(line) for line in answer.stdout.splitlines()]
    if None in matches:
        bad = answer.stdout.splitlines()[matches.index(None)]
        raise DemoError(f"`bible -f {WHOLE_BOOK}` printed a line that is no verse: {bad!r}")
    return [m[1] for m in matches], [m[2] for m in matches]


def tokenise(texts: list[str], tokenizer_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Wordpieces of all texts in a row, and for each the index of its text. No [CLS], no [SEP]: it is one long text.

    The model's normaliser and pre-tokeniser never look across white space, so that splitting at verses changes nothing.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    ids = np.fromiter((token for e in encodings for token in e.ids), np.int32)
    verses = np.repeat(np.arange(len(texts), dtype=np.int32), [len(e.ids) for e in encodings])
    return ids, verses


class Tokens:
    """The prepared tokens, read back to name what stands at a position."""

    def __init__(self, file: Path):
        with np.load(file) as saved:
            self.ids, self.verses = saved["ids"], saved["verses"]
            self.references, self.pieces = saved["references"], saved["pieces"]

    def piece(self, position: int) -> str:
        return str(self.pieces[self.ids[position]])

    def word(self, position: int) -> str:
        """The whole word whose wordpiece stands at a position."""
        first = position
        while first > 0 and self.piece(first).startswith("##"):
            first -= 1
        word, last = self.piece(first), first + 1
        while last < len(self.ids) and self.piece(last).startswith("##"):
            word += self.piece(last)[2:]
            last += 1
        return word

    def reference(self, position: int) -> str:
        return str(self.references[self.verses[position]])

    def find(self, reference: str, word: str) -> int | None:
        """Position of the first token of a verse that is this word."""
        verse = np.flatnonzero(self.references == reference)
        if len(verse) == 0:
            return None
        for position in np.flatnonzero(self.verses == verse[0]):
            if self.piece(position) == word:
                return int(position)
        return None
