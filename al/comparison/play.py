"""Strategies compared on one pool: each selects, trains and is evaluated, for several seeds. An interrupted comparison continues with
the runs that are missing.

All runs live in one run directory and share what they have in common (the pool's stages, the base model's evaluation, the first
round's scores). A seed changes the clustering, every draw and the training, but never the holdout. Each example is
seen as often as `train.epochs` says. A step holds the same number of examples for every strategy, so a strategy that picks
longer examples does not get more steps.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from al.comparison.course import Course, Key, opening, planned_seconds, seconds_of
from al.comparison.page import render_comparison
from al.comparison.summary import summarize
from al.config import Config, change, parse
from al.config.yaml_values import read_yaml
from al.errors import ConfigError, DataError, Unpublished
from al.evaluation.deciding import MEANS, deciding_metric
from al.evaluation.metrics import Measured, metrics
from al.evaluation.stage import evaluate, load_measured
from al.lineage.history import History, Lineage
from al.lineage.outcomes import candidates, find_rows
from al.lineage.round_state import used
from al.lineage.training_rows import training_rows
from al.planning.needs import require
from al.preparation.clusters import cluster
from al.preparation.stages import Prepared, prepare
from al.preparation.target import target_notices
from al.program import invocation
from al.round.loop import propose, train_lineage
from al.run.artifacts import Artifact, versions
from al.run.atomic import replaced
from al.run.session import Session
from al.run.store import now
from al.scoring import stage as scoring
from selection.config import SelectConfig
from selection.errors import nearest_name
from selection.holdout import DEV, TEST
from selection.registry import registry
from selection.strategy import Budget, needs_losses
from trainer.tokens import TokenTable

BASELINE = "random"
MEASURED = ("warmup.packs", "warmup.train", "score", "suspects", "score.target", "hidden_states", "shortlist")
"""Roles whose time counts as scoring."""
OWN = ("cluster", "kinds", "lora", "measure", "noise", "score", "select", "train")
"""Config sections that a strategy may set for itself. The others make the pool and the holdout, which all strategies share."""


SOURCES_NAMED = 8
"""Sources that the document names; its count has all."""


@dataclass(frozen=True)
class Member:
    """One run of a comparison. `changes`: config keys and values of its own."""

    strategy: str
    seed: int
    changes: tuple[tuple[str, Any], ...] = ()

    def config(self, config: Config) -> Config:
        """The comparison's config with this member's strategy and seed. The baseline has no noise check."""
        values = config.model_dump(mode="json")
        values["seed"] = self.seed
        values["select"]["strategy"] = self.strategy
        if self.strategy == BASELINE:
            values["noise"]["look"] = "none"
        overrides = [f"{key}={json.dumps(value)}" for key, value in self.changes]
        return change(values, overrides, f"--strategies {self.strategy}")


@dataclass(frozen=True)
class PoolFacts:
    """What every member of a comparison reads of the pool: (n,) lengths and response tokens, (m,) rows that a first round may pick, and how
    many examples are dev, which is evaluated with test and decides nothing."""

    keys: np.ndarray
    lengths: np.ndarray
    response_tokens: np.ndarray
    selectable: np.ndarray
    dev: int

    @classmethod
    def read(cls, prepared: Prepared) -> PoolFacts:
        """The facts of a prepared pool."""
        state = candidates(prepared, prepared.clusters, History(Lineage("pool", "")))
        table = TokenTable.open(prepared.tokens.path)
        dev = int((np.load(prepared.split.path / "split.npy") == DEV).sum())
        return cls(state.keys, np.asarray(table.lengths), np.asarray(table.target_counts), state.rows, dev)


def play_member(
    session: Session,
    prepared: Prepared,
    member: Member,
    budget: Any,
    rounds: int,
    split: int = TEST,
    log: Callable[[str], None] = lambda text: None,
    facts: PoolFacts | None = None,
) -> dict[str, Any]:
    """Select, train and evaluate one member; stages that are published already are not run again.

    All members have the same number of rounds, so the learning rate follows the same schedule for all. The exception: where every round
    trains from scratch on all picks so far, a strategy that uses nothing the adapter could change needs only the last round.

    Args:
        budget: of all rounds together. split: what is evaluated, TEST or DEV. log: called with "round 2 of 4" as one of several begins.
        facts: of the pool, read if not given.

    Returns:
        {"strategy", "seed", "rounds": [{"round", "examples", "tokens", "response_tokens", metrics…, "seconds", "artifacts"}]}.
    """
    facts = facts or PoolFacts.read(prepared)
    session = session.with_config(member.config(session.config))
    prepared = dataclasses.replace(prepared, clusters=cluster(session, prepared.pool, prepared.embeddings))
    rounds = _rounds_needed(session, prepared, rounds)
    history, found = History(Lineage(member.strategy, "train")), []
    totals = {"examples": 0, "tokens": 0, "response_tokens": 0}
    for number in range(1, rounds + 1):
        if rounds > 1:
            log(f"round {number} of {rounds}")
        roles: dict[str, Artifact] = {"pool": prepared.pool}

        def keep(role: str, artifact: Artifact, roles: dict[str, Artifact] = roles) -> Artifact:
            """Remember an artifact under its role."""
            roles[role] = artifact
            return artifact

        amount = budget.amount * number // rounds - budget.amount * (number - 1) // rounds
        selection = propose(session, prepared, history, Budget(budget.unit, amount), keep).artifact
        paced = session.with_config(_with_examples_a_step(session, prepared, history, selection, facts))
        adapter = train_lineage(paced, prepared, history, selection, None, keep)
        measured = evaluate(session, prepared, adapter, f"evaluate {member.strategy}")
        for name, value in _picked(facts, selection).items():
            totals[name] += value
        result = {metric: float(values[0]) for metric, values in metrics(load_measured(measured, split)[0]).items()}
        made = {role: f"{artifact.stage}/{artifact.fingerprint}" for role, artifact in roles.items()}
        seconds = _seconds(roles, measured, selection)
        found.append({"round": number, **totals, **result, "seconds": seconds, "artifacts": made})
        history = history.then(roles)
    return {"strategy": member.strategy, "seed": member.seed, "rounds": found}


def _rounds_needed(session: Session, prepared: Prepared, rounds: int) -> int:
    """The rounds that a run plays of `rounds` asked for."""
    config = session.config
    follows = learns(used(config, prepared.target, prepared.clusters), rounds)
    return rounds if config.train.mode == "continue" or follows else 1


def learns(config: SelectConfig, rounds: int) -> bool:
    """Whether anything the strategy does in any round depends on what was trained before."""
    return any(needs_losses(config, number) for number in range(1, rounds + 1))


def _with_examples_a_step(
    session: Session, prepared: Prepared, history: History, selection: Artifact, facts: PoolFacts
) -> Config:
    """The config with as many packs a step as give a step the number of examples that it would have on the pool's average length."""
    config = session.config
    rows = training_rows(session, prepared, selection, history)
    ratio = float(facts.lengths[rows].mean() / facts.lengths[facts.selectable].mean())
    packs = max(1, round(config.train.packs_per_step * ratio))
    values = config.model_dump(mode="json")
    values["train"] |= {"packs_per_step": packs, "packs_per_batch": min(packs, config.train.packs_per_batch)}
    return parse(values, "compare")


