"""Rounds of several runs side by side: which config keys differ, and by how much their adapters differ on one test set.

A difference is claimed only if every run was measured on the same held-out examples, tokenized identically; else "why_not" has the reason.
The document is that of a comparison of strategies, with "runs" where it has "strategies" (`al.comparison.words`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from al.comparison.summary import SHOWN_METRICS, spread
from al.config import flat, parse
from al.errors import ConfigError, RunStateError
from al.evaluation.bootstrap import paired_bootstrap
from al.evaluation.metrics import Measured
from al.evaluation.stage import load_measured
from al.run import rounds
from al.run.artifacts import Artifact
from al.run.rounds import read_summary
from al.run.store import Run
from selection.holdout import TEST

RESAMPLES = 2000
CAVEAT = (
    "intervals of a paired bootstrap over the test examples. They do not cover what another seed would have trained; "
    "`compare --seeds` does."
)


@dataclass(frozen=True)
class Side:
    """One run: its name in the comparison, the round shown, and that round's summary, config and evaluation of its adapter."""

    name: str
    path: Path
    number: int
    summary: Mapping[str, Any]
    config: Mapping[str, Any]
    evaluation: Artifact | None


def compare_runs(paths: Sequence[Path], number: int | None) -> dict[str, Any]:
    """The document of the runs side by side. The first run is the baseline.

    Args:
        number: the round of each; None: the last finished one of each.

    Returns:
        {"schema", "compared": "runs", "baseline": name, "runs": [{"name", "run", "round", "budget", "models", "test_examples", "examples",
        "tokens", "seconds", "report_path", "final": {metric: {"mean", …}}, "difference": {metric: {"value", "low", "high", "p"}} or None}],
        "test_examples", "decides": {"metric", "response_tokens"} or None, "config": {key: [value of each run]}, "comparable": bool,
        "why_not": str or None, "notes"}.

    Raises:
        ConfigError: fewer than two runs. RunStateError: a run does not exist, or has not finished the round.
    """
    if len(paths) < 2:
        raise ConfigError(f"report --compare: expected two runs or more, found {len(paths)}: --compare RUN RUN …")
    sides = [_side(path, name, number) for path, name in zip(paths, _names(paths), strict=True)]
    measured = [_measured(side) for side in sides if side.evaluation is not None]
    why_not = _not_comparable(sides, measured)
    found = (
        [None, *(_difference(other, measured[0]) for other in measured[1:])] if why_not is None else [None] * len(sides)
    )
    runs = [_described(side) | {"difference": difference} for side, difference in zip(sides, found, strict=True)]
    counts = {run["test_examples"] for run in runs}
    return {
        "schema": 1,
        "compared": "runs",
        "baseline": sides[0].name,
        "runs": runs,
        "test_examples": counts.pop() if len(counts) == 1 else None,
        "config": _config_differences(sides),
        "decides": _decides(sides),
        "comparable": why_not is None,
        "why_not": why_not,
        "notes": [CAVEAT] if why_not is None else [],
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
        evaluation, summary = rounds.recorded(run, chosen, "evaluate.selected"), read_summary(run, chosen)
    config = _with_defaults(finished[chosen].config, str(path))
    return Side(name, path, chosen, summary, config, evaluation)


def _with_defaults(config: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A recorded config with the keys that Winnow did not have yet; as it is where its keys are of another time."""
    try:
        return parse(config, where).model_dump(mode="json")
    except ConfigError:
        return config


def _described(side: Side) -> dict[str, Any]:
    models = side.summary["evaluation"]["models"]
    return {
        "name": side.name,
        "run": str(side.path),
        "round": side.number,
        "budget": side.summary["budget"],
        "test_examples": side.summary["evaluation"]["examples"],
        "models": models,
        "examples": side.summary["budget"]["examples"],
        "tokens": side.summary["budget"]["tokens"],
        "seconds": (side.summary.get("timings") or {}).get("total"),
        "report_path": str(side.path / "rounds" / f"{side.number:03d}" / "report.html"),
        "final": {metric: spread([models["selected"][metric]]) for metric in SHOWN_METRICS},
    }


def _decides(sides: Sequence[Side]) -> dict[str, Any] | None:
    """The deciding metric of the rounds, if all have the same; else NLL by their mean, if that is the same; None: macro NLL, as for rounds
    before that rule. Written accuracy is not compared, and NLL by its mean takes its place (`words.leading_metric`)."""
    found = [side.summary.get("decides") for side in sides]
    if not all(found):
        return None
    metrics = {of_each["metric"] for of_each in found}
    means = {metric.partition("_")[0] for metric in metrics}
    return found[0] if len(metrics) == 1 else {"metric": f"{means.pop()}_nll"} if len(means) == 1 else None


def _config_differences(sides: Sequence[Side]) -> dict[str, list[Any]]:
    """{dotted key: [value of each run]} where not all are equal."""
    values = [flat(side.config) for side in sides]
    keys = sorted(set().union(*values))
    found = {key: [value.get(key) for value in values] for key in keys}
    return {key: of_each for key, of_each in found.items() if any(value != of_each[0] for value in of_each)}


def _not_comparable(sides: Sequence[Side], measured: Sequence[tuple[np.ndarray, Measured]]) -> str | None:
    """Why the adapters cannot be compared; None if they can. `measured` is of the sides that have an evaluation."""
    for side in sides:
        if side.evaluation is None:
            return f"{side.name} has no evaluation of its adapter any more"
    first = measured[0]
    for side, (ids, of_side) in zip(sides[1:], measured[1:], strict=True):
        where = f"{sides[0].name} and {side.name}"
        if not np.array_equal(ids, first[0]):
            common = len(np.intersect1d(ids, first[0]))
            return (
                f"{where} do not hold out the same test examples: {len(first[0]):,} and {len(ids):,}, {common:,} of them in both. "
                "The same pool and seed, or holdout.test_files, give runs the same test set"
            )
        if not np.array_equal(of_side.targets, first[1].targets):
            return f"{where} tokenize the test examples differently, so their NLL per token is not comparable"
        if not np.array_equal(of_side.source, first[1].source):
            return (
                f"{where} assign the test examples to different sources, so their means over sources are not comparable"
            )
    return None


def _measured(side: Side) -> tuple[np.ndarray, Measured]:
    """Sorted ids of the test examples, and the measurements of the run's adapter in the same order."""
    assert side.evaluation is not None
    measured, table = load_measured(side.evaluation, TEST)
    ids = table["id"].to_numpy(zero_copy_only=False).astype(str)
    order = np.argsort(ids, kind="stable")
    return ids[order], Measured(**{name: values[order] for name, values in vars(measured).items()})


def _difference(other: tuple[np.ndarray, Measured], first: tuple[np.ndarray, Measured]) -> dict[str, Any]:
    found = paired_bootstrap(other[1], first[1], RESAMPLES, 0)
    return {metric: found[metric] for metric in SHOWN_METRICS}
