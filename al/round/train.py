"""The arrows of one round: pack → train. Each function is one stage; `al.round.loop` puts them in order."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from al.config import Config
from al.errors import ConfigError
from al.lineage.history import CONTROL, Lineage
from al.planning.machine import probe_machine
from al.planning.model_shape import model_shape
from al.preparation.stages import Tokenized
from al.run.artifacts import Artifact, write_json
from al.run.failpoints import failpoint
from al.run.progress import stop_requested
from al.run.rows import rows_digest
from al.run.session import Session
from al.scoring.checkpoints import ADAPTER, FOLDER, INDEX, MOMENTS, checkpoints_summed
from al.scoring.stage import measurements
from selection.holdout import DEV
from trainer.config import NO_PART_OF_THE_RESULT, TrainConfig
from trainer.packing import PLANNERS, PackPlan
from trainer.schedule import planned_steps, spread
from trainer.tokens import TokenTable

if TYPE_CHECKING:
    from trainer.checkpoint import Snapshots
    from trainer.train import TrainReport


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


def train(
    session: Session,
    prepared: Tokenized,
    packs: Artifact,
    previous: Artifact | None,
    number: int,
    lineage: Lineage,
    steps: int | None = None,
) -> Artifact:
    """Train an adapter on the packs: a new one, or the `previous` continued. Publishes `adapter/`, `curve.jsonl`, `train.json`,
    and if the config's scores need gradients the optimizer's moments and earlier checkpoints (al.scoring.checkpoints).

    Args:
        steps: exactly so many optimizer steps; None: `train.epochs` over the packs, or fewer by `train.patience`.

    Raises:
        ConfigError: `train.eval_every` is set and there is no dev example.
    """
    config = session.config
    settings = _pace(config.train, previous)
    moments = lineage is not CONTROL and "gradient" in measurements(session)
    checkpoints = checkpoints_summed(config) if moments else 1
    # Models that run through transformers draw masks of dropout per forward pass: the number of packs in one is part of their result.
    no_part = NO_PART_OF_THE_RESULT - ({"packs_per_batch"} if config.lora.dropout else set())
    params = {
        "model": session.model_params(),
        "lora": config.lora.model_dump(mode="json"),
        "seed": config.seed,
        "round": number,
        "train": settings.model_dump(mode="json", exclude=no_part),
        "steps": steps,
        **({"moments": True} if moments else {}),
        **({"checkpoints": checkpoints} if checkpoints > 1 else {}),
    }
    # Version 1 drew NEFTune's noise per forward pass instead of per pack, version 2 the masks of dropout.
    before = {**params, "train": settings.model_dump(mode="json", exclude=NO_PART_OF_THE_RESULT - {"packs_per_batch"})}

    def build(out: Path, scratch: Path) -> None:
        """Train and write the adapter, its curve and `train.json`."""
        from trainer.checkpoint import Snapshots
        from trainer.model import save_adapter

        plan = PackPlan.open(packs.path / "plan")
        total = planned_steps(len(plan.offsets) - 1, settings, steps)
        kept = Snapshots(scratch / "snapshots", tuple(spread(total, checkpoints)[:-1]))
        with _adapter_to_train(session, previous, number) as model:
            report = _run_training(
                session,
                settings,
                model,
                prepared,
                packs,
                scratch,
                number,
                lineage,
                steps,
                out if moments else None,
                kept,
            )
            save_adapter(model, out / ADAPTER)
        if checkpoints > 1:
            _keep_checkpoints(kept, report, settings, total, out)
        (out / "curve.jsonl").write_bytes((scratch / "curve.jsonl").read_bytes())
        write_json(out / "train.json", asdict(report))

    return session.run.stage(
        "train",
        version=3,
        earlier=[(2, params), (1, before)],
        params=params,
        build=build,
        label=lineage.title,
        inputs={
            "packs": packs,
            "tokens": prepared.tokens,
            "adapter": previous,
            "split": prepared.split if config.train.eval_every else None,
        },
    )


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


def _pace(config: TrainConfig, previous: Artifact | None) -> TrainConfig:
    """The config with the warm-up for a new or a continued adapter."""
    return config if previous is None else config.model_copy(update={"warmup_ratio": config.rewarmup_ratio})


def _adapter_to_train(session: Session, previous: Artifact | None, number: int) -> Any:
    if previous is not None:
        return session.adapter(previous, trainable=True)
    return session.base.new_adapter(session.config.lora, session.config.seed)


def _run_training(
    session: Session,
    config: TrainConfig,
    model: Any,
    prepared: Tokenized,
    packs: Artifact,
    scratch: Path,
    number: int,
    lineage: Lineage,
    steps: int | None,
    moments: Path | None,
    snapshots: Snapshots,
) -> TrainReport:
    """Train; the optimizer's moments go into folder `moments`, if given."""
    from trainer.train import train

    plan, tokens = PackPlan.open(packs.path / "plan"), TokenTable.open(prepared.tokens.path)
    total = planned_steps(len(plan.offsets) - 1, config, steps)
    curve = Curve(scratch / "curve.jsonl")
    with session.progress(lineage.title, total, "steps") as progress:

        def on_step(metrics: dict[str, Any]) -> None:
            """Record a training step: curve, event, progress."""
            curve.append(metrics)
            session.run.event("train.step", round=number, lineage=lineage.name, **metrics)
            progress.note, progress.seconds_left = step_note(metrics), metrics["seconds_left"]
            progress.advance_to(metrics["step"])

        return train(
            model,
            tokens,
            plan,
            np.load(packs.path / "rows.npy"),
            config,
            seed=session.config.seed,
            round=number,
            steps=steps,
            scratch=scratch,
            evaluate=_evaluation_on_dev(session, prepared, model, tokens),
            **_flops(session),
            moments=None if moments is None else moments / MOMENTS,
            snapshots=snapshots,
            on_step=on_step,
            stop=stop_requested,
            failpoint=failpoint,
        )