def _picked(facts: PoolFacts, selection: Artifact) -> dict[str, int]:
    rows = find_rows(facts.keys, np.load(selection.path / "picked.npy"))
    sums = {"tokens": facts.lengths, "response_tokens": facts.response_tokens}
    return {"examples": len(rows), **{name: int(values[rows].sum()) for name, values in sums.items()}}


def _seconds(roles: dict[str, Artifact], measured: Artifact, selection: Artifact) -> dict[str, float]:
    scored = [roles[role] for role in MEASURED if role in roles]
    adapted = [roles["clusters"]] if roles["clusters"].stage == "adapted_clusters" else []
    groups = {
        "score": scored,
        "select": [*adapted, selection],
        "train": [roles["packs"], roles["train"]],
        "evaluate": [measured],
    }
    return {name: round(sum(float(a.manifest["seconds"]) for a in artifacts), 3) for name, artifacts in groups.items()}


def parse_strategy(text: str) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """`NAME` or `NAME:key=value,key=value` as (name, changes). Raises ConfigError."""
    name, _, rest = text.partition(":")
    changes = []
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"--strategies {text}: expected NAME or NAME:key=value, for example top:score.by=ifd.")
        section, dot, _ = key.strip().partition(".")
        if section not in OWN or not dot or key.strip() == "select.strategy":
            raise ConfigError(
                f"--strategies {text}: {key.strip()} is the same for all strategies; a strategy's own can be keys of "
                f"{', '.join(OWN)}. --set changes it for all."
            )
        changes.append((key.strip(), read_yaml(value, f"--strategies {text}")))
    if name not in registry("strategy"):
        raise ConfigError(f"--strategies: {nearest_name('strategy', name, registry('strategy'))}")
    return name, tuple(changes)


