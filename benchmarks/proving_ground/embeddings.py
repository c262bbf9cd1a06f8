"""Embeddings of every pool and dev row and of near copies, aligned with the rows of the token table: what the default clusters where rows
carry no sources, and what is searched for near-duplicates.

python benchmarks/proving_ground/embeddings.py --pools DIR --inputs DIR --embedder DIR --out FILE.npy
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.proving_ground.near import with_copies
from benchmarks.proving_ground.rows import read_rows, text_of

LIST = json.loads(Path(__file__).with_name("pools.json").read_text())


def write(
    pools: Path,
    inputs: Path,
    embedder_path: Path,
    out: Path,
    most: int | None = None,
    names: Sequence[str] = tuple(LIST["pools"]),
    parts: Sequence[str] = ("pool", "dev"),
) -> int:
    """Write (rows, d) float16, zeros for rows that are not embedded; returns how many it embedded, `most` at most.

    Args:
        names: pools whose rows are embedded, of these parts and as near copies; those that `inputs` lacks are passed over.
        parts: "pool" among them.
    """
    from selection.config import EmbedConfig
    from selection.embed import embed_texts, load_embedder

    splits = np.load(inputs / "splits.npz")
    texts: dict[int, str] = {}
    for name in names:
        if f"{name}|pool" not in splits:
            continue
        rows = {part: read_rows(pools, name, part) for part in parts}
        if f"{name}|near" in splits:
            rows["near"] = with_copies(rows["pool"])[0]
        for part, entries in rows.items():
            for number, row in zip(splits[f"{name}|{part}"].tolist(), entries, strict=True):
                texts.setdefault(number, text_of(row))
    numbers = np.array(sorted(texts))[:most]
    config = EmbedConfig(model=str(embedder_path), batch_tokens=65_536)
    embedder = load_embedder(config)
    found = np.zeros((len(numbers), embedder.get_embedding_dimension()), dtype=np.float16)
    embed_texts([texts[number] for number in numbers.tolist()], config, found, embedder=embedder)
    whole = np.zeros((max(texts) + 1, found.shape[1]), dtype=np.float16)
    whole[numbers] = found
    np.save(out, whole)
    return len(numbers)


def main() -> None:
    """Embed the rows of all pools."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pools", "inputs", "embedder", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--most", type=int, default=None, help="embed only so many rows, to try it out")
    arguments = parser.parse_args()
    count = write(arguments.pools, arguments.inputs, arguments.embedder, arguments.out, arguments.most)
    print(f"{count:,} rows embedded")


if __name__ == "__main__":
    main()
