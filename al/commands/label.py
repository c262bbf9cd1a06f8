"""`label`: the model answers a sample of the unlabelled prompts; those with the highest uncertainty are exported.

    unlabelled prompts ──draw──▶ candidates ──generate, measure──▶ continuations ──choose──▶ labelling/….jsonl
            ▲                                                                                     │
            └─────────────────────── pool import ◀── responses filled in by people ◀──────────────┘

Continuations and choice are stages like those of a round, so a kill loses one shard. docs/labelling.md describes its use.
"""

from __future__ import annotations

import json
import math
import shutil
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.cleaning.stage import leave_out, why_left_out
from al.commands.options import Options
from al.engine.models import Models
from al.errors import DataError
from al.excerpt import counted
from al.planning.needs import require
from al.pool.store import Pool
from al.preparation.clusters import cluster
from al.preparation.embedding import embed
from al.preparation.holdout import hold_out
from al.preparation.near_duplicates import group
from al.preparation.stages import aim, pool_version
from al.preparation.tokens import tokenize
from al.program import PROGRAM
from al.run import rounds
from al.run.artifacts import Artifact, write_json
from al.run.atomic import replaced
from al.run.failpoints import failpoint
from al.run.progress import stop_on_signals
from al.run.rows import rows_digest, split_by_tokens
from al.run.session import Session
from al.run.store import Run
from selection.errors import SelectionError
from selection.holdout import POOL
from selection.sample import stratified_sample
from trainer.errors import DataError as Refused
from trainer.tokens import TokenTable
from trainer.uncertainty import continuation_documents, disagreement

SHARD_TOKENS = 32_768
"""Tokens of the answers of one shard, prompts included, or `generate.batch_tokens` if that is more. A kill loses at most one shard."""
CONTINUATIONS = pa.schema(
    [
        ("row", pa.int64()),
        ("suggestion", pa.string()),
        ("tokens", pa.int64()),
        ("entropy", pa.float64()),
        ("disagreement", pa.float64()),
    ]
)


def label(options: Options, budget: int) -> dict[str, Any]:
    """Export `budget` unlabelled prompts of a run for labelling. Returns counts and the path of the file."""
    config = options.load_config()
    stop_on_signals()
    with Run.create_or_open(options.run_directory()) as run:
        return hand_out(Session(run, config, options.as_json, bool(options.pool)), budget)


def hand_out(session: Session, budget: int) -> dict[str, Any]:
    """As `label`, for an open run. If the pool and the adapter have not changed, it returns the same file.

    Raises:
        DataError: there is no prompt to export; the message has the counts of excluded prompts.
    """
    require(session.config)
    number = rounds.next_number(session.run)
    adapter = rounds.required(session.run, number - 1, "train") if number > 1 else None
    prompts = unlabelled_prompts(session, number)
    rows = draw_candidates(session, prompts, budget, number)
    continuations = continue_prompts(session, prompts, adapter, rows)
    choice = choose_most_unsure(session, prompts, continuations, budget)
    path = session.run.path / "labelling" / f"{budget}-prompts-{choice.fingerprint[:8]}.jsonl"
    written = _write_once(choice.path / "labelling.jsonl", path)
    return {
        "run": str(session.run.path),
        "file": str(path),
        "kept": not written,
        "asked": budget,
        **choice.json("labelling.json"),
        "measured": pq.read_metadata(continuations.path / "continuations.parquet").num_rows,
        "eligible": int(prompts.eligible.sum()),
        "left_out": prompts.left_out,
        "adapter": f"round {number - 1}" if adapter else "base",
    }


@dataclass(frozen=True)
class Prompts:
    """The newest pool version for labelling; arrays are row-aligned to the pool (n,).

    `eligible`: without a response and with no reason for exclusion; `left_out` counts the other examples without a response
    by the first reason. `length` is in tokens.
    """

    pool: Pool
    tokens: Artifact
    clusters: Artifact
    cluster: np.ndarray
    length: np.ndarray
    eligible: np.ndarray
    left_out: dict[str, int]


