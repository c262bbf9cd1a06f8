"""How much of planted noise is suspected, and how much of what is suspected is noise.

    python benchmarks/noise_detection.py measure --pool POOLS/evals-noisy/pool.jsonl --model DIR --embedder DIR --work DIR --losses FILE.npz
    python benchmarks/noise_detection.py judge --noisy FILE.npz --clean FILE.npz --out benchmarks/results/noise_detection.json

`measure` needs a GPU: it trains adapters on 1,000 and on 4,000 random examples of a pool of benchmarks/study_pools.py, measures the whole
pool with each and with the base model, and embeds its prompts. `judge` runs anywhere.
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

TRAINED = (1000, 4000)
SHARES, DRAWS = (1.0, 0.1, 0.05), 3


def measure(arguments: argparse.Namespace) -> None:
    """Losses of every example under base and adapters, its prompt's vector, and whether it is planted."""
    import pyarrow.parquet as pq

    from al import stages
    from al.config import parse
    from al.lineage import SELECTED
    from al.pool_state import load_embeddings, trainable
    from al.prepare import Tokenized, embed, pool_version, tokenize
    from al.scoring import score
    from al.session import Session
    from al.store import Run

    values = {
        "pool": {"files": [str(arguments.pool)]},
        "tokens": {"max_length": 768},
        "model": {"name": str(arguments.model)},
        "lora": {"r": 32, "alpha": 64},
        "embed": {"model": str(arguments.embedder), "text": "prompt", "batch_tokens": 65536},
        "train": {"learning_rate": 1e-3, "epochs": 1, "pack_length": 1024, "packs_per_step": 4, "packs_per_batch": 4},
        "measure": {"batch_tokens": 32768},
    }
    session = Session(Run.create_or_open(arguments.work), parse(values, "noise"))
    version, pool = pool_version(session)
    tokens = tokenize(session, pool)
    data = Tokenized(version, pool, tokens, pool)
    usable = np.flatnonzero(trainable(pool, tokens))
    order = np.random.default_rng(0).permutation(usable)
    found: dict[str, Any] = {}
    for name, count in (("base", 0), *((f"a{count}", count) for count in TRAINED)):
        adapter = None
        if count:
            packs = stages.pack(session, data, np.sort(order[:count]), SELECTED)
            adapter = stages.train(session, data, packs, None, count, SELECTED)
        scored = score(session, tokens, adapter, usable, count or 1, f"score with {name}")
        table = pq.read_table(scored.path / "statistics.parquet")
        losses = np.full(len(data.open_pool()), np.nan, dtype=np.float16)
        losses[table["row"].to_numpy()] = table["nll_mean"].to_numpy()
        found[f"{name}_nll_mean"] = losses
    marks = data.open_pool().metadata(np.arange(len(data.open_pool())))
    planted = np.array([bool(entry.get("planted")) for entry in marks])
    np.savez_compressed(arguments.losses, planted=planted, prompts=load_embeddings(embed(session, pool)), **found)


def judge(arguments: argparse.Namespace) -> None:
    """Precision and recall on the noisy pool, and what is suspected on the clean one, for whole and sampled measurement."""
    noisy, clean = np.load(arguments.noisy), np.load(arguments.clean)
    rows = []
    for adapter in ("base", *(f"a{count}" for count in TRAINED)):
        for share in SHARES:
            draws = [_judged(noisy, clean, adapter, share, seed) for seed in range(DRAWS if share < 1 else 1)]
            row = {key: round(float(np.mean([draw[key] for draw in draws])), 4) for key in draws[0]}
            rows.append({"adapter": adapter, "measured": share, **row})
            print(rows[-1], flush=True)
    record = {
        "command": "python benchmarks/noise_detection.py judge --noisy FILE --clean FILE --out benchmarks/results/noise_detection.json",
        "date": datetime.date.today().isoformat(),
        "device": arguments.device,
        "versions": {"numpy": np.__version__},
        "examples": len(noisy["planted"]),
        "planted": round(float(noisy["planted"].mean()), 4),
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


def _judged(noisy: Any, clean: Any, adapter: str, share: float, seed: int) -> dict[str, float]:
    from selection.noise import suspected_noise

    found = []
    for pool in (noisy, clean):
        losses = pool[f"{adapter}_nll_mean"].astype(np.float64)
        drawn = np.random.default_rng(seed).random(len(losses)) < share
        rows = np.flatnonzero(drawn & np.isfinite(losses))
        found.append((suspected_noise(pool["prompts"][rows], losses[rows]).suspect, pool["planted"][rows]))
    (suspect, planted), (false, _) = found
    right = (suspect & planted).sum()
    return {
        "precision": right / max(suspect.sum(), 1),
        "recall": right / planted.sum(),
        "suspected_of_clean": false.mean(),
    }


def main() -> None:
    """Measure or judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measuring = commands.add_parser("measure")
    for name in ("pool", "model", "embedder", "work", "losses"):
        measuring.add_argument(f"--{name}", type=Path, required=True)
    measuring.set_defaults(run=measure)
    judging = commands.add_parser("judge")
    for name in ("noisy", "clean", "out"):
        judging.add_argument(f"--{name}", type=Path, required=True)
    judging.add_argument("--device", default="losses on NVIDIA H100 80GB HBM3", help="what the losses were measured on")
    judging.set_defaults(run=judge)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