def split_names(text: str) -> list[str]:
    """Names of strategies out of `a,b c:key=1,key=2`: a comma ends a name, unless what follows is another change."""
    names: list[str] = []
    for part in filter(None, text.replace(" ", ",").split(",")):
        if "=" in part and ":" not in part.partition("=")[0] and names:
            names[-1] += f",{part}"
        else:
            names.append(part)
    return names


def compare_strategies(
    session: Session,
    strategies: Sequence[str],
    budget: Any,
    rounds: int,
    seeds: Sequence[int],
    text: str,
    proxy: bool = False,
) -> dict[str, Any]:
    """Play every strategy with every seed; returns the document that page and terminal show.

    The baseline is played whether it is named or not. `comparison.json` and the page are written after each member, so an interrupted
    comparison can be read. Members that are finished already are found first: the document never has fewer than before.
    """
    parsed = {label: parse_strategy(label) for label in dict.fromkeys([*strategies, BASELINE])}
    if budget.amount < rounds:
        raise ConfigError(
            f"compare: a budget of {text} cannot be shared by {rounds} rounds; raise --budget or lower --rounds."
        )
    holdout = session.config.holdout
    if holdout.test == 0 and not holdout.test_files:
        raise ConfigError(
            "compare: expected test examples to compare on, found holdout.test=0; set holdout.test or holdout.test_files."
        )
    require(session.config, session.run.path)
    members = {
        (label, session.config.seed + seed): Member(name, session.config.seed + seed, changes)
        for seed in seeds
        for label, (name, changes) in parsed.items()
    }
    for name, changes in parsed.values():
        member = session.with_config(Member(name, seeds[0], changes).config(session.config))
        scoring.measurements(member)  # a strategy that lacks its input fails before anything runs
    session.tell(opening(list(parsed), len(seeds)))
    prepared = prepare(session, 1)
    for line in target_notices(prepared.target):
        session.tell(f"note: {line}")
    facts, tests = PoolFacts.read(prepared), load_measured(evaluate(session, prepared, None, "evaluate base"), TEST)[0]
    if not len(tests.nll):
        raise DataError(
            f"compare: holdout.test={holdout.test} holds out no example of this pool to compare on; raise it."
        )
    play = partial(play_member, prepared=prepared, budget=budget, rounds=rounds, facts=facts)
    found = _published(session, members, play)
    course = _course(session, prepared, members, found, budget, rounds)
    written = partial(_written, session, prepared, facts, tests, members, found, parsed, text, rounds, proxy)
    document = {}
    if found:
        session.tell(course.resumed())
        document = written()
    for key in [key for key in members if key not in found]:
        session.tell(course.announcement(key))
        started, place = time.monotonic(), course.place(key)
        found[key] = play(session, member=members[key], log=lambda line, place=place: session.tell(f"{place}, {line}"))
        course.taken[key] = max(time.monotonic() - started, seconds_of(found[key]))
        document = written()
    return document