def unlabelled_prompts(session: Session, number: int) -> Prompts:
    """Run the stages that labelling needs on the newest pool version. Unlike in a round, no example needs a
    response. `number` is the next round."""
    _, artifact = pool_version(session)
    cleaned = leave_out(session, artifact)
    tokens = tokenize(session, artifact)
    embeddings = embed(session, artifact)
    groups = group(session, artifact, tokens, embeddings, cleaned, number)
    split = _hold_out(session, artifact, tokens, embeddings, groups, number, cleaned)
    clusters = cluster(session, artifact, embeddings, number)
    pool, table = Pool.open(artifact.path), TokenTable.open(tokens.path)
    held_out, near_target = np.zeros((2, len(pool)), dtype=bool)
    if split is not None:
        held_out = np.load(split.path / "split.npy") != POOL
        if session.config.target.files:
            near_target[aim(session, artifact, embeddings, split).excluded] = True
    representative = pq.read_table(groups.path / "groups.parquet")["representative"].to_numpy()
    length = np.asarray(table.lengths) + np.asarray(table.dropped)
    room = session.config.tokens.max_length - session.config.generate.max_new_tokens
    checks = (
        ("answered", pool.answered),
        ("refused_by_template", length == 0),
        ("held_out", held_out),
        ("other_language", why_left_out(cleaned, len(pool))["other_language"]),
        ("near_target", near_target),
        ("near_duplicate", representative != np.arange(len(pool))),
        ("too_long", length > room),
    )
    eligible, left_out = ~pool.labelled, {}
    for name, applies in checks:
        left_out[name] = int((eligible & applies).sum())
        eligible = eligible & ~applies
    assigned = pq.read_table(clusters.path / "clusters.parquet", columns=["cluster"])["cluster"].to_numpy()
    return Prompts(pool, tokens, clusters, assigned, length, eligible, left_out)


def _hold_out(
    session: Session,
    pool: Artifact,
    tokens: Artifact,
    embeddings: Artifact,
    groups: Artifact,
    number: int,
    cleaned: Artifact | None,
) -> Artifact | None:
    """The split of round `number`; None before the first round if there are too few responses for a holdout."""
    try:
        return hold_out(session, pool, tokens, embeddings, groups, number, cleaned)
    except SelectionError:
        if number > 1:
            raise
        return None


def draw_candidates(session: Session, prompts: Prompts, budget: int, number: int) -> np.ndarray:
    """Rows to measure: about `label.candidates` × `budget`, spread equally over clusters and drawn by their keys.

    Raises:
        DataError: no prompt is eligible.
    """
    if not prompts.eligible.any():
        raise DataError(
            f"there is no prompt to label: the pool has {counted(sum(prompts.left_out.values()), 'example')} without a response"
            + _left_out(prompts.left_out)
            + f". Add prompts with `{PROGRAM} pool import FILE… --run {session.run.path}`"
            + ", or lower generate.max_new_tokens." * bool(prompts.left_out["too_long"])
        )
    sizes = np.bincount(prompts.cluster[prompts.eligible])
    wanted = min(int(sizes.sum()), math.ceil(session.config.label.candidates * budget))
    per_cluster = 1 + bisect_left(
        range(1, int(sizes.max()) + 1), wanted, key=lambda each: int(np.minimum(sizes, each).sum())
    )
    seed = (session.config.seed, number)
    return stratified_sample(prompts.cluster, prompts.pool.keys, prompts.eligible, per_cluster, seed)


