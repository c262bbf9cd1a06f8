"""What a model makes of the holdout: one stage per model, and the comparison of stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.artifacts import Artifact
from al.metrics import METRICS, Measured, metrics, paired_bootstrap
from al.pool.store import Pool
from al.prepare import Tokenized, held_out
from al.session import Session

LONGEST_GROUP_NAME = 80
COLUMNS = ("nll", "targets", "correct", "nll_no_end", "targets_no_end", "correct_no_end")


def evaluate(session: Session, prepared: Tokenized, adapter: Artifact | None, label: str) -> Artifact:
    """Measure base (adapter None) or base + adapter on dev and test: `examples.parquet`, one row per held-out example."""
    params = {"model": session.model_params(), "alternatives": session.config.evaluate.alternatives}

    def build(out: Path, scratch: Path) -> None:
        from trainer.measure import measure
        from trainer.tokens import TokenTable

        split = np.load(prepared.split.path / "split.npy")
        rows = held_out(split)
        tokens = TokenTable.open(prepared.tokens.path)
        pool = prepared.open_pool()
        other, owner = _alternative_tokens(session, prepared, rows)
        total = len(rows) + (len(other) if other is not None else 0)
        with (
            session.base.adapter(adapter.path / "adapter" if adapter else None) as model,
            session.progress(label, total, "examples") as progress,
        ):
            batch_tokens = session.config.measure.batch_tokens
            first = measure(model, tokens, rows, batch_tokens=batch_tokens, progress=progress)
            columns = _columns(first)
            if other is not None:
                rest = measure(model, other, np.arange(len(other)), batch_tokens=batch_tokens, progress=progress)
                for name, values in (("correct", rest.correct), ("correct_no_end", rest.correct_no_end)):
                    np.logical_or.at(columns[name], owner, np.asarray(values, dtype=bool))
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


def _columns(statistics: Any) -> dict[str, np.ndarray]:
    return {
        "nll": statistics.nll_total,
        "targets": statistics.targets,
        "correct": np.array(statistics.correct),
        "nll_no_end": statistics.nll_total_no_end,
        "targets_no_end": statistics.targets_no_end,
        "correct_no_end": np.array(statistics.correct_no_end),
    }


def _alternative_tokens(session: Session, prepared: Tokenized, rows: np.ndarray) -> tuple[Any, np.ndarray]:
    """Token table of the other accepted answers of `rows` (None if there are none), and the position in `rows` each belongs to."""
    from trainer.tokens import TokenTable

    limit, longest = session.config.evaluate.alternatives, session.config.tokens.max_length
    pool = prepared.open_pool()
    built, owner = [], []
    for position, answers in enumerate(pool.alternatives(rows)):
        if not answers or not limit:
            continue
        (messages,) = pool.messages(rows[position : position + 1])
        for answer in answers[:limit]:
            tokenized = session.template.tokenize([*messages[:-1], {"role": "assistant", "content": answer}])
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


def compare(
    evaluations: dict[str, Artifact], split: int, resamples: int, seed: int, pool: Pool | None = None
) -> dict[str, Any]:
    """Metrics of every model on a split, and the differences of "selected" to each other one with intervals.

    Args:
        pool: the pool that was evaluated; with it, results are told by group as well where examples have one.

    Returns:
        {"examples", "sources", "models": {name: {metric: value}}, "differences": {"selected - base": {metric: {...}}},
        "by_source": [...], "by_group": [...] where there are any}.
    """
    loaded = {name: load_measured(artifact, split) for name, artifact in evaluations.items()}
    any_measured = next(iter(loaded.values()))[0]
    models = {name: {metric: float(metrics(m)[metric][0]) for metric in METRICS} for name, (m, _) in loaded.items()}
    selected = loaded.get("selected")
    differences = {}
    for name, (measured, _) in loaded.items():
        if selected is not None and name != "selected":
            differences[f"selected - {name}"] = paired_bootstrap(selected[0], measured, resamples, seed)
    return {
        "examples": len(any_measured.nll),
        "sources": int(any_measured.source.max()) + 1,
        "models": models,
        "differences": differences,
        "by_source": _by(loaded, "source", next(iter(loaded.values()))[1]["source"].to_pylist()),
        **_by_group(loaded, pool),
    }


def _by_group(loaded: dict[str, tuple[Measured, pa.Table]], pool: Pool | None) -> dict[str, Any]:
    """{"by_group": [...]} over the examples whose metadata name a `group` (presets do); {} where none does."""
    if pool is None:
        return {}
    rows = next(iter(loaded.values()))[1]["row"].to_numpy()
    groups = [str(metadata.get("group") or "")[:LONGEST_GROUP_NAME] for metadata in pool.metadata(rows)]
    found = [row for row in _by(loaded, "group", groups) if row["group"]]
    return {"by_group": found} if found else {}


def _by(loaded: dict[str, tuple[Measured, pa.Table]], key: str, labels: list[str]) -> list[dict[str, Any]]:
    """One row per distinct label; `labels` has one per measured example, in the order of the tables."""
    names, codes = np.unique(np.array(labels, dtype=str), return_inverse=True)
    rows = []
    for code, label in enumerate(names):
        row: dict[str, Any] = {key: str(label)}
        for name, (measured, _) in loaded.items():
            mine = codes == code
            row["examples"] = int(mine.sum())
            row[f"{name}_nll"] = float(measured.nll[mine].sum() / max(measured.targets[mine].sum(), 1))
            row[f"{name}_em"] = float(measured.correct[mine].mean())
        rows.append(row)
    return rows
