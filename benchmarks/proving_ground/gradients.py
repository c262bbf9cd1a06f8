"""How far each row of a pool would move its dev rows, by gradients as LESS compares them (arXiv 2402.04333): what rules of selection by
gradient pick from.

    python -m benchmarks.proving_ground gradients --work WORK [--minutes 60]

Of each pool an adapter like the player's is first trained on a random 5% of the rows, at most 1,000, as a round's warm-up is. Cosines
are then those of the pool rows' gradients, through AdamW's moments at its end, to the plain gradients of the dev rows, both projected
by `trainer.gradients`. All seeds share the warm-up and the projection. Writes below OUT, by pool:

    POOL/              adapter/ and moments.safetensors of the warm-up; parts of the cosines until all are there
    POOL.npz           "cosines" (n, t) float16 of n pool rows to t dev rows; "nll" (n,) of each response under the adapter, nats
    dattri/POOL.npz    "cosines" by dattri-llm's LESSAttributor from the same adapter and moments, without a projection

A pool's gradients take one backward pass each and 100 MB of memory. Measuring stops after so many minutes, and goes on there next time.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common import ending_with_this
from benchmarks.proving_ground.peer_picks import LATER
from benchmarks.proving_ground.planning import LIST
from benchmarks.proving_ground.work import Work, whole

if TYPE_CHECKING:
    from trainer.model import Base
    from trainer.tokens import TokenTable

RANK, ALPHA, PACK, SEED = 32, 64.0, 1024, 1
"""LoRA as the player has it; tokens of a pack of the warm-up; of the warm-up's rows, its training, and the projection."""
BATCH_TOKENS = 16_384
"""Of a batch whose gradients are computed. Players share the card, and gradients need as much memory as training."""
DRIVER = Path(__file__).resolve().parents[1] / "less_peer.py"
"""Runs dattri-llm in a process of its own."""


@dataclass(frozen=True)
class Pool:
    """A pool to measure: its name, its `rows` and `dev` rows in the token table, and the learning `rate` of the warm-up."""

    name: str
    rows: np.ndarray
    dev: np.ndarray
    rate: float


def planned(work: Work, model: str) -> list[Pool]:
    """The pools on which an open run of the model's plan picks by gradients."""
    splits, rate = np.load(work.inputs(model) / "splits.npz"), LIST["learning_rates"]["tuned"][model]
    open_ = (run["pool"] for run in work.plan(model) if run["strategy"] in LATER and not run["recorded"])
    return [Pool(name, splits[f"{name}|pool"], splits[f"{name}|dev"], rate) for name in dict.fromkeys(open_)]


