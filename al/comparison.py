"""Strategies side by side on one pool: each selects, trains and is evaluated, for several seeds; run by run, so that it goes on
where it stopped.

All runs live in one run directory and share what they have in common (the pool's stages, the base model's evaluation, the first
round's scores). A seed changes the clustering, every draw and the training, and never the holdout. Each example is
seen as often as `train.epochs` says, and a step holds as many examples for every strategy, so that strategies that pick
longer examples do not get more steps for it.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from al import scoring
from al.artifacts import Artifact
from al.compared import summarize
from al.config import Config, change, parse
from al.errors import ConfigError
from al.evaluate import evaluate, load_measured
from al.lineage import History, Lineage
from al.loop import choose, train_lineage
from al.metrics import metrics
from al.prepare import Prepared, cluster, prepare
from al.session import Session
from al.standing import aimed
from al.store import now, versions
from al.target import notices as target_notices
from selection.config import SelectConfig
from selection.errors import nearest_name
from selection.holdout import TEST
from selection.strategy import registry

BASELINE = "random"
OWN = ("cluster", "kinds", "lora", "measure", "noise", "score", "select", "train")
"""Sections that a strategy may change for itself; the others make the pool and the holdout, which all share."""


@dataclass(frozen=True)
class Member:
    """One run of a comparison. `changes`: config keys and values that it has of its own."""

    strategy: str
    seed: int
    changes: tuple[tuple[str, Any], ...] = ()

    def config(self, config: Config) -> Config:
        """The comparison's config with this member's strategy and seed; the baseline holds nothing back."""
        values = config.model_dump(mode="json")
        values["seed"] = self.seed
        values["select"]["strategy"] = self.strategy
        if self.strategy == BASELINE:
            values["noise"]["look"] = "none"
        overrides = [f"{key}={json.dumps(value)}" for key, value in self.changes]
        return change(values, overrides, f"--strategies {self.strategy}")


def play(
    session: Session,
    prepared: Prepared,
    member: Member,
    budget: Any,
    rounds: int,
    split: int = TEST,
    told: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Select, train and evaluate one member, whatever of it is not done yet.

    All have as many rounds, so that the learning rate takes the same course for all; but where every round starts anew on all that was
    picked so far, a strategy that looks at nothing the adapter could change needs only the last, and is played without a look for noise.

    Args:
        budget: of all rounds together. split: what is evaluated, TEST or DEV.

    Returns:
        {"strategy", "seed", "rounds": [{"round", "examples", "tokens", "response_tokens", metrics…, "seconds", "artifacts"}]}.
    """
    from selection.strategy import Budget

    session = session.with_config(member.config(session.config))
    prepared = dataclasses.replace(prepared, clusters=cluster(session, prepared.pool, prepared.embeddings))
    if session.config.train.mode == "retrain" and not learns(aimed(session.config.select, prepared.target), rounds):
        rounds = 1
    history, found = History(Lineage(member.strategy, "train")), []
    totals = {"examples": 0, "tokens": 0, "response_tokens": 0}
    for number in range(1, rounds + 1):
        told(f"{member.strategy}, seed {member.seed}, round {number} of {rounds}")
        roles: dict[str, Artifact] = {"pool": prepared.pool}

        def keep(role: str, artifact: Artifact, roles: dict[str, Artifact] = roles) -> Artifact:
            roles[role] = artifact
            return artifact

        amount = budget.amount * number // rounds - budget.amount * (number - 1) // rounds
        selection = choose(session, prepared, history, Budget(budget.unit, amount), keep)
        paced = session.with_config(_with_examples_a_step(session, prepared, history, selection))
        adapter = train_lineage(paced, prepared, history, selection, None, keep)
        measured = evaluate(session, prepared, adapter, f"evaluate {member.strategy}")
        for name, value in _picked(prepared, selection).items():
            totals[name] += value
        result = {metric: float(values[0]) for metric, values in metrics(load_measured(measured, split)[0]).items()}
        made = {role: f"{artifact.stage}/{artifact.fingerprint}" for role, artifact in roles.items()}
        seconds = _seconds(roles, measured, selection)
        found.append({"round": number, **totals, **result, "seconds": seconds, "artifacts": made})
        history = history.then(roles)
    return {"strategy": member.strategy, "seed": member.seed, "rounds": found}


def learns(config: SelectConfig, rounds: int) -> bool:
    """Whether anything the strategy does in any round depends on what was trained before."""
    from selection.strategy import needs_losses

    return any(needs_losses(config, number) for number in range(1, rounds + 1))


def _with_examples_a_step(session: Session, prepared: Prepared, history: History, selection: Artifact) -> Config:
    """The config with so many packs a step that a step holds as many examples as it would of the pool's average."""
    from al.selecting import training_rows
    from trainer.tokens import TokenTable

    config = session.config
    lengths = np.asarray(TokenTable.open(prepared.tokens.path).lengths)
    rows = training_rows(session, prepared, selection, history)
    ratio = float(lengths[rows].mean() / lengths[_selectable(prepared)].mean())
    packs = max(1, round(config.train.packs_per_step * ratio))
    values = config.model_dump(mode="json")
    values["train"] |= {"packs_per_step": packs, "packs_per_batch": min(packs, config.train.packs_per_batch)}
    return parse(values, "compare")


