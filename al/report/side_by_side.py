"""Rounds of several runs beside each other: what differs in their configs, and by how much their adapters differ on one test set.

A difference is claimed only where every run was measured on the same held-out examples, tokenized alike; else it is said why not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from al.config import flat, parse
from al.errors import ConfigError, RunStateError
from al.evaluation.bootstrap import paired_bootstrap
from al.evaluation.metrics import Measured
from al.evaluation.stage import load_measured
from al.report.publish import read_summary
from al.run import rounds
from al.run.artifacts import Artifact
from al.run.store import Run
from selection.holdout import TEST

RESAMPLES = 2000
METRICS = ("macro_nll", "macro_nll_no_end", "macro_em", "micro_nll", "micro_em")


@dataclass(frozen=True)
class Side:
    """One run: its name in the comparison, the round shown of it, that round's summary, config and evaluation of its adapter."""

    name: str
    path: Path
    number: int
    summary: Mapping[str, Any]
    config: Mapping[str, Any]
    evaluation: Artifact | None


def compare_runs(paths: Sequence[Path], number: int | None) -> dict[str, Any]:
    """The runs side by side, the first one being what the others are held against.

    Args:
        number: the round of each; None: the last finished one of each.

    Returns:
        {"runs": [{"name", "run", "round", "budget", "models", "test_examples", "seconds", "report_path"}],
        "config": {key: [value of each run]}, "comparable": bool, "why_not": str or None,
        "differences": [{"run", "against", "metrics": {metric: {"value", "low", "high", "p"}}}]}.

    Raises:
        ConfigError: fewer than two runs. RunStateError: a run is not there, or has not finished the round.
    """
    if len(paths) < 2:
        raise ConfigError(f"report --compare: expected two runs or more, found {len(paths)}: --compare RUN RUN …")
    sides = [_side(path, name, number) for path, name in zip(paths, _names(paths), strict=True)]
    why_not = _not_comparable(sides)
    first, *others = sides
    return {
        "runs": [_described(side) for side in sides],
        "config": _config_differences(sides),
        "comparable": why_not is None,
        "why_not": why_not,
        "differences": [] if why_not else [_difference(side, first) for side in others],
    }


def _names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, or the whole where that is not unique."""
    short = [path.resolve().name for path in paths]
    return [name if short.count(name) == 1 else str(path) for name, path in zip(short, paths, strict=True)]


def _side(path: Path, name: str, number: int | None) -> Side:
    with Run.read(path) as run:
        finished = {entry.number: entry for entry in rounds.all_rounds(run) if entry.state == "done"}
        if not finished or (number is not None and number not in finished):
            raise RunStateError(
                f"{path}: round {number or 1} has no report yet; finished rounds: {sorted(finished) or 'none'}."
            )
        chosen = number or max(finished)
        evaluation = rounds.recorded(run, chosen, "evaluate.selected")
    config = _with_defaults(finished[chosen].config, str(path))
    return Side(name, path, chosen, read_summary(path, chosen), config, evaluation)


def _with_defaults(config: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A recorded config with the keys that Winnow did not have yet; as it is where its keys are of another time."""
    try:
        return parse(config, where).model_dump(mode="json")
    except ConfigError:
        return config


def _described(side: Side) -> dict[str, Any]:
    return {
        "name": side.name,
        "run": str(side.path),
        "round": side.number,
        "budget": side.summary["budget"],
        "test_examples": side.summary["evaluation"]["examples"],
        "models": side.summary["evaluation"]["models"],
        "seconds": (side.summary.get("timings") or {}).get("total"),
        "report_path": str(side.path / "rounds" / f"{side.number:03d}" / "report.html"),
    }


def _config_differences(sides: Sequence[Side]) -> dict[str, list[Any]]:
    """{dotted key: [value of each run]} where not all are equal."""
    values = [flat(side.config) for side in sides]
    keys = sorted(set().union(*values))
    found = {key: [value.get(key) for value in values] for key in keys}
    return {key: of_each for key, of_each in found.items() if any(value != of_each[0] for value in of_each)}


def _not_comparable(sides: Sequence[Side]) -> str | None:
    """Why the adapters cannot be held against each other; None if they can."""
    for side in sides:
        if side.evaluation is None:
            return f"{side.name} has no evaluation of its adapter any more"
    first, *others = (_measured(side) for side in sides)
    for side, (ids, measured) in zip(sides[1:], others, strict=True):
        where = f"{sides[0].name} and {side.name}"
        if not np.array_equal(ids, first[0]):
            common = len(np.intersect1d(ids, first[0]))
            return (
                f"{where} do not hold out the same test examples: {len(first[0]):,} and {len(ids):,}, {common:,} of them in both. "
                "The same pool and seed, or holdout.test_files, give runs the same test set"
            )
        if not np.array_equal(measured.targets, first[1].targets):
            return f"{where} tokenize the test examples differently, so that their NLL per token means different things"
        if not np.array_equal(measured.source, first[1].source):
            return f"{where} know the test examples by other sources, so that their means over sources differ"
    return None


def _measured(side: Side) -> tuple[np.ndarray, Measured]:
    """Ids of the test examples in their order, and what the run's adapter made of them."""
    assert side.evaluation is not None
    measured, table = load_measured(side.evaluation, TEST)
    ids = table["id"].to_numpy(zero_copy_only=False).astype(str)
    order = np.argsort(ids, kind="stable")
    return ids[order], Measured(**{name: values[order] for name, values in vars(measured).items()})


def _difference(side: Side, first: Side) -> dict[str, Any]:
    found = paired_bootstrap(_measured(side)[1], _measured(first)[1], RESAMPLES, 0)
    return {"run": side.name, "against": first.name, "metrics": {metric: found[metric] for metric in METRICS}}
