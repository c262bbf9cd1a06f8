"""The size of a pool: counted if the run has tokenized it, else estimated from the import or a sample."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from al.config import Config
from al.errors import Unpublished
from al.lineage.history import SELECTED, History
from al.lineage.outcomes import CODE, outcomes
from al.planning.example_tokens import TokenCounter
from al.planning.near_duplicates import MOST_SEARCHED, Distinct, find_distinct
from al.planning.pool_sample import TOKENS_ASSUMED, messages_of, sample_sources
from al.planning.template_view import TemplateView, view_without_hub
from al.pool.convert import Record
from al.pool.store import Pool
from al.preparation.asked import numbers_asked
from al.preparation.groups import chosen_before, enough_sources, spread_over
from al.preparation.sources import outside, pool_sources, with_labels
from al.preparation.stages import compare
from al.run import rounds
from al.run.artifacts import Artifact
from al.run.ownership import is_run
from al.run.session import Session
from al.run.store import Run
from trainer.errors import DataError
from trainer.tokens import TokenTable

SHOWN = 3
EXAMPLES_MEASURED = 1_000
"""Examples of an imported pool whose texts are measured, spread evenly."""


@dataclass(frozen=True)
class FirstExample:
    """How an example is read: its `messages`, the fields that are `kept` as metadata, and the `segments` of the text that the model sees
    (`TemplateView.segments`; [] if the template is not known or refuses it), with the name of the `template` and a `note` on it."""

    messages: list[dict[str, Any]]
    kept: tuple[str, ...]
    segments: list[dict[str, Any]]
    template: str | None
    note: str

    @classmethod
    def of(cls, record: Record, view: TemplateView) -> FirstExample:
        """That of an example as it is stored."""
        messages, kept = messages_of(record), tuple(json.loads(record.metadata or "{}"))
        try:
            return cls(messages, kept, view.segments(messages), view.name, view.note)
        except DataError as error:
            return cls(messages, kept, [], view.name, f"the chat template refuses it: {error}")


@dataclass(frozen=True)
class PoolEstimate:
    """Size of a pool, and the number of examples still to be embedded and placed on the map.

    `mean_tokens` counts at most tokens.max_length per example; `exact`: counted, not estimated. `several_sources`: whether the default
    strategy probably goes by sources, or by kinds of prompt where the pool's groups are known: then it measures nothing for the quotas.
    `new`: examples still to be tokenized, compared and clustered, only those that were added if the pool has grown; `imported`: they need
    not be read again. `basis`: what the figures rest on. `notes`: what a reader of the plan should know of the pool. `first`: how the first
    example is read, of files that are not imported. `labelled`: examples with a response; None: all. `pickable`: examples that the next
    round can pick, where the run has found near-duplicates and held examples out already; None: not known. `distinct`: how many of those
    with a response are distinct, before the first round has found near-duplicates.
    """

    examples: int
    mean_tokens: float
    bytes: int
    new_to_embed: int
    new_to_map: int
    exact: bool
    several_sources: bool = False
    new: int = 0
    imported: bool = True
    basis: str = "measured: counted"
    notes: tuple[str, ...] = ()
    first: FirstExample | None = None
    labelled: int | None = None
    pickable: int | None = None
    distinct: Distinct | None = None


def estimate_pool(config: Config, run_path: Path, named: bool = False, search: float | None = None) -> PoolEstimate:
    """The counts of the run's newest pool version, or an estimate from the config's sources if there is none.

    Args:
        named: the config's sources were given by --pool: the plan is for them, also if the run has another pool.
        search: seconds to look for near-duplicates, as of `find_distinct`.
    """
    note = ""
    if is_run(run_path):
        with Run.read(run_path) as run:
            current = rounds.current_pool(run)
            pool = current[1] if current else None
            strange = outside(run, with_labels(run, pool_sources(config), pool)) if pool is not None and named else []
            if pool is not None and not strange:
                return _of_run(run, current[0], pool, config, search)
            if strange:
                note = (
                    f"this plans for --pool alone. {run_path} has another pool, without {_listed(strange)}: a round there would "
                    "refuse it. Start another run (--run), or add it with `pool import`"
                )
    return _sampled(config, (note,) if note else (), search)


def made_from(run: Run, stage: str, role: str, source: Artifact | None) -> Artifact | None:
    """The newest artifact of `stage` with `source` as input `role`."""
    if source is None:
        return None
    found = (a for a in run.published(stage) if a.manifest["inputs"][role] == source.fingerprint)
    return next(found, None)


def pickable(run: Run, version: int, pool: Artifact, config: Config) -> int | None:
    """Examples that the next round can pick of a pool version, by the same stages and the same rule as the round; None if a stage that
    decides it has not run with these settings.

    Raises:
        UserError: the round would stop for the same reason, such as a pool without responses.
    """
    number, session = rounds.next_number(run), Session(run, config, quiet=True)
    try:
        compared = compare(session, version, pool, number)
    except Unpublished:
        return None
    outcome, _ = outcomes(compared, History.recorded(run, SELECTED, number), config.review.forget)
    return int((outcome == CODE["selectable"]).sum())


def newest_about(run: Run, pool: Artifact, stage: str) -> tuple[Artifact, Artifact] | None:
    """The newest artifact of `stage` ("embeddings", "clusters", "projection") that is about a pool version or, where there is none, about
    the newest one that it grew from; with that version. None if there is none."""
    older: Artifact | None = pool
    while older is not None:
        made = made_from(run, "embeddings" if stage == "projection" else stage, "pool", older)
        found = made_from(run, stage, "embeddings", made) if stage == "projection" else made
        if found is not None:
            return found, older
        older = run.find("pool", older.manifest["inputs"].get("previous") or "")
    return None


def added_since(run: Run, pool: Artifact, stage: str) -> int:
    """Examples of a pool version that no artifact of `stage` of it, or of a version that it grew from, is about (`newest_about`)."""
    found = newest_about(run, pool, stage)
    return _examples(pool) - (0 if found is None else _examples(found[1]))


def _examples(pool: Artifact) -> int:
    return int(pool.json("pool.json")["examples"])


def goes_by_groups(run: Run, pool: Artifact, config: Config) -> bool:
    """Whether the default strategy probably goes by sources or kinds of prompt in the next round: what it chose last, else what the newest
    clustering of the pool, or of a version that it grew from, is of. Where there is none, or groups are made again: whether the pool has
    several sources."""
    again, found = config.cluster.recluster, newest_about(run, pool, "clusters")
    over = None if again else chosen_before(run, config, rounds.next_number(run))
    if over is None and found is not None and (found[1] is pool or not again):
        over = spread_over(found[0])
    return (
        enough_sources(len(pool.json("pool.json")["sources"]), _examples(pool)) if over is None else over != "clusters"
    )


def _of_run(run: Run, version: int, pool: Artifact, config: Config, search: float | None) -> PoolEstimate:
    longest = config.tokens.max_length
    tokens, clusters = (made_from(run, stage, "pool", pool) for stage in ("tokens", "clusters"))
    new = {stage: added_since(run, pool, stage) for stage in ("embeddings", "clusters", "projection")}
    if config.cluster.recluster and clusters is None:
        new |= dict.fromkeys(("clusters", "projection"), _examples(pool))
    reader = Pool.open(pool.path)
    size = sum(entry["bytes"] for entry in pool.manifest["files"].values())
    counter = TokenCounter(view_without_hub(config.model).template if tokens is None else None, longest)
    lengths = [] if tokens is None else np.asarray(TokenTable.open(tokens.path).lengths)
    free = pickable(run, version, pool, config)
    mean = _mean_tokens(reader, counter) if tokens is None else float(lengths.mean()) if len(lengths) else 0.0
    return PoolEstimate(
        examples=len(reader),
        labelled=int(pool.json("pool.json")["labelled"]),
        pickable=free,
        distinct=_distinct(reader, config, search) if free is None and rounds.next_number(run) == 1 else None,
        mean_tokens=mean,
        bytes=size,
        new_to_embed=new["embeddings"],
        new_to_map=new["projection"],
        exact=tokens is not None,
        several_sources=goes_by_groups(run, pool, config),
        new=new["clusters"],
        basis="measured: counted"
        if tokens is not None
        else f"examples counted, lengths estimated from a sample{_counted_how(counter)}",
    )


def _distinct(reader: Pool, config: Config, seconds: float | None) -> Distinct:
    """Of an imported pool. Its examples are in the order of hashes of their content, so the first ones are a random sample."""
    rows = np.flatnonzero(reader.labelled)
    some = rows[:MOST_SEARCHED]
    texts, responses = reader.texts(some, part=config.embed.text), reader.texts(some, part="response")
    return find_distinct(texts, responses, len(rows), config, seconds=seconds)


def _listed(labels: list[str]) -> str:
    return ", ".join(labels[:SHOWN]) + (f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else "")


def _mean_tokens(reader: Pool, counter: TokenCounter) -> float:
    """About the mean tokens of the examples of a pool that is not tokenized yet."""
    rows = np.unique(np.linspace(0, len(reader) - 1, min(len(reader), EXAMPLES_MEASURED)).astype(np.int64))
    parts = [reader.messages(rows[start : start + 100]) for start in range(0, len(rows), 100)]
    return sum(map(counter.total, parts)) / max(len(rows), 1)


def _counted_how(counter: TokenCounter) -> str:
    if counter.tokenized:
        return f", tokens counted of {counter.tokenized:,} of them with the model's tokenizer and chat template"
    return ", tokens by the length of texts"


def _sampled(config: Config, notes: tuple[str, ...], search: float | None) -> PoolEstimate:
    view = view_without_hub(config.model)
    counter = TokenCounter(view.template, config.tokens.max_length)
    found = sample_sources(pool_sources(config), config.tokens.max_length, counter, config.embed.text)
    examples = int(found.examples)
    labelled = round(examples * found.labelled / found.rows_read) if found.rows_read else examples
    if found.unknown:
        notes += (
            f"the size of {_listed(found.unknown)} is not known here, and the plan leaves it out; `pool import` counts it",
        )
    if found.assumed:
        notes += (
            f"{TOKENS_ASSUMED} tokens an example are assumed of {_listed(found.assumed)}: the hub gives no sample of it here",
        )
    if found.rows_read and not found.labelled:
        notes += (
            f"none of the {found.rows_read:,} rows that were read has a response, so a round has nothing to train on",
        )
    if 2 * found.numbers > found.rows_read:
        notes += (numbers_asked(found.numbers, found.rows_read),)
    return PoolEstimate(
        examples=examples,
        labelled=labelled,
        distinct=Distinct.unknown(labelled, "the hub gives no rows here")
        if found.unread
        else find_distinct(*found.drawn_texts(), labelled, config, not found.counted, search),
        mean_tokens=found.tokens / max(found.examples, 1.0),
        bytes=int(found.bytes),
        new_to_embed=examples,
        new_to_map=examples,
        exact=False,
        several_sources=enough_sources(len(found.names), found.rows_read or examples),
        new=examples,
        imported=False,
        basis=(
            "estimated: every row read"
            if found.counted
            else "extrapolated from the first rows of each file, and from what is known of hub data sets"
        )
        + _counted_how(counter) * bool(found.rows_read),
        notes=notes,
        first=None if found.first is None else FirstExample.of(found.first, view),
    )