def _selectable(prepared: Prepared) -> np.ndarray:
    """Rows that a first round may pick."""
    from al.candidates import candidates

    return candidates(prepared, prepared.clusters, History(Lineage("pool", ""))).rows


def _picked(prepared: Prepared, selection: Artifact) -> dict[str, int]:
    from al.candidates import find_rows
    from trainer.tokens import TokenTable

    table = TokenTable.open(prepared.tokens.path)
    rows = find_rows(prepared.open_pool().keys, np.load(selection.path / "picked.npy"))
    return {
        "examples": len(rows),
        "tokens": int(np.asarray(table.lengths)[rows].sum()),
        "response_tokens": int(np.asarray(table.target_counts)[rows].sum()),
    }


def _seconds(roles: dict[str, Artifact], measured: Artifact, selection: Artifact) -> dict[str, float]:
    scored = [roles[role] for role in ("score", "suspects", "score.target", "shortlist") if role in roles]
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
        try:
            changes.append((key.strip(), yaml.safe_load(value)))
        except yaml.YAMLError as error:
            raise ConfigError(f"--strategies {text}: the value is not valid YAML: {error}") from None
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


def compare(
    session: Session,
    strategies: Sequence[str],
    budget: Any,
    rounds: int,
    seeds: Sequence[int],
    text: str,
    proxy: bool = False,
) -> dict[str, Any]:
    """Play every strategy with every seed and put them side by side; the document that pages and terminal show.

    The baseline is played whether it is named or not. Results are written to `comparison.json` of the run after each member, so
    that a comparison that is cut short can be looked at.
    """
    parsed = {label: parse_strategy(label) for label in dict.fromkeys([*strategies, BASELINE])}
    if budget.amount < rounds:
        raise ConfigError(
            f"compare: a budget of {text} cannot be shared by {rounds} rounds; raise --budget or lower --rounds."
        )
    session.check_machine()
    for name, changes in parsed.values():
        member = session.with_config(Member(name, seeds[0], changes).config(session.config))
        scoring.measurements(member)  # what is missing for a strategy is told before anything runs
    prepared = prepare(session, 1)
    for line in target_notices(prepared.target):
        session.tell(f"note: {line}")
    found: dict[str, list[dict[str, Any]]] = {label: [] for label in parsed}
    document: dict[str, Any] = {}
    for seed in seeds:
        for label, (name, changes) in parsed.items():
            member = Member(name, session.config.seed + seed, changes)
            played = play(session, prepared, member, budget, rounds, told=session.tell)
            found[label].append({**played, "strategy": label})
            document = _document(session, prepared, found, parsed, text, rounds, seeds) | {"proxy": proxy}
            publish(session.run.path, document)
    return document


def _document(
    session: Session,
    prepared: Prepared,
    found: dict[str, list[dict[str, Any]]],
    parsed: dict[str, tuple[str, Any]],
    budget: str,
    rounds: int,
    seeds: Sequence[int],
) -> dict[str, Any]:
    pool = prepared.pool.json("pool.json")
    tests = load_measured(evaluate(session, prepared, None, "evaluate base"), TEST)[0]
    done = {label: runs for label, runs in found.items() if runs}
    return {
        "schema": 1,
        "created": now(),
        "versions": versions(),
        "pool": {
            "examples": pool["examples"],
            "selectable": len(_selectable(prepared)),
            "sources": len(pool["sources"]),
            "files": sorted(pool["sources"])[:8],
        },
        "model": session.config.model.name,
        "proxy": False,
        "budget": budget,
        "rounds": rounds,
        "seeds": [session.config.seed + seed for seed in seeds],
        "baseline": BASELINE,
        "runs_done": sum(map(len, done.values())),
        "runs_asked": len(parsed) * len(seeds),
        "groups": int(tests.source.max()) + 1,
        "groups_name": "source",
        "test_examples": len(tests.nll),
        "strategies": [
            {
                **summarize(label, runs, done.get(BASELINE, [])),
                "about": registry("strategy")[parsed[label][0]].about,
                "changes": dict(parsed[label][1]),
            }
            for label, runs in done.items()
        ],
        "runs": [run for runs in done.values() for run in runs],
        "notes": scoring.notices(session.config) + target_notices(prepared.target),
        "command": "python cli.py " + shlex.join(sys.argv[1:]),
    }


def publish(run: Path, document: dict[str, Any]) -> None:
    """`comparison.json` and `comparison.html` in the run's directory, each replaced as a whole."""
    from al.report.compare_html import render_comparison

    for name, text in (
        ("comparison.json", json.dumps(document, indent=1)),
        ("comparison.html", render_comparison(document)),
    ):
        temporary = run / f".{name}.part"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(run / name)