def _keep_checkpoints(kept: Snapshots, report: TrainReport, config: TrainConfig, total: int, out: Path) -> None:
    """Copy the checkpoints before the adapter's own step into `out`, and write the index of all: each with the mean learning rate of the
    steps since the one before it, by which LESS weights it. `total`: planned steps."""
    from trainer.optim import learning_rate

    last = report.best_step or report.steps
    steps = [*(step for step in kept.steps if step < last), last]
    for step in steps[:-1]:
        shutil.copytree(kept.path(step), out / FOLDER / kept.path(step).name)
    rates = [learning_rate(step, total, config) for step in range(last)]
    means = [float(np.mean(rates[before:step])) for before, step in pairwise([0, *steps])]
    entries = [{"step": step, "learning_rate": rate} for step, rate in zip(steps, means, strict=True)]
    write_json(out / INDEX, entries)


def _evaluation_on_dev(session: Session, prepared: Tokenized, model: Any, tokens: Any) -> Callable[[], float] | None:
    """What gives the NLL per target token of dev under the model as it is; None when `train.eval_every` is null."""
    from trainer.measure import measure

    if session.config.train.eval_every is None:
        return None
    rows = np.flatnonzero(np.load(prepared.split.path / "split.npy") == DEV)
    if not len(rows):
        raise ConfigError(
            "train.eval_every: expected dev examples to evaluate on, found none; raise `holdout.dev`, or set "
            "`train.eval_every` to null."
        )

    def evaluate() -> float:
        """NLL per target token of dev."""
        found = measure(model, tokens, rows, batch_tokens=session.config.measure.batch_tokens)
        return float(found.nll_total.sum() / found.targets.sum())

    return evaluate


def _flops(session: Session) -> dict[str, float]:
    """What MFU is counted with, on a GPU: operations per token, and the matrix-product speed that the card reaches."""
    if session.base.device.type != "cuda":
        return {}

    shape = model_shape(session.config.model, session.config.lora)
    return {"flops_per_token": shape.training_flops_per_token, "peak_flops": probe_machine(session.config).flops}


def step_note(metrics: dict[str, Any]) -> str:
    """A step's metrics for the progress line, which also has its number and the time left."""
    dev = f", dev {metrics['dev_loss']:.3f}" if "dev_loss" in metrics else ""
    mfu = f", MFU {metrics['mfu']:.0%}" if "mfu" in metrics else ""
    speed = f", {metrics['tokens_per_s']:,.0f} tokens/s{mfu}"
    return f", loss {metrics['loss']:.3f}{dev}{speed}, {metrics['memory_gib']:.1f} GiB"


class Curve:
    """The metrics of each step as JSON lines. When a step is repeated, its line and those of later steps are dropped: a process that was
    killed left them, or training went back to a checkpoint. So is a line that was not written whole."""

    def __init__(self, path: Path):
        self.path = path
        self._last: float = math.inf

    def append(self, metrics: dict[str, Any]) -> None:
        """Add a step."""
        if metrics["step"] <= self._last:
            self._drop_from(metrics["step"])
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({k: v if math.isfinite(v) else None for k, v in metrics.items()}) + "\n")
        self._last = metrics["step"]

    def _drop_from(self, step: int) -> None:
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)["step"] < step]
        self.path.write_text("".join(kept), encoding="utf-8")
