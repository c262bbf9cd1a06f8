"""The part of summary.json on work, time and money: what each kind of work took, and what the gain would have cost at random.

Wall clock says as much about what else ran on the machine as about the round. So work is counted in tokens through the model, and its
seconds are those tokens at the speed that the round's least disturbed training steps reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from al.config import ReportConfig
from al.evaluation.deciding import MEANS
from al.lineage.history import History
from al.report.summary.at_random import Point, cost_at_random
from al.report.summary.facts import RoundFacts
from al.run.artifacts import Artifact

KINDS = {
    "selecting": (
        *("plan", "adapt clusters", "pack warm-up", "warm up", "hidden states", "score"),
        *("suspected noise", "select", "decision", "apply review"),
    ),
    "training": ("measure speed", "pack selected", "train"),
    "evaluation": ("evaluate", "generate", "answer", "map", "describe clusters"),
    "control": (
        *("pick at random", "pack control", "train control"),
        *("evaluate control", "generate control", "answer control"),
    ),
}
"""What a stage is counted as, by the longest of these that its label begins with; all else prepares the pool."""


def kind_of(label: str) -> str:
    """One of "selecting", "training", "evaluation", "control" and "preparing" for the label of a stage."""
    fits = [(len(start), kind) for kind, starts in KINDS.items() for start in starts if _begins(label, start)]
    return max(fits)[1] if fits else "preparing"


def _begins(label: str, start: str) -> bool:
    return label == start or label.startswith(f"{start} ")


def cost(timings: Mapping[str, float], config: ReportConfig) -> dict[str, Any]:
    """{"seconds", "money": {kind: amount, "total"}, "price_per_hour", "currency"}; no money without a price."""
    seconds = dict.fromkeys(("preparing", *KINDS), 0.0)
    for label, amount in timings.items():
        if label != "total":
            seconds[kind_of(label)] += amount
    seconds = {kind: round(amount, 3) for kind, amount in seconds.items()}
    seconds["total"] = round(sum(seconds.values()), 3)
    price = config.price_per_hour
    money = None if price is None else {kind: amount * price / 3600 for kind, amount in seconds.items()}
    return {"seconds": seconds, "money": money, "price_per_hour": price, "currency": config.currency}


SCORED = ("score", "shortlist", "suspects", "score.target")
"""Roles whose passes over examples count as selecting."""
FORWARD = 0.5
"""A token that is only read, in tokens trained on: a frozen weight takes part in one product instead of two (al.planning.model_shape)."""
UNDISTURBED = 0.9
"""Quantile of the steps' speeds: those that other work on the machine slowed least, without the luckiest."""


def work(facts: RoundFacts, trained: Mapping[str, Mapping[str, Any] | None], held: int) -> dict[str, Any]:
    """What passed through the model in this round, by kind of work; written answers are not counted.

    Args:
        trained: the parts "selected" and "control" of `al.report.summary.training`. held: tokens of dev and test.

    Returns:
        {"tokens": {kind, "total"}, "seconds": the same in seconds at "tokens_per_s", None where no step recorded its speed}.
    """
    roles, lines = facts.roles, [line for line in trained.values() if line]
    scored = sum(
        a.json("score.json").get("tokens", 0)
        for a in map(roles.get, SCORED)
        if a and "score.json" in a.manifest["files"]
    )
    if "hidden states" in facts.timings:  # measured in this round, for all rounds
        scored += roles["hidden_states"].json("score.json")["tokens"]
    warmed = roles["warmup.train"].json("train.json")["tokens"] if "warmup.train" in roles else 0
    control = trained["control"]["tokens"] if trained["control"] else 0
    evaluated = [label for label in facts.timings if label.startswith("evaluate ")]
    others = held * sum(not _begins(label, "evaluate control") for label in evaluated)
    of_control = held * len(evaluated) - others
    read = {"selecting": scored, "training": 0, "evaluation": others, "control": of_control}
    learned = {"selecting": warmed, "training": trained["selected"]["tokens"], "evaluation": 0, "control": control}
    tokens = {kind: int(read[kind] + learned[kind]) for kind in read}
    speeds = [step["tokens_per_s"] for line in lines for step in line["curve"] if step.get("tokens_per_s")]
    rate = float(np.quantile(speeds, UNDISTURBED)) if speeds else None
    seconds = {kind: (learned[kind] + FORWARD * read[kind]) / rate if rate else None for kind in read}
    total = sum(filter(None, seconds.values())) if rate else None
    return {
        "tokens": {**tokens, "total": sum(tokens.values())},
        "seconds": {**seconds, "total": total},
        "tokens_per_s": rate,
    }


def at_random(
    facts: RoundFacts, test: Mapping[str, Any], past: Sequence[Mapping[str, Any]], rate: float | None
) -> dict[str, Any] | None:
    """`cost_at_random` of this round, with its money, and "spent": what the selected adapters were trained on so far. None without
    a control.

    Args:
        test: this round's evaluation. past: entries of learning_curve. rate: tokens a second, of `work`; None for the trainings' own
            wall clock.
    """
    models, metric = test["models"], f"{MEANS[facts.session.config.goal]}_nll"
    if "control" not in models:
        return None
    nll = {
        entry["round"]: entry["models" if metric == "macro_nll" else "micro_nll"].get("control") for entry in past
    } | {facts.number: models["control"][metric]}
    retrained = facts.session.config.train.mode == "retrain"
    points = _points(facts.lineages["control"], retrained, rate)
    curve = [Point(**point, nll=nll[n]) for n, point in points.items() if nll.get(n) is not None]
    found = cost_at_random(models["base"][metric], models["selected"][metric], curve)
    spent = _points(facts.lineages["selected"], retrained, rate).get(facts.number)
    if found is None or spent is None:
        return None
    seconds, price = found["seconds"], facts.session.config.report.price_per_hour
    money = None if price is None or seconds is None else seconds * price / 3600
    return {**found, "money": money, "spent": spent}


def _points(line: History, retrained: bool, rate: float | None) -> dict[int, dict[str, float]]:
    """{round: {"examples", "tokens", "seconds"}} that a lineage was trained on so far, of the rounds that have it: a control that comes
    back catches up on what it lacks.

    Seconds are those of the tokens trained on at `rate`, so that both lineages are told alike. With `train.mode: retrain` each round trains
    from scratch on all picks, so only its own time counts; else that of the rounds before too.
    """
    total: dict[str, float] = {"examples": 0, "tokens": 0, "seconds": 0.0}
    found = {}
    for n, roles in enumerate(line.rounds, start=1):
        picks, trained = roles.get("selection"), roles.get("train")
        if picks is None or trained is None:
            continue
        told = trained.json("train.json")
        seconds = told["tokens"] / rate if rate else told["seconds"]
        counted = _picked(picks)
        total = {
            "examples": total["examples"] + counted["examples"],
            "tokens": total["tokens"] + counted["tokens"],
            "seconds": seconds if retrained else total["seconds"] + seconds,
        }
        found[n] = total
    return found


def _picked(selection: Artifact) -> dict[str, int]:
    """Examples and tokens of a round's picks."""
    if (selection.path / "picked.json").exists():
        return selection.json("picked.json")
    clusters = selection.json("quotas.json")
    return {name: sum(entry[key] for entry in clusters) for name, key in (("examples", "picked"), ("tokens", "tokens"))}
