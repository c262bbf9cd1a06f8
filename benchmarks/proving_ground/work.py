"""Where a study's files lie in its work folder, and what is in it."""

from __future__ import annotations

import fcntl
import json
import os
from collections import ChainMap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Run = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """A work folder.

    about.json        which pools and models it is for, and how far the pools were cut to try things out
    pools/            the pools' files, POOL/{pool,dev,test}.jsonl
    inputs/MODEL/     what `inputs` writes; models with the same tokenizer share one folder
    kinds/            kinds of prompt and clusters of embeddings, by pool and seed
    embeddings.npy    what `embeddings` writes
    pooled/           what `pooled` writes, by model
    gradients/        what `gradients` writes, by model
    plans/MODEL.json  the runs wanted, each with its "stage" and whether it is "recorded" already
    picks*.npz        the rows that each run trains on; picks-MODEL.npz those that the model's hidden states decide
    shares/           runs of each player; results/: what players write; logs/: what they print
    """

    root: Path

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    @property
    def about(self) -> dict[str, Any]:
        """about.json. Raises SystemExit if the folder was never prepared."""
        path = self.root / "about.json"
        if not path.exists():
            raise SystemExit(f"{path}: not there; run `python -m benchmarks.proving_ground prepare --work {self.root}`")
        return json.loads(path.read_text())

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """One process at a time; another one waits, and finds what the first has made."""
        (self.root / name).mkdir(exist_ok=True)
        with (self.root / name / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @property
    def pools(self) -> list[str]:
        """Names of the pools in use."""
        return list(self.about["pools"])

    @property
    def models(self) -> dict[str, Path]:
        """Directory of each model, by the model's name in the record."""
        return {name: self.root / path for name, path in self.about["models"].items()}

    @property
    def to_embed(self) -> bool:
        """Whether embeddings are wanted and not there yet."""
        return bool(self.about["embedder"]) and not (self.root / "embeddings.npy").exists()

    @property
    def peers(self) -> Path:
        """Packages of other projects, a folder each: in the work folder, or carried along (`pack --also PEERS`)."""
        own = self.root / "peers"
        return own if own.exists() else self.root / "../also/peers"

    def inputs(self, model: str | None = None) -> Path:
        """Input folder of a model; any model's if none is named, because splits.npz is the same for all."""
        return self.root / "inputs" / (model or next(iter(self.about["models"])))

    def plan(self, model: str) -> list[Run]:
        """The runs planned for a model."""
        path = self.root / "plans" / f"{model}.json"
        return json.loads(path.read_text()) if path.exists() else []

    def picks_files(self) -> list[Path]:
        """Every file of picks."""
        return picks_files(self.root)

    def picks(self) -> Mapping[str, np.ndarray]:
        """Picks by `player.name_of`."""
        return load_picks(self.root)

    def results(self) -> Iterator[Run]:
        """Every row that players have finished writing."""
        for file in sorted((self.root / "results").glob("*.rows.jsonl")):
            for line in file.read_text().splitlines(keepends=True):
                if line.endswith("\n"):
                    yield json.loads(line)


def picks_files(folder: Path) -> list[Path]:
    """Every file of picks in a folder."""
    return sorted(folder.glob("picks*.npz"))


def load_picks(folder: Path) -> Mapping[str, np.ndarray]:
    """Picks of all files in a folder, each read when it is asked for."""
    return ChainMap(*(np.load(file) for file in picks_files(folder)))


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to that becomes `path` once all is written; a file or folder that exists was therefore finished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    yield unfinished
    unfinished.replace(path)
