"""A proposal under review without a round behind it: a real pool, a real selection from it, and the desk that a page shows."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.lineage.outcomes import CODE, OUTCOMES
from al.pool.importer import import_pool
from al.pool.sources import make_sources
from al.pool.store import Pool
from al.review.apply import Proposed
from al.review.desk import Desk
from al.run.artifacts import Artifact
from al.run.store import Run
from selection.config import SelectConfig
from selection.review import propose
from selection.strategy import Budget, Candidates, allocate, select

SEED, PROPOSAL = (5, 1), "0123456789abcdef0123"


def write_pool(folder: Path, texts: list[str], count: int = 60) -> Pool:
    """`count` examples in three sources, the `texts` among them, three prompts without a response, and one long example."""
    rows = []
    for i in range(count):
        text = texts[i % len(texts)] if texts else ""
        said = [
            {"role": "user", "content": f"question {i} {text}"},
            {"role": "assistant", "content": f"answer {i} {text}"},
        ]
        rows.append({"messages": said, "source": f"source {i % 3}"})
    rows[0]["messages"][1]["content"] += " and on" * 200
    rows += [{"messages": [{"role": "user", "content": f"nobody answered {i}"}], "source": "asked"} for i in range(3)]
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = folder / "pool"
    out.mkdir()
    import_pool(make_sources([str(folder / "rows.jsonl")]), out)
    return Pool.open(out)


def make_proposed(root: Path, texts: list[str] = (), names: list[str] = (), budget: int = 12) -> Proposed:
    """A proposal of `budget` examples out of three clusters, whose names may be given."""
    pool = write_pool(root / "pool", list(texts))
    n, labelled = len(pool), np.flatnonzero(pool.labelled)
    cluster = (np.arange(n) % 3).astype(np.int32)
    tokens = np.full(n, 40, dtype=np.int32)
    rng = np.random.default_rng(2)
    nll = np.where(rng.random(n) < 0.5, rng.gamma(4, 0.5, n), np.nan)
    chooser = Candidates(pool.keys[labelled], cluster[labelled], tokens[labelled], nll[labelled], nll[labelled])
    config, amount = SelectConfig(strategy="uniform"), Budget("examples", budget)
    quotas = allocate(chooser, amount, config, SEED)
    picks = select(chooser, quotas, amount, config, SEED)
    artifact = _publish(root / "selection", pool, cluster, tokens, nll, labelled, picks, quotas, names)
    Run.create_or_open(root / "run").close()
    state = SimpleNamespace(
        pool=SimpleNamespace(rows=labelled),
        budget=amount,
        number=1,
        select=config,
        session=SimpleNamespace(run=SimpleNamespace(path=root / "run")),
        prepared=SimpleNamespace(open_pool=lambda: pool),
    )
    proposed = Proposed(SimpleNamespace(state=state), artifact)
    proposed.__dict__["terms"] = propose(chooser, quotas, amount, config, SEED, picks)
    return proposed


def make_desk(root: Path, texts: list[str] = (), names: list[str] = (), resume: str | None = None) -> Desk:
    """The desk of `make_proposed`; its draft is in `root`/review."""
    return Desk(make_proposed(root, texts, names), root / "review", resume)


def _publish(path, pool, cluster, tokens, nll, labelled, picks, quotas, names) -> Artifact:
    n = len(pool)
    outcome = np.full(n, CODE["unlabelled"], dtype=np.int8)
    outcome[labelled] = [CODE[name] for name in picks.outcome]
    order, why = np.full(n, -1), np.full(n, None, dtype=object)
    picked = labelled[picks.picked]
    order[picked], why[picked] = np.arange(len(picked)), picks.step
    path.mkdir()
    table = {
        "row": np.arange(n),
        "id": pool.ids,
        "source": pool.sources,
        "cluster": cluster,
        "tokens": tokens,
        "outcome": pa.DictionaryArray.from_arrays(pa.array(outcome), pa.array(OUTCOMES)),
        "pick": order,
        "why": pa.array(why, type=pa.string()),
        "suspicion": pa.nulls(n, pa.string()),
        "nll_total": nll,
        "nll": nll,
        "representative": pool.ids,
        "representative_cosine": np.ones(n),
        "stands_for": np.zeros(n, dtype=int),
        "trained_round": np.zeros(n, dtype=int),
    }
    pq.write_table(pa.table(table), path / "selection.parquet")
    entries = [
        {
            "cluster": c,
            "name": names[c] if c < len(names) else f"kind {c}",
            "size": int((cluster == c).sum()),
            "selectable": int((cluster[labelled] == c).sum()),
            "quota": int(quotas.quota[c]),
            "picked": int((cluster[picked] == c).sum()),
            "tokens": 40 * int((cluster[picked] == c).sum()),
            "reason": quotas.reason[c],
        }
        for c in range(3)
    ]
    (path / "quotas.json").write_text(json.dumps(entries))
    budget = {"unit": "examples", "amount": len(picked)}
    return Artifact("selection", PROPOSAL, path, {"params": {"budget": budget}, "files": {}})