def continue_prompts(session: Session, prompts: Prompts, adapter: Artifact | None, rows: np.ndarray) -> Artifact:
    """Generate answers to the prompts at `rows` with the newest adapter (None: the base), and measure the uncertainty.

    Publishes `continuations.parquet`, one row per prompt: row, suggestion (the greedy answer), tokens of that answer, entropy
    (mean per token, in nats) and disagreement (0 to 1, NaN with fewer than two samples; see `trainer.uncertainty`).
    """
    config = session.config.generate
    params = {
        "model": session.model_params(),
        "generate": config.model_dump(mode="json", exclude={"batch_tokens"}),
        "seed": session.config.seed,
        "rows": rows_digest(rows),
    }

    def build(out: Path, scratch: Path) -> None:
        """Answer the prompts shard by shard, longest first, skipping shards in `scratch`; join them in `continuations.parquet`."""
        answers = (prompts.length + config.max_new_tokens) * (1 + config.samples)
        by_length = rows[np.argsort(-prompts.length[rows], kind="stable")]
        shards = split_by_tokens(
            by_length,
            answers,
            SHARD_TOKENS if config.batch_tokens == "auto" else max(SHARD_TOKENS, config.batch_tokens),
        )
        paths = [scratch / f"{rows_digest(shard)}.parquet" for shard in shards]
        missing = [index for index, path in enumerate(paths) if not path.exists()]
        with session.progress("answer prompts", len(rows), "prompts") as progress:
            progress(len(rows) - sum(len(shards[index]) for index in missing))
            work = partial(_continuing, prompts.pool.path, session.adapter_path(adapter))
            for number, table in session.map(work, [shards[index] for index in missing], progress):
                with replaced(paths[missing[number]]) as temporary:
                    pq.write_table(table, temporary)
                failpoint("label.shard")
        pq.write_table(pa.concat_tables([pq.read_table(path) for path in paths]), out / "continuations.parquet")

    return session.run.stage(
        "continuations",
        version=1,
        params=params,
        build=build,
        label="answer prompts",
        inputs={"tokens": prompts.tokens, "adapter": adapter},
    )


@contextmanager
def _continuing(
    pool: Path, adapter: Path | None, models: Models
) -> Iterator[Callable[[np.ndarray, Callable[[int], None]], pa.Table]]:
    reader = Pool.open(pool)
    with models.adapter(adapter) as model:
        yield lambda rows, progress: _continue(models, model, reader, rows, progress)


def _continue(models: Models, model: Any, pool: Pool, rows: np.ndarray, progress: Callable[[int], None]) -> pa.Table:
    """Continuations of one shard, without prompts that the template refuses once they have a response."""
    from trainer.generate import generate
    from trainer.measure import measure

    template, config = models.template, models.config
    found = template.prompt_ids_batch(pool.messages(rows))
    usable = [i for i, ids in enumerate(found) if not isinstance(ids, Refused)]
    progress(len(found) - len(usable))
    ids, ends = [found[i] for i in usable], template.end_ids
    answers = generate(model, ids, config.generate, end_ids=ends, seed=config.seed, progress=progress)
    greedy = [of_prompt[0] for of_prompt in answers]
    documents = continuation_documents(ids, greedy, ends)
    measured = measure(model, documents, np.arange(len(ids)), batch_tokens=config.measure.batch_tokens)
    columns = [
        rows[usable],
        [models.tokenizer.decode(answer.tolist(), skip_special_tokens=True).strip() for answer in greedy],
        measured.targets,
        measured.entropy_mean,
        [disagreement(of_prompt[1:], ends) for of_prompt in answers],
    ]
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, CONTINUATIONS, strict=True)], CONTINUATIONS
    )


def choose_most_unsure(session: Session, prompts: Prompts, continuations: Artifact, budget: int) -> Artifact:
    """Choose `budget` of the measured prompts, or all if there are fewer.

    Publishes `labelling.jsonl`, the prompts in order of choice with an empty `response` to fill in, and `labelling.json`.
    """

    def build(out: Path, scratch: Path) -> None:
        """Rank the prompts and write `labelling.jsonl` and `labelling.json`."""
        measured = pq.read_table(continuations.path / "continuations.parquet")
        rows, entropy, disagreement = (measured[name].to_numpy() for name in ("row", "entropy", "disagreement"))
        order = Order.of(prompts.cluster[rows], prompts.pool.keys[rows], entropy, disagreement)
        chosen = order.taken(budget)
        with (out / "labelling.jsonl").open("w", encoding="utf-8") as handle:
            for record in _records(prompts, measured, order, chosen):
                handle.write(json.dumps(record, ensure_ascii=False) + "\n")
        clusters = len(np.unique(order.cluster[chosen]))
        write_json(out / "labelling.json", {"prompts": len(chosen), "clusters": clusters})

    return session.run.stage(
        "labelling",
        version=1,
        inputs={"continuations": continuations, "clusters": prompts.clusters},
        params={"budget": budget},
        build=build,
        label="choose prompts",
    )