def _published(
    session: Session, members: Mapping[Key, Member], play: Callable[..., dict[str, Any]]
) -> dict[Key, dict[str, Any]]:
    """The results of the members whose every stage is published."""
    found = {}
    with session.read_only() as reading:
        for key, member in members.items():
            with suppress(Unpublished):
                found[key] = play(reading, member=member)
    return found


def _course(
    session: Session,
    prepared: Prepared,
    members: Mapping[Key, Member],
    found: Mapping[Key, dict[str, Any]],
    budget: Budget,
    rounds: int,
) -> Course:
    """What all members are planned to take, each strategy planned once, and what those took that are `found`."""
    seconds: dict[str, float] = {}
    for (label, _), member in members.items():
        if label not in seconds:
            own = session.with_config(member.config(session.config))
            seconds[label] = planned_seconds(own, prepared, budget, _rounds_needed(own, prepared, rounds))
    taken = {key: seconds_of(played) for key, played in found.items()}
    return Course({key: seconds[key[0]] for key in members}, taken)


def _written(
    session: Session,
    prepared: Prepared,
    facts: PoolFacts,
    tests: Measured,
    members: Mapping[Key, Member],
    found: Mapping[Key, dict[str, Any]],
    parsed: dict[str, tuple[str, Any]],
    budget: str,
    rounds: int,
    proxy: bool,
) -> dict[str, Any]:
    """The document of the members found so far, written with its page."""
    pool = prepared.pool.json("pool.json")
    done: dict[str, list[dict[str, Any]]] = {}
    for label in parsed:
        runs = [found[key] | {"strategy": label} for key in members if key[0] == label and key in found]
        done |= {label: runs} if runs else {}
    document = {
        "schema": 1,
        "created": now(),
        "versions": versions(),
        "pool": {
            "examples": pool["examples"],
            "selectable": len(facts.selectable),
            "sources": len(pool["sources"]),
            "files": sorted(pool["sources"])[:SOURCES_NAMED],
        },
        "model": session.config.model.name,
        "proxy": proxy,
        "budget": budget,
        "rounds": rounds,
        "seeds": list(dict.fromkeys(seed for _, seed in members)),
        "baseline": BASELINE,
        "runs_done": sum(map(len, done.values())),
        "runs_asked": len(members),
        "groups": int(tests.source.max()) + 1,
        "groups_name": "source",
        "test_examples": len(tests.nll),
        "dev_examples": facts.dev,
        "base": {name: float(values[0]) for name, values in metrics(tests).items()},
        "decides": deciding_metric(False, tests.targets, session.config.goal),
        "strategies": [
            {
                **summarize(label, runs, done.get(BASELINE, []), f"{MEANS[session.config.goal]}_nll"),
                "about": registry("strategy")[parsed[label][0]].about,
                "changes": dict(parsed[label][1]),
            }
            for label, runs in done.items()
        ],
        "runs": [run for runs in done.values() for run in runs],
        "notes": scoring.scoring_notices(session.config) + target_notices(prepared.target),
        "command": invocation(),
    }
    write_comparison(session.run.path, document)
    return document


def write_comparison(run: Path, document: dict[str, Any]) -> None:
    """`comparison.json` and `comparison.html` in the run's directory, each replaced atomically."""
    for name, text in (
        ("comparison.json", json.dumps(document, indent=1)),
        ("comparison.html", render_comparison(document)),
    ):
        with replaced(run / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
