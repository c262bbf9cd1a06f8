"""Recall and precision of suspected noise on pools with planted noise, and the suspected share of clean pools.

    python benchmarks/noise_detection.py measure --pool POOLS/evals-noisy --model DIR --embedder DIR --work DIR --out FILE.npz
    python benchmarks/noise_detection.py judge FILE.npz ... --out benchmarks/results/noise_detection.json

`measure` needs a GPU. It trains adapters on 1,000 and on 4,000 examples of a pool of benchmarks/study_pools.py, with clusters in turn,
and measures the other examples, and all examples with the base model, with and without prompts. `judge` runs anywhere.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

TRAINED = (0, 1000, 4000)
SAMPLES = ("all", "a twentieth", "two of each cluster")
DRAWS = 5


def measure(arguments: argparse.Namespace) -> None:
    """NLL of every response with and without its prompt, its cluster, and whether it is planted."""
    import pyarrow.parquet as pq

    from al.config import parse
    from al.lineage.history import SELECTED
    from al.preparation.embedding import embed
    from al.preparation.pool_state import load_embeddings, trainable
    from al.preparation.stages import Tokenized, pool_version
    from al.preparation.tokens import tokenize
    from al.round import train as stages
    from al.run.session import Session
    from al.run.store import Run
    from al.scoring.stage import score
    from selection.cluster import cluster
    from selection.config import ClusterConfig
    from selection.randomness import keyed_draw

    name = arguments.pool.name
    values = {
        "pool": {"files": [str(arguments.pool / "pool.jsonl")]},
        "tokens": {"max_length": 768},
        "model": {"name": str(arguments.model), "device": arguments.device},
        "lora": {"r": 32, "alpha": 64},
        "embed": {"model": str(arguments.embedder), "device": arguments.device, "batch_tokens": 65536},
        "train": {
            "learning_rate": 1e-3 if name.startswith(("evals", "chat")) else 2e-3,
            "epochs": 1,
            "pack_length": 768,
            "packs_per_step": 5,
            "packs_per_batch": 5,
            "neftune_alpha": 5,
        },
        "measure": {"batch_tokens": arguments.batch_tokens},
        "score": {"also": ["ifd"]},
    }
    session = Session(Run.create_or_open(arguments.work), parse(values, name), quiet=True)
    version, pool = pool_version(session)
    tokens = tokenize(session, pool)
    data = Tokenized(version, pool, tokens, pool)
    usable = np.flatnonzero(trainable(pool, tokens))
    clusters = cluster(load_embeddings(embed(session, pool)), ClusterConfig(iterations=10), 0).assignment
    keys, marks = data.open_pool().keys, data.open_pool().metadata(np.arange(len(clusters)))
    draw = keyed_draw(keys, 0, 1)
    order = usable[np.lexsort((draw[usable], _turn(clusters[usable], draw[usable])))]
    found: dict[str, Any] = {"planted": np.array([bool(entry.get("planted")) for entry in marks]), "cluster": clusters}
    for count in TRAINED:
        adapter = None
        if count:
            packs = stages.plan_packs(session, data, np.sort(order[:count]), SELECTED)
            adapter = stages.train(session, data, packs, None, count, SELECTED)
        scored = score(session, tokens, adapter, np.sort(order[count:]), count or 1, f"score after {count:,}")
        table = pq.read_table(scored.path / "statistics.parquet")
        for column, statistic in (("with", "nll_mean"), ("without", "nll_unprompted_mean")):
            total = np.full(len(clusters), np.nan, dtype=np.float32)
            total[table["row"].to_numpy()] = table[statistic].to_numpy() * table["targets"].to_numpy()
            found[f"{column}_{count}"] = total
        np.savez_compressed(arguments.out, **found)
        print(f"{name}: measured after {count:,}", flush=True)


def _turn(cluster: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """(n,) rank of each example inside its cluster by its draw."""
    order = np.lexsort((draw, cluster))
    first = np.r_[0, np.flatnonzero(np.diff(cluster[order])) + 1]
    turn = np.empty(len(order), dtype=np.int64)
    turn[order] = np.arange(len(order)) - np.repeat(first, np.diff(np.r_[first, len(order)]))
    return turn


def judge(arguments: argparse.Namespace) -> None:
    """Precision, recall and false suspicions, for full and sampled measurement."""
    rows = []
    for path in arguments.files:
        with np.load(path) as stored:
            pool = {name: stored[name] for name in stored.files}
        for count in TRAINED:
            for sample in SAMPLES:
                draws = [_judged(pool, count, sample, seed) for seed in range(1 if sample == "all" else DRAWS)]
                totals = {key: float(np.sum([draw[key] for draw in draws])) for key in draws[0]}
                rows.append({"pool": path.stem, "trained": count, "sample": sample, **_rates(totals, len(draws))})
                print(rows[-1], flush=True)
    record = {
        "command": "python benchmarks/noise_detection.py judge FILES --out benchmarks/results/noise_detection.json",
        "date": datetime.date.today().isoformat(),
        "device": arguments.device,
        "versions": {"torch": arguments.torch, "transformers": arguments.transformers},
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


def _judged(pool: dict[str, np.ndarray], count: int, sample: str, seed: int) -> dict[str, int]:
    from selection.noise import suspected_noise

    known = np.flatnonzero(np.isfinite(pool[f"with_{count}"]))
    draw, cluster = np.random.default_rng(seed).random(len(known)), pool["cluster"]
    if sample == "a twentieth":
        known = known[draw < 0.05]
    elif sample == "two of each cluster":
        known = known[_turn(cluster[known], draw) < 2]
    found = suspected_noise(pool[f"with_{count}"][known], pool[f"without_{count}"][known], [cluster[known]])
    planted = pool["planted"][known]
    return {
        "measured": len(known),
        "planted": int(planted.sum()),
        "suspects": int(found.suspect.sum()),
        "right": int((found.suspect & planted).sum()),
    }


def _rates(totals: dict[str, float], draws: int) -> dict[str, Any]:
    wrong, clean = totals["suspects"] - totals["right"], totals["measured"] - totals["planted"]
    noisy = totals["planted"] > 0
    return {
        "measured": round(totals["measured"] / draws),
        "planted": round(totals["planted"] / draws),
        "recall": round(totals["right"] / totals["planted"], 4) if noisy else None,
        "precision": round(totals["right"] / max(totals["suspects"], 1), 4) if noisy else None,
        "false": round(wrong / max(clean, 1), 4),
    }


def main() -> None:
    """Run `measure` or `judge`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measuring = commands.add_parser("measure")
    for name in ("pool", "model", "embedder", "work", "out"):
        measuring.add_argument(f"--{name}", type=Path, required=True)
    measuring.add_argument("--device", default="cuda")
    measuring.add_argument("--batch-tokens", type=int, default=32768)
    measuring.set_defaults(run=measure)
    judging = commands.add_parser("judge")
    judging.add_argument("files", nargs="+", type=Path)
    judging.add_argument("--out", type=Path, required=True)
    judging.add_argument("--device", default="NVIDIA H100 80GB HBM3", help="what the losses were measured on")
    judging.add_argument("--torch", default="2.11.0+cu130")
    judging.add_argument("--transformers", default="5.17.0")
    judging.set_defaults(run=judge)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
