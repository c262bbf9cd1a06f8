"""What a selection publishes: every example with its outcome, the picked conversations with reasons, the quotas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.lineage.outcomes import CODE, OUTCOMES
from al.lineage.round_state import RoundState
from al.pool.store import Pool
from al.run.artifacts import write_json
from selection.strategy import Quotas, Selection


def write_selection(
    out: Path,
    state: RoundState,
    columns: Mapping[str, np.ndarray],
    scores: Mapping[str, np.ndarray],
    picks: Selection,
    suspicion: np.ndarray,
) -> None:
    """Write `selection.parquet` with every example of the pool, and the files of `write_picked`.

    Args:
        suspicion: (n,) why each example is a suspect of noise, None for the others.
    """
    known, rows = state.pool, state.pool.rows
    n, pool = len(known.keys), state.prepared.open_pool()
    groups = pq.read_table(state.prepared.groups.path / "groups.parquet")
    representative, cosine = groups["representative"].to_numpy(), groups["cosine"].to_numpy()
    outcome = known.outcome.copy()
    outcome[rows] = [CODE[name] for name in picks.outcome]
    picked = rows[picks.picked]
    order = np.full(n, -1, dtype=np.int64)
    order[picked] = np.arange(len(picked))
    why = np.full(n, None, dtype=object)
    why[picked] = picks.step
    stands_for = np.bincount(representative, minlength=n) - 1
    ids = np.asarray(pool.ids)
    table = pa.table(
        {
            "row": np.arange(n),
            "id": ids,
            "source": pool.sources,
            "cluster": known.cluster,
            "tokens": known.tokens,
            "outcome": pa.DictionaryArray.from_arrays(pa.array(outcome.astype(np.int8)), pa.array(OUTCOMES)),
            "pick": order,
            "why": why,
            "suspicion": pa.array(suspicion, type=pa.string()),
            "nll_total": columns["nll_total"],
            **{name: values for name, values in scores.items() if name != "length"},
            "representative": ids[representative],
            "representative_cosine": cosine,
            "stands_for": np.maximum(stands_for, 0),
            "trained_round": known.trained_round,
        }
    )
    pq.write_table(table, out / "selection.parquet")
    write_picked(out, pool, picked, table)


def write_picked(out: Path, pool: Pool, picked: np.ndarray, table: pa.Table) -> None:
    """`picked.npy` and `selection.jsonl` for these pool rows, in pick order; `table` is that of selection.parquet."""
    np.save(out / "picked.npy", pool.keys[picked])
    names = table.column_names
    scores = names[names.index("nll_total") + 1 : names.index("representative")]
    _write_jsonl(out / "selection.jsonl", pool, picked, table, scores)


def _write_jsonl(path: Path, pool: Pool, picked: np.ndarray, table: pa.Table, scores: list[str]) -> None:
    fields = (
        table.select(["id", "source", "cluster", "tokens", *scores, "stands_for", "why"])
        .take(pa.array(picked))
        .to_pylist()
    )
    with path.open("w", encoding="utf-8") as handle:
        for record, messages in zip(fields, pool.messages(picked), strict=True):
            clean = {key: None if value != value else value for key, value in record.items()}
            handle.write(json.dumps({**clean, "messages": messages}, ensure_ascii=False) + "\n")


def write_quotas(out: Path, state: RoundState, quotas: Quotas, picks: Selection) -> None:
    """`quotas.json`: of each cluster its size, losses, quota, picks, and the reason of its quota in words and as a formula."""
    known, names = state.pool, state.clusters.json("clusters.json")["names"]
    rows = known.rows
    k = len(names)
    picked = rows[picks.picked]
    size, free = np.bincount(known.cluster, minlength=k), np.bincount(known.cluster[rows], minlength=k)
    count = np.bincount(known.cluster[picked], minlength=k)
    tokens = np.bincount(known.cluster[picked], weights=known.tokens[picked], minlength=k)
    whole = len(quotas.quota) != len(quotas.loss_mean)  # a picker of the whole pool: no quotas by cluster
    entries = []
    for c in range(k):
        known = c < len(quotas.loss_mean)
        loss, error = (float(quotas.loss_mean[c]), float(quotas.loss_stderr[c])) if known else (np.nan, np.nan)
        entries.append(
            {
                "cluster": c,
                "name": names[c],
                "size": int(size[c]),
                "selectable": int(free[c]),
                "measured": int(quotas.measured[c]) if known else 0,
                "loss": loss if np.isfinite(loss) else None,
                "loss_stderr": error if np.isfinite(error) else None,
                "quota": int(count[c] if whole else quotas.quota[c]) if known else 0,
                "picked": int(count[c]),
                "tokens": int(tokens[c]),
                "reason": quotas.reason[0 if whole else c] if known else "no selectable example",
                "formula": quotas.formula[0 if whole else c] if known else "",
            }
        )
    write_json(out / "quotas.json", entries)
