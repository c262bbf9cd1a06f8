"""What the player reads, made from the pools' files: every row tokenized once, and which rows each pool holds.

    python benchmarks/proving_ground/inputs.py --pools DIR --model DIR --out DIR

Pools share rows; a row is tokenized once, whichever pools hold it. `--out` gets tokens/ (a token table), splits.npz ("POOL|pool",
"POOL|dev", "POOL|test": row numbers; with "|task" the task of each as a number among the pool's) and, of pool rows, "|source" and "|key",
of held-out rows "|short": whether a written answer can be judged right or wrong. "POOL|NOISE" are the pool's rows with wrong answers
planted, in the same order, "|wrong" which. "POOL|near" are its rows and near copies of them, with "|key", "|task", "|source", and "|of" the
place of the row that each copies. Targets are like pools (targets.py). alternatives/ and alternatives.npz: rows with the other
answers of their task ("POOL|rows" of that table, "POOL|of" which place of the pool each belongs to).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.proving_ground import targets as aimed
from benchmarks.proving_ground.near import with_copies
from benchmarks.proving_ground.noise import KINDS, alternatives, planted
from benchmarks.proving_ground.rows import read_rows

PARTS = ("pool", "dev", "test")
MAX_LENGTH = 768
ALTERNATIVES = 1500
"""Rows of a noisy pool whose other answers are compared."""


def short(accepted: list[str]) -> bool:
    """Whether a written answer can be judged right or wrong."""
    from al.evaluation.answers import judge

    return judge("", accepted).kind not in ("rouge_l", "code")


def key_of(row: dict[str, Any]) -> int:
    """64 bits that belong to the row's conversation."""
    return int.from_bytes(hashlib.blake2b(json.dumps(row["messages"]).encode(), digest_size=8).digest(), "big")


def gather(pools: Path, names: list[str]) -> tuple[list[list[dict[str, str]]], dict[str, np.ndarray]]:
    """Every conversation once, and the arrays of splits.npz."""
    place: dict[int, int] = {}
    conversations: list[list[dict[str, str]]] = []
    arrays: dict[str, np.ndarray] = {}
    for name in names:
        of_pool = {part: read_rows(pools, name, part) for part in PARTS}
        code = {task: i for i, task in enumerate(sorted({row["task"] for row in of_pool["pool"]}))}
        for part, rows in of_pool.items():
            keys = [key_of(row) for row in rows]
            for key, row in zip(keys, rows, strict=True):
                if key not in place:
                    place[key] = len(conversations)
                    conversations.append(row["messages"])
            arrays[f"{name}|{part}"] = np.array([place[key] for key in keys])
            arrays[f"{name}|{part}|task"] = np.array([code[row["task"]] for row in rows])
            if part != "pool":
                arrays[f"{name}|{part}|short"] = np.array([short(row["accepted"]) for row in rows])
            else:
                arrays[f"{name}|pool|key"] = np.array(keys, dtype=np.uint64)
                arrays[f"{name}|pool|source"] = np.unique([row["source"] for row in rows], return_inverse=True)[1]
    return conversations, arrays


def gather_noisy(
    pools: Path,
    names: list[str],
    noisy: list[str],
    conversations: list[list[dict[str, str]]],
    arrays: dict[str, np.ndarray],
) -> tuple[list[list[dict[str, str]]], dict[str, np.ndarray]]:
    """Add rows with wrong answers to every pool, and near copies to the noisy ones; returns the conversations of the table of
    alternatives, which are of noisy pools alone, and its arrays."""
    others: list[list[dict[str, str]]] = []
    found: dict[str, np.ndarray] = {}
    clean = {name: read_rows(pools, name, "pool") for name in [*noisy, *(name for name in names if name not in noisy)]}
    for name in clean:
        for kind in KINDS:
            rows, wrong = planted(clean[name], kind)
            numbers = np.array(arrays[f"{name}|pool"])
            numbers[wrong] = len(conversations) + np.arange(wrong.sum())
            conversations += [row["messages"] for row, hit in zip(rows, wrong, strict=True) if hit]
            arrays |= {f"{name}|{kind}": numbers, f"{name}|{kind}|wrong": wrong}
            if kind == "inside" and name in noisy:
                made, of = alternatives(rows, ALTERNATIVES)
                found |= {f"{name}|rows": len(others) + np.arange(len(made)), f"{name}|of": of}
                others += [row["messages"] for row in made]
    for name in noisy:  # last, so that earlier rows keep their numbers
        rows, of = with_copies(clean[name])
        copies = rows[len(arrays[f"{name}|pool"]) :]
        arrays[f"{name}|near"] = np.concatenate([arrays[f"{name}|pool"], len(conversations) + np.arange(len(copies))])
        arrays[f"{name}|near|of"] = of
        arrays[f"{name}|near|key"] = np.array([key_of(row) for row in rows], dtype=np.uint64)
        arrays |= {f"{name}|near|{part}": arrays[f"{name}|pool|{part}"][of] for part in ("task", "source")}
        conversations += [row["messages"] for row in copies]
    return others, found


def write(pools: Path, model: Path, out: Path, names: list[str], noisy: list[str], targets: dict[str, Any]) -> int:
    """Write the inputs for the models with this tokenizer; returns the number of conversations.

    Args:
        names, noisy: pools to read, and those whose rows get other answers to compare, and near copies. targets: as pools.json lists them.
    """
    from trainer.config import ModelConfig
    from trainer.template import ChatTemplate
    from trainer.tokenizer import load_tokenizer
    from trainer.tokens import tokenize_pool
    from trainer.tokens_config import TokensConfig

    conversations, arrays = gather(pools, names)
    others, found = gather_noisy(pools, names, noisy, conversations, arrays)
    for name, entry in targets.items():
        arrays |= aimed.gather(pools, arrays, entry, name)
    template = ChatTemplate.resolve(load_tokenizer(ModelConfig(name=str(model))), "auto")
    config = TokensConfig(max_length=MAX_LENGTH, overlength="truncate")
    tokenize_pool(conversations, template, config, out / "tokens")
    tokenize_pool(others, template, config, out / "alternatives")
    np.savez(out / "alternatives.npz", **found)
    np.savez(out / "splits.npz", **arrays)
    return len(conversations)


def main() -> None:
    """Write the inputs for one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pools", "model", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    listed = json.loads(Path(__file__).with_name("pools.json").read_text())
    count = write(
        arguments.pools, arguments.model, arguments.out, list(listed["pools"]), listed["noisy_pools"], listed["targets"]
    )
    tokens = json.loads((arguments.out / "tokens/tokens.json").read_text())["tokens"]
    print(f"{count:,} conversations, {tokens:,} tokens")


if __name__ == "__main__":
    main()