def _records(prompts: Prompts, measured: pa.Table, order: Order, chosen: np.ndarray) -> Iterator[dict[str, Any]]:
    """Rows of the exported file; `al.pool.formats` reads them back."""
    names = prompts.clusters.json("clusters.json")["names"]
    found = measured.take(pa.array(chosen))
    rows = found["row"].to_numpy()
    messages, metadata = prompts.pool.messages(rows), prompts.pool.metadata(rows)
    for i, conversation, known, record in zip(chosen.tolist(), messages, metadata, found.to_pylist(), strict=True):
        c, disagreement = int(order.cluster[i]), record["disagreement"]
        ours = {
            "id": str(prompts.pool.ids[record["row"]]),
            "source": str(prompts.pool.sources[record["row"]]),
            "messages": conversation,
            "response": "",
            "suggestion": record["suggestion"],
            "entropy": round(record["entropy"], 4),
            "disagreement": None if math.isnan(disagreement) else round(disagreement, 4),
            "cluster": c,
            "reason": order.reason(i, names[c]),
        }
        yield ours | {name: value for name, value in known.items() if name not in ours}


@dataclass(frozen=True)
class Order:
    """Measured prompts ranked by uncertainty; arrays (m,).

    `by_entropy` and `by_disagreement`: ranks, 1 is the highest, ties get their mean; the latter is NaN without samples. `place`:
    rank inside the cluster by the mean of both.
    """

    cluster: np.ndarray
    by_entropy: np.ndarray
    by_disagreement: np.ndarray
    place: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, cluster: np.ndarray, keys: np.ndarray, entropy: np.ndarray, disagreement: np.ndarray) -> Order:
        """Rank the prompts. Ties are broken by key, so the order of rows does not matter."""
        from scipy.stats import rankdata

        by_entropy, by_disagreement = (rankdata(-values, nan_policy="omit") for values in (entropy, disagreement))
        mean = np.where(np.isnan(by_disagreement), by_entropy, (by_entropy + by_disagreement) / 2)
        inside = np.lexsort((keys, mean, cluster))
        size = np.bincount(cluster)
        place = np.empty(len(cluster), dtype=np.int64)
        place[inside] = np.arange(len(cluster)) - (np.cumsum(size) - size)[cluster[inside]] + 1
        return cls(cluster, by_entropy, by_disagreement, place, np.lexsort((keys, mean, place)))

    def taken(self, budget: int) -> np.ndarray:
        """The first `budget` prompts, with clusters in turn: the most uncertain prompt of each, then the second of each, …"""
        return self.order[:budget]

    def reason(self, i: int, name: str) -> str:
        """The reason for the position of prompt `i`, in the cluster `name`."""
        c, m = int(self.cluster[i]), len(self.cluster)
        ranks = f"entropy {self.by_entropy[i]:g}"
        if not np.isnan(self.by_disagreement[i]):
            ranks += f", disagreement {self.by_disagreement[i]:g}"
        size = int((self.cluster == c).sum())
        return f"number {self.place[i]} of {size} measured in group {c} ({name}); ranks among all {m}: {ranks}"


def _write_once(source: Path, target: Path) -> bool:
    """Copy a file into the folder that people edit, unless it exists there. Returns whether it was copied."""
    if target.exists():
        return False
    target.parent.mkdir(exist_ok=True)
    with replaced(target) as temporary:
        shutil.copyfile(source, temporary)
    return True


def _left_out(counts: Mapping[str, int]) -> str:
    """Counts of excluded prompts in parentheses; "" if there are none."""
    known = [f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items() if count]
    return f" (excluded: {', '.join(known)})" if known else ""


def describe_labelling(document: dict[str, Any]) -> str:
    """The text of a finished `label` for the terminal."""
    lines = [
        f"{counted(document['prompts'], 'prompt')} of {counted(document['clusters'], 'group')} to label, of {document['measured']:,} "
        f"measured with "
        f"{'the base model' if document['adapter'] == 'base' else 'the adapter of ' + document['adapter']} "
        f"and {document['eligible']:,} without a response" + _left_out(document["left_out"]),
        f"  {document['file']}" + (" (exists already; not changed)" if document["kept"] else ""),
        "  fill in `response` in each row; `suggestion` is the model's own answer. Then:",
        f"  {PROGRAM} pool import {document['file']} --run {document['run']}",
    ]
    if document["prompts"] < document["asked"]:
        lines.insert(1, f"  {document['asked']:,} were asked for; no more are available")
    return "\n".join(lines)
