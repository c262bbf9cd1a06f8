"""What a model makes of the holdout: one stage per model, and the comparison of stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.engine.models import Models
from al.evaluation.bootstrap import paired_differences
from al.evaluation.breakdown import by_group, by_source, changed_answers
from al.evaluation.metrics import METRICS, Measured, metrics
from al.pool.store import Pool
from al.preparation.holdout import held_out
from al.preparation.stages import Tokenized
from al.run.artifacts import Artifact
from al.run.session import Session
from al.run.shards import Arrays, finish_shards, read_columns, token_shards
from trainer.tokens import TokenTable

COLUMNS = ("nll", "targets", "correct", "nll_no_end", "targets_no_end", "correct_no_end")


def evaluate(session: Session, prepared: Tokenized, adapter: Artifact | None, label: str) -> Artifact:
    """Measure base (adapter None) or base + adapter on dev and test: `examples.parquet`, one row per held-out example."""
    params = {"model": session.model_params(), "alternatives": session.config.evaluate.alternatives}

    def build(out: Path, scratch: Path) -> None:
        """Write the measurements of dev and test."""
        split = np.load(prepared.split.path / "split.npy")
        rows = held_out(split)
        pool = prepared.open_pool()
        work = partial(_measure, prepared.pool.path, prepared.tokens.path, session.adapter_path(adapter))
        shards = token_shards(session, rows, np.asarray(TokenTable.open(prepared.tokens.path).lengths))
        with session.progress(label, len(rows), "examples") as progress:
            columns = read_columns(
                finish_shards(session, "evaluate", work, shards, scratch, progress, point="evaluate.shard")
            )
        columns = columns or {name: np.empty(0) for name in COLUMNS}
        table = {"row": rows, "id": pool.ids[rows], "source": pool.sources[rows], "split": split[rows], **columns}
        pq.write_table(pa.table(table), out / "examples.parquet")

    return session.run.stage(
        "evaluate",
        version=1,
        params=params,
        build=build,
        label=label,
        inputs={"split": prepared.split, "tokens": prepared.tokens, "adapter": adapter},
    )


@contextmanager
def _measure(
    pool: Path, tokens: Path, adapter: Path | None, models: Models
) -> Iterator[Callable[[np.ndarray, Callable[[int], None]], Arrays]]:
    from trainer.measure import measure

    reader, table = Pool.open(pool), TokenTable.open(tokens)
    batch_tokens = models.config.measure.batch_tokens
    with models.adapter(adapter) as model:

        def run(rows: np.ndarray, progress: Callable[[int], None]) -> Arrays:
            """COLUMNS of `rows`; right is an example of which any accepted answer is."""
            found = _columns(measure(model, table, rows, batch_tokens=batch_tokens, progress=progress))
            other, owner = _alternative_tokens(models, reader, rows)
            if other is not None:
                rest = measure(
                    model, other, np.arange(len(other)), batch_tokens=batch_tokens, progress=lambda rows: progress(0)
                )
                for name, values in (("correct", rest.correct), ("correct_no_end", rest.correct_no_end)):
                    np.logical_or.at(found[name], owner, np.asarray(values, dtype=bool))
            return found

        yield run


def _columns(statistics: Any) -> Arrays:
    return {
        "nll": statistics.nll_total,
        "targets": statistics.targets,
        "correct": np.array(statistics.correct),
        "nll_no_end": statistics.nll_total_no_end,
        "targets_no_end": statistics.targets_no_end,
        "correct_no_end": np.array(statistics.correct_no_end),
    }


def _alternative_tokens(models: Models, pool: Pool, rows: np.ndarray) -> tuple[Any, np.ndarray]:
    """Token table of the other accepted answers of `rows` (None if there are none), and the position in `rows` each belongs to."""
    limit, longest = models.config.evaluate.alternatives, models.config.tokens.max_length
    built, owner = [], []
    for position, answers in enumerate(pool.alternatives(rows)):
        if not answers or not limit:
            continue
        (messages,) = pool.messages(rows[position : position + 1])
        for answer in answers[:limit]:
            tokenized = models.template.tokenize([*messages[:-1], {"role": "assistant", "content": answer}])
            if len(tokenized.ids) <= longest:
                built.append(tokenized)
                owner.append(position)
    return (TokenTable.build(built) if built else None), np.array(owner, dtype=np.int64)


def load_measured(artifact: Artifact, split: int) -> tuple[Measured, pa.Table]:
    """The results of one evaluation on one split (DEV or TEST), and the table they came from."""
    table = pq.read_table(artifact.path / "examples.parquet", filters=[("split", "=", split)])
    _, codes = np.unique(table["source"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    arrays = {name: table[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in COLUMNS}
    return Measured(**arrays, source=codes), table


def compare_models(
    evaluations: Mapping[str, Artifact], split: int, resamples: int, seed: int, groups: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Metrics of every model on a split, and the differences of "selected" to each other one with intervals.

    Args:
        groups: {source: task group}, for the same by group.

    Returns:
        {"examples", "sources", "models": {name: {metric: value}}, "differences": {"selected - base": {metric: {...}}}, "by_source",
        "by_group": lists as `al.evaluation.breakdown` makes them, "changed": {other: what was forgotten and learned since}}.
    """
    loaded = {name: load_measured(artifact, split) for name, artifact in evaluations.items()}
    measured = {name: found for name, (found, _) in loaded.items()}
    any_measured, table = next(iter(loaded.values()))
    if not len(any_measured.nll):
        empty: dict[str, Any] = {"models": {}, "differences": {}, "by_source": [], "by_group": [], "changed": {}}
        return {"examples": 0, "sources": 0, **empty}
    names = np.unique(table["source"].to_numpy(zero_copy_only=False).astype(str)).tolist()
    selected = measured.get("selected")
    others = {} if selected is None else {name: found for name, found in measured.items() if name != "selected"}
    against = {name: paired_differences(selected, other, resamples, seed) for name, other in others.items()}
    return {
        "examples": len(any_measured.nll),
        "sources": len(names),
        "models": {name: {metric: float(metrics(m)[metric][0]) for metric in METRICS} for name, m in measured.items()},
        "differences": {f"selected - {name}": found.intervals() for name, found in against.items()},
        "by_source": by_source(names, measured, against),
        "by_group": by_group(names, measured, against, groups or {}),
        "changed": {name: changed_answers(others[name], selected) for name in ("base", "previous") if name in others},
    }
