"""The trackers by name: each is told of a round's begin, its numbers and its end, in one thread of its own.

Every one takes where it sends to, and as whom, from its own environment variables (WANDB_MODE, MLFLOW_TRACKING_URI, …). Their libraries
are extras, imported here only when they are used.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from al.config import flat
from al.errors import ConfigError

PROJECT = "winnow"


@dataclass(frozen=True)
class TrackedRound:
    """What a tracker is told at a round's begin. `folder`: for files of trackers. `id`: the same when the round goes on after a restart."""

    run: str
    number: int
    id: str
    folder: Path
    config: Mapping[str, Any]

    @property
    def title(self) -> str:
        """`demo, round 3`."""
        return f"{self.run}, round {self.number}"


class Tracker(Protocol):
    """What a tracker does. Any exception leaves it out for the rest of the process; a call that takes too long does too."""

    def start(self, told: TrackedRound) -> None:
        """A round begins, or goes on after a restart."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers of a training step by name, `selected/loss`; what stands before the slash is the lineage, whose steps count from 1."""

    def finish(self, summary: Mapping[str, float], verdict: str) -> None:
        """The round ends: its results by name, and in a sentence; both empty for one that was stopped."""


SERVICES: dict[str, Callable[[], Tracker]] = {}
NEEDED = {
    "wandb": {"wandb": "wandb"},
    "tensorboard": {"tensorboard": "tensorboard"},
    "trackio": {"trackio": "trackio"},
    "mlflow": {"mlflow": "mlflow-skinny", "sqlalchemy": "sqlalchemy", "alembic": "alembic"},
}
"""{tracker: {module: package}} that has to be installed for each. The whole of mlflow wants an older pyarrow than Winnow does."""


def service(name: str) -> Callable[[type], type]:
    """Register a class under the name that `track` takes."""

    def register(made: type) -> type:
        SERVICES[name] = made
        return made

    return register


def check_installed(names: Sequence[str]) -> None:
    """Fail before anything runs. Raises ConfigError with the command that installs what is missing."""
    missing = {
        name: packages
        for name in names
        if (packages := [p for module, p in NEEDED[name].items() if importlib.util.find_spec(module) is None])
    }
    if missing:
        packages = " ".join(package for lacking in missing.values() for package in lacking)
        raise ConfigError(
            f"track: {', '.join(missing)} cannot be used, because not all of it is installed. Install it with "
            f"`pip install {packages}`, or leave it out of --track and of the config key `track`."
        )


@service("wandb")
class Wandb:
    """Weights & Biases. One run for each round; a restarted round goes on in it."""

    def start(self, told: TrackedRound) -> None:
        """Raises RuntimeError where nobody is logged in: wandb would ask on the terminal and wait."""
        import wandb

        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True)
        if not wandb.setup().settings._offline and not wandb.login(prompt=False):
            raise RuntimeError("nobody is logged in; `wandb login`, or WANDB_MODE=offline")
        told.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=wandb.setup().settings.project or PROJECT,
            id=told.id,
            name=told.title,
            group=told.run,
            dir=told.folder,
            config=dict(told.config),
            resume="allow",
            settings=settings,
        )
        for lineage in ("selected", "control"):
            self._run.define_metric(f"{lineage}/*", step_metric=f"{lineage}/step")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Steps are logged as a metric: wandb's own step may never fall, and two lineages are trained one after the other."""
        lineages = {name.split("/")[0] for name in metrics}
        self._run.log({**metrics, **{f"{lineage}/step": step for lineage in lineages}})

    def finish(self, summary: Mapping[str, float], verdict: str) -> None:
        """Results go into the run's summary."""
        self._run.summary.update({**summary, **({"verdict": verdict} if verdict else {})})
        self._run.finish()


@service("tensorboard")
class TensorBoard:
    """Event files in the run's directory, `tracking/tensorboard`; TensorBoard shows each round as a run."""

    def start(self, told: TrackedRound) -> None:
        """A file more for a round that goes on; its steps stand beside the earlier ones."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(told.folder / "tensorboard" / f"round-{told.number:03d}")
        self._number = told.number
        lines = [f"    {key}: {value}" for key, value in flat(told.config).items()]
        self._writer.add_text("config", "\n".join(lines), told.number)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """A scalar each."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, summary: Mapping[str, float], verdict: str) -> None:
        """Results are scalars whose step is the round."""
        for name, value in summary.items():
            self._writer.add_scalar(name, value, self._number)
        if verdict:
            self._writer.add_text("verdict", verdict, self._number)
        self._writer.close()


@service("trackio")
class Trackio:
    """Trackio's local store, or where its environment variables point."""

    def start(self, told: TrackedRound) -> None:
        """A round that goes on is the same run again."""
        import trackio

        for name, module in list(sys.modules.items()):
            if name.split(".")[0] == "trackio":
                vars(module)["print"] = _say_nothing  # it prints to stdout, which --json keeps for one document
        self._trackio = trackio
        trackio.init(
            project=PROJECT,
            name=told.title,
            group=told.run,
            config=flat(told.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Each lineage counts its own steps."""
        self._trackio.log(dict(metrics), step=step)

    def finish(self, summary: Mapping[str, float], verdict: str) -> None:
        """Results are logged as a last entry."""
        if summary:
            self._trackio.log({**summary, "verdict": verdict})
        self._trackio.finish()


@service("mlflow")
class Mlflow:
    """MLflow: where MLFLOW_TRACKING_URI points, else a database in the run's directory, `tracking/mlflow.db`."""

    LONGEST = 500
    """Characters of a parameter; MLflow refuses longer ones."""

    def start(self, told: TrackedRound) -> None:
        """A round that goes on is a run more, of the same name."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(uri or f"sqlite:///{told.folder.resolve() / 'mlflow.db'}")
        told.folder.mkdir(parents=True, exist_ok=True)
        found = self._client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self._client.create_experiment(PROJECT)
        tags = {"winnow.run": told.run, "winnow.round": str(told.number)}
        self._id = self._client.create_run(experiment, run_name=told.title, tags=tags).info.run_id
        values = [Param(key, str(value)[: self.LONGEST]) for key, value in flat(told.config).items()]
        for start in range(0, len(values), 100):
            self._client.log_batch(self._id, params=values[start : start + 100])

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One batch for a step."""
        from mlflow.entities import Metric

        moment = int(time.time() * 1000)
        named = [Metric(_mlflow_name(name), value, moment, step) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=named)

    def finish(self, summary: Mapping[str, float], verdict: str) -> None:
        """A round that was stopped is shown as killed."""
        self.log(summary, 0)
        if verdict:
            self._client.set_tag(self._id, "winnow.verdict", verdict)
        self._client.set_terminated(self._id, "FINISHED" if summary else "KILLED")


def _mlflow_name(name: str) -> str:
    """MLflow takes letters, digits and `_-. /`."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)


def _say_nothing(*args: Any, **kwargs: Any) -> None:
    """Stands in for `print`."""