@dataclass
class Gradients:
    """Measures pools with one base model until the minutes are over."""

    base: Base
    table: TokenTable
    out: Path
    minutes: float
    batch_tokens: int = BATCH_TOKENS
    at_once: int = 1024
    """Pool rows whose gradients are held at once."""
    began: float = field(default_factory=time.perf_counter)

    def left(self) -> float:
        """Seconds until no further part is started."""
        return 60 * self.minutes - (time.perf_counter() - self.began)

    def measure(self, pool: Pool) -> bool:
        """Write POOL.npz; False if the time was over before."""
        folder, file = self.out / pool.name, self.out / f"{pool.name}.npz"
        if file.exists():
            return True
        if self.left() <= 0:
            return False
        if not (folder / "adapter").exists():
            self._warm_up(pool, folder)
        parts = self._parts(pool, folder)
        if parts is None:
            return False
        arrays = {"cosines": np.concatenate([np.load(part) for part in parts]), "nll": self._losses(pool, folder)}
        with whole(file) as unfinished, unfinished.open("wb") as stream:
            np.savez(stream, **arrays)
        for part in parts:
            part.unlink()
        return True

    def _warm_up(self, pool: Pool, folder: Path) -> None:
        """Train an adapter as the player does, in steps of as many examples; adapter/ appears last."""
        from al.scoring.amount import warmup_size
        from benchmarks.proving_ground.side_by_side import EXAMPLES_A_STEP
        from trainer.config import LoraConfig, TrainConfig
        from trainer.model import save_adapter
        from trainer.packing import plan_packs
        from trainer.train import train

        folder.mkdir(parents=True, exist_ok=True)
        drawn = np.random.default_rng([SEED, 0x3A2B]).choice(pool.rows, warmup_size(len(pool.rows)), replace=False)
        rows = np.sort(drawn)
        lengths = np.asarray(self.table.lengths)[rows]
        packs = max(1, round(EXAMPLES_A_STEP * float(lengths.mean()) / PACK))
        config = TrainConfig(learning_rate=pool.rate, pack_length=PACK, packs_per_step=packs, packs_per_batch=packs)
        with (
            self.base.new_adapter(LoraConfig(r=RANK, alpha=ALPHA), SEED) as model,
            tempfile.TemporaryDirectory(dir=folder) as scratch,
        ):
            train(
                model, self.table, plan_packs(lengths, PACK), rows, config, seed=SEED, round=1, steps=None, scratch=Path(scratch),
                moments=folder / "moments.safetensors",
            )  # fmt: skip
            with whole(folder / "adapter") as unfinished:
                save_adapter(model, unfinished)

    def _parts(self, pool: Pool, folder: Path) -> list[Path] | None:
        """Files of the cosines of `at_once` rows each; None if the time was over before the last."""
        from selection.config import ScoreConfig
        from trainer.gradients import Moments, project_gradients

        split = np.array_split(pool.rows, math.ceil(len(pool.rows) / self.at_once))
        files = [folder / f"part-{number:03}.npy" for number in range(len(split))]
        settings: dict[str, Any] = {
            "dimension": ScoreConfig().gradient_dimension, "batch_tokens": self.batch_tokens, "seed": SEED
        }  # fmt: skip
        moments = Moments.open(folder / "moments.safetensors", self.base.device)
        with self.base.adapter(folder / "adapter", trainable=True) as model:
            aims = project_gradients(model, self.table, pool.dev, **settings).astype(np.float32)
            for file, rows in zip(files, split, strict=True):
                if file.exists():
                    continue
                if self.left() <= 0:
                    return None
                found = project_gradients(model, self.table, rows, moments=moments, **settings).astype(np.float32)
                with whole(file) as unfinished, unfinished.open("wb") as stream:
                    np.save(stream, (found @ aims.T).astype(np.float16))
        return files

    def _losses(self, pool: Pool, folder: Path) -> np.ndarray:
        from trainer.activation import measuring
        from trainer.measure import measure

        with (
            self.base.adapter(folder / "adapter") as model,
            measuring(model, "auto", self.batch_tokens),
        ):
            return measure(model, self.table, pool.rows, batch_tokens=self.batch_tokens).nll_mean.astype(np.float32)

    def measure_by_dattri(self, pool: Pool, packages: Path, log: Callable[[str], None] = print) -> None:
        """Write dattri/POOL.npz, from the warm-up that `measure` left; says why if it could not.

        It holds whole gradients of all dev rows on the device: 39 MB each for LoRA on a model of 135M, 15 GB for the 394 of p3-power and
        twice that for a moment. Nothing is kept of a run that the time ended.

        Args:
            packages: folder of what `pip install --no-deps --target` puts there for dattri-llm.
        """
        file, folder = self.out / "dattri" / f"{pool.name}.npz", self.out / pool.name
        if file.exists() or not (folder / "adapter").exists() or not packages.is_dir():
            return
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for name in ("adapter", "moments.safetensors"):
                (Path(scratch) / name).symlink_to((folder / name).resolve())
            self._write_task(pool, Path(scratch))
            command = ending_with_this([sys.executable, str(DRIVER), scratch, "adamw"])
            before = os.environ.get("PYTHONPATH", "")
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(packages), before)))}
            try:
                done = subprocess.run(
                    command, env=environment, capture_output=True, text=True, check=False, timeout=max(self.left(), 1)
                )
            except subprocess.TimeoutExpired:
                return log(f"{pool.name}: dattri-llm not done in time")
            if done.returncode:
                return log(f"{pool.name}: dattri-llm ended with {done.returncode}\n{done.stderr[-2000:]}")
            with whole(file) as unfinished, unfinished.open("wb") as stream:
                np.savez(stream, cosines=np.load(Path(scratch) / "peer-adamw.npy").astype(np.float16))

    def _write_task(self, pool: Pool, folder: Path) -> None:
        """task.json as less_peer.py reads it."""
        documents = []
        for row in (*pool.rows.tolist(), *pool.dev.tolist()):
            ids = np.asarray(self.table.ids(row)).astype(int)
            labels = np.where(np.asarray(self.table.targets(row)) > 0, ids, -100)
            documents.append({"input_ids": ids.tolist(), "labels": labels.tolist()})
        task = {
            "model": str(Path(self.base.config.name).resolve()),
            "device": str(self.base.device),
            "documents": documents,
            "candidates": len(pool.rows),
        }
        (folder / "task.json").write_text(json.dumps(task))
