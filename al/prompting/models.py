"""The models of a run, by the names that a user gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from al.config import Config
from al.errors import ConfigError, RunStateError
from al.program import PROGRAM
from al.run import rounds
from al.run.artifacts import Artifact
from al.run.base import refuse_other_base
from al.run.progress import Progress
from al.run.store import Run

if TYPE_CHECKING:
    from trainer.model import Base


def find_models(run: Run, config: Config, names: Sequence[str], option: str) -> dict[str, Artifact | None]:
    """{name: adapter, None for the base model} of `names`: base; previous, selected and control of the last finished round; N and
    control:N of round N. `option`: the flag that errors name.

    Raises:
        ConfigError: the run has no model of a name, or its round used another base model. RunStateError: no round is finished, or the
            base's weights are not those that an adapter was trained on.
    """
    known, bases = _known(run)
    found: dict[str, Artifact | None] = {}
    for name in dict.fromkeys(names):
        if name != "base" and name not in known:
            raise ConfigError(f"{option} {name}: the run has {', '.join(['base', *known])}.")
        adapter, number = known.get(name, (None, 0))
        base = bases.get(number, config.model.name)
        if base != config.model.name:
            raise ConfigError(
                f"{option} {name}: round {number} trained {base}, and this config names {config.model.name}."
            )
        if adapter is not None:
            refuse_other_base(adapter, config.model)
        found[name] = adapter
    return found


def latest_models(run: Run) -> list[str]:
    """Which of base, previous, selected and control the last finished round has. Raises RunStateError: no round is finished."""
    known, _ = _known(run)
    return ["base", *(name for name in ("previous", "selected", "control") if name in known)]


def load_base(config: Config, quiet: bool) -> Base:
    """The config's base model, with a line of progress unless `quiet`. Raises as trainer.model.Base.load."""
    from trainer.model import Base

    with Progress("load model", 1, "model", quiet=quiet) as progress:
        base = Base.load(config.model)
        progress(1)
    return base


def _known(run: Run) -> tuple[dict[str, tuple[Artifact, int]], dict[int, str]]:
    """{name: (adapter, round)} and {round: its base model}."""
    done = [entry for entry in rounds.all_rounds(run) if entry.state == "done"]
    if not done:
        raise RunStateError(
            f"{run.path}: no round is finished, so there is no adapter yet. Run `{PROGRAM} round --budget N --run {run.path}`."
        )
    last = done[-1].number
    places = {"previous": (last - 1, "train"), "selected": (last, "train"), "control": (last, "control.train")}
    places |= {str(entry.number): (entry.number, "train") for entry in done}
    places |= {f"control:{entry.number}": (entry.number, "control.train") for entry in done}
    found = {name: (rounds.recorded(run, *place), place[0]) for name, place in places.items() if place[0]}
    known = {name: (adapter, number) for name, (adapter, number) in found.items() if adapter is not None}
    return known, {entry.number: entry.config["model"]["name"] for entry in done}
