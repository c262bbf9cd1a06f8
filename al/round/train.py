"""The arrows of one round: pack → train. Each function is one stage; `al.round.loop` puts them in order."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from al.config import Config
from al.errors import ConfigError
from al.lineage.history import CONTROL, Lineage
from al.preparation.stages import Tokenized
from al.round.following import run_trainings
from al.round.job import Job
from al.run.artifacts import Artifact, fingerprint, write_json
from al.run.atomic import replaced
from al.run.rows import rows_digest
from al.run.session import Session
from al.scoring.checkpoints import checkpoints_summed
from al.scoring.stage import measurements
from trainer.config import NO_PART_OF_THE_RESULT, TrainConfig
from trainer.packing import PLANNERS, PackPlan
from trainer.schedule import planned_steps
from trainer.tokens import TokenTable

VERSION = 3
AHEAD, REPORT = "ahead", "train.json"
"""Folder in scratch for what was trained alongside another training, and the file that is written last."""


def plan_packs(session: Session, prepared: Tokenized, rows: np.ndarray, lineage: Lineage) -> Artifact:
    """Packs of the documents at `rows`, made as `train.batching` says: an index made ahead, `plan/` and `rows.npy`."""
    config = session.config.train

    def build(out: Path, scratch: Path) -> None:
        """Write `plan/`, `rows.npy` and `pack.json`."""
        lengths = np.asarray(TokenTable.open(prepared.tokens.path).lengths)[rows]
        plan = PLANNERS[config.batching](lengths, config.pack_length)
        plan.save(out / "plan")
        np.save(out / "rows.npy", rows)
        write_json(
            out / "pack.json",
            {
                "examples": len(rows),
                "tokens": int(lengths.sum()),
                "packs": len(plan.offsets) - 1,
                "efficiency": float(plan.efficiency),
                "capacity": config.pack_length,
            },
        )

    return session.run.stage(
        "packs",
        version=1,
        inputs={"tokens": prepared.tokens},
        build=build,
        label=f"pack {lineage.name}",
        params={"rows": rows_digest(rows), "capacity": config.pack_length, "batching": config.batching},
    )


@dataclass(frozen=True)
class Training:
    """A training as a stage: of a new adapter, or of the `previous` one that it continues, on the `packs` of a lineage in round `number`.

    `steps`: exactly so many optimizer steps; None: `train.epochs` over the packs, or fewer by `train.patience`.
    """

    session: Session
    prepared: Tokenized
    packs: Artifact
    previous: Artifact | None
    number: int
    lineage: Lineage
    steps: int | None = None

    @property
    def settings(self) -> TrainConfig:
        """The config with the warm-up for a new or a continued adapter."""
        config = self.session.config.train
        return config if self.previous is None else config.model_copy(update={"warmup_ratio": config.rewarmup_ratio})

    @property
    def moments(self) -> bool:
        """Whether gradients of the next round need the optimizer's moments."""
        return self.lineage is not CONTROL and "gradient" in measurements(self.session)

    @property
    def checkpoints(self) -> int:
        """How many checkpoints gradients are summed over."""
        return checkpoints_summed(self.session.config) if self.moments else 1

    def params(self, no_part: frozenset[str]) -> dict[str, Any]:
        """What the result depends on besides its inputs; of the section `train` all but `no_part`."""
        config = self.session.config
        return {
            "model": self.session.model_params(),
            "lora": config.lora.model_dump(mode="json"),
            "seed": config.seed,
            "round": self.number,
            "train": self.settings.model_dump(mode="json", exclude=no_part),
            "steps": self.steps,
            **({"moments": True} if self.moments else {}),
            **({"checkpoints": self.checkpoints} if self.checkpoints > 1 else {}),
        }

    def job(self, scratch: Path, out: Path) -> Job:
        """The same as paths and plain values."""
        return Job(
            settings=self.settings,
            tokens=self.prepared.tokens.path,
            packs=self.packs.path,
            split=self.prepared.split.path if self.session.config.train.eval_every else None,
            adapter=self.session.adapter_path(self.previous),
            number=self.number,
            steps=self.steps,
            checkpoints=self.checkpoints,
            moments=self.moments,
            scratch=scratch,
            out=out,
        )

    def planned_steps(self) -> int:
        """Steps that it takes unless patience ends it."""
        return planned_steps(len(PackPlan.open(self.packs.path / "plan").offsets) - 1, self.settings, self.steps)

    @property
    def _inputs(self) -> dict[str, Artifact | None]:
        split = self.prepared.split if self.session.config.train.eval_every else None
        return {"packs": self.packs, "tokens": self.prepared.tokens, "adapter": self.previous, "split": split}

    @property
    def _no_part(self) -> frozenset[str]:
        """Keys of `train` that the result does not depend on. Models that run through transformers draw masks of dropout per forward pass:
        the number of packs in one is part of their result."""
        return NO_PART_OF_THE_RESULT - ({"packs_per_batch"} if self.session.config.lora.dropout else set())

    def publish(self, alongside: Training | None = None) -> Artifact:
        """Train unless it is published: `adapter/`, `curve.jsonl`, `train.json`, and if the config's scores need gradients the optimizer's
        moments and earlier checkpoints (al.scoring.checkpoints). Raises ConfigError: `train.eval_every` is set and there is no dev example.

        `alongside`: another training that is done at the same time, on the other half of the workers; its own `publish` takes over what
        is left in its scratch.
        """
        params = self.params(self._no_part)
        # Version 1 drew NEFTune's noise per forward pass instead of per pack, version 2 the masks of dropout.
        before = self.params(NO_PART_OF_THE_RESULT - {"packs_per_batch"})

        def build(out: Path, scratch: Path) -> None:
            """Train and write the adapter, its curve and `train.json`."""
            if (scratch / AHEAD / REPORT).exists():
                shutil.copytree(scratch / AHEAD, out, dirs_exist_ok=True)
            else:
                jobs = [(self.job(scratch, out), self.lineage)]
                jobs += [] if alongside is None else alongside._ahead()
                for (job, _), report in zip(jobs, run_trainings(self.session, jobs), strict=True):
                    with replaced(job.out / REPORT) as temporary:
                        write_json(temporary, asdict(report))
            (out / "curve.jsonl").write_bytes((scratch / "curve.jsonl").read_bytes())

        return self.session.run.stage(
            "train",
            version=VERSION,
            earlier=[(2, params), (1, before)],
            params=params,
            build=build,
            label=self.lineage.title,
            inputs=self._inputs,
        )

    def _ahead(self) -> list[tuple[Job, Lineage]]:
        """The job that leaves its results in scratch; none if they are there or published."""
        run = self.session.run
        names = {key: value.fingerprint if value is not None else "" for key, value in self._inputs.items()}
        key = fingerprint("train", VERSION, names, self.params(self._no_part))
        scratch = run.path / "scratch" / f"train-{key}"
        if run.find("train", key) is not None or (scratch / AHEAD / REPORT).exists():
            return []
        shutil.rmtree(scratch / AHEAD, ignore_errors=True)
        (scratch / AHEAD).mkdir(parents=True)
        return [(self.job(scratch, scratch / AHEAD), self.lineage)]


def train(
    session: Session,
    prepared: Tokenized,
    packs: Artifact,
    previous: Artifact | None,
    number: int,
    lineage: Lineage,
    steps: int | None = None,
) -> Artifact:
    """Train an adapter on the packs and publish it; see `Training`."""
    return Training(session, prepared, packs, previous, number, lineage, steps).publish()


def check_continued(config: Config, previous: Artifact | None) -> None:
    """Raises ConfigError if `config` asks for another LoRA than that of the `previous` adapter, which training would continue."""
    if previous is None:
        return
    made = previous.manifest["params"]["lora"]
    asked = config.lora.model_dump(mode="json")
    different = [key for key in asked if key != "init" and key in made and made[key] != asked[key]]
    if different:
        found = ", ".join(f"lora.{key}={made[key]}" for key in different)
        wanted = ", ".join(f"lora.{key}={asked[key]}" for key in different)
        raise ConfigError(
            f"{wanted}: training continues the previous round's adapter, which has {found}. Set {found}, or train a new adapter on all "
            "examples picked so far (train.mode=retrain), or start a new run."
        )
