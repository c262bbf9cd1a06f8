"""What a static embedder costs in selection quality: pools of the proving ground, embedded by a transformer and by what is distilled of it.

    python benchmarks/static_embedder.py --work WORK --embedder MINILM --out benchmarks/results/static_embedder_cpu.json

WORK is the proving ground's work folder (`python -m benchmarks.proving_ground prepare`). Nothing is trained. Three things that use
embeddings are compared, with the shipped settings: near-duplicates that leave the pool; the agreement of clusters with hidden tasks
(adjusted mutual information); and *coverage*, the mean over tasks of log(1 + picks), of 1,000 picks by the default's clusters, less that of
1,000 random ones. Means over seeds. Where the default goes by sources or by kinds of prompt, picks do not depend on the embedder.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from common import device_name, now, table, versions  # noqa: E402

POOLS = ("p3-power", "p3-data-sets", "few-large")
EMBEDDERS = ("transformer", "static")
SEEDS = (1, 2, 3)
BUDGET = 1000
SHIPPED = 0.95
"""`dedup.threshold` with a transformer."""
THRESHOLDS = (SHIPPED, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995)


def embedded(texts: list[str], embedder: Path, distill: bool) -> tuple[np.ndarray, float]:
    """(n, d) float32 unit vectors of the texts, and the seconds that they took, without loading the embedder."""
    from selection.config import EmbedConfig
    from selection.embed import embed_texts, load_embedder

    config = EmbedConfig(model=str(embedder), distill=distill)
    model = load_embedder(config)
    vectors = np.zeros((len(texts), model.get_embedding_dimension()), dtype=np.float32)
    started = time.perf_counter()
    embed_texts(texts, config, vectors, embedder=model)
    return vectors, time.perf_counter() - started


def duplicates(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """(n,) int64, the representative of each row; a row that is not its own leaves the pool."""
    from selection.config import DedupConfig
    from selection.dedup import near_duplicate_groups

    everything = np.zeros(len(vectors), dtype=int)
    return near_duplicate_groups(vectors, everything, threshold, DedupConfig().neighbours).representative


def agreement(ours: np.ndarray, theirs: np.ndarray, their_vectors: np.ndarray) -> dict[str, float]:
    """Of a static embedder's near-duplicates: how many, how many of them the transformer puts as near to their representative, and how
    many of the transformer's are among them. `ours`, `theirs`: (n,) representatives; `their_vectors`: (n, d) unit vectors."""
    left_out, reference = (of != np.arange(len(of)) for of in (ours, theirs))
    near = (their_vectors[left_out] * their_vectors[ours[left_out]]).sum(axis=1) >= SHIPPED - 1e-6
    return {
        "near_duplicates": int(left_out.sum()),
        "right": int(near.sum()),
        "found": int((left_out & reference).sum()),
    }


def coverage(task: np.ndarray, places: np.ndarray) -> float:
    """The mean over tasks of log(1 + picks)."""
    return float(np.log1p(np.bincount(task[places], minlength=task.max() + 1)).mean())


def of_clusters(vectors: np.ndarray, task: np.ndarray, keys: np.ndarray, seed: int) -> dict[str, float]:
    """Agreement of clusters with tasks, and the coverage of the default's picks over these clusters less random's."""
    from sklearn.metrics import adjusted_mutual_info_score

    from benchmarks.proving_ground.ground import CLUSTERS
    from benchmarks.proving_ground.picking import spread
    from selection.cluster import cluster, distinctness
    from selection.config import ClusterConfig

    found, wanted = cluster(vectors, ClusterConfig(), seed), {"budget": BUDGET, "seed": seed}
    distinct = distinctness(found.quality["silhouette"])
    picks = spread(keys, found.assignment.astype(np.int64), wanted, CLUSTERS, distinct)
    random = spread(keys, np.zeros(len(keys), dtype=np.int64), wanted, "random")
    return {
        "ami": float(adjusted_mutual_info_score(task, found.assignment)),
        "distinctness": distinct,
        "coverage": coverage(task, picks) - coverage(task, random),
    }


def compare(work: Path, embedder: Path, pool: str) -> list[dict[str, Any]]:
    """A row for each of the two embedders."""
    from benchmarks.proving_ground.rows import read_rows

    splits = np.load(work / "inputs" / sorted(path.name for path in (work / "inputs").iterdir())[0] / "splits.npz")
    texts = ["\n".join(m["content"] for m in row["messages"]) for row in read_rows(work / "pools", pool, "pool")]
    _, task = np.unique(splits[f"{pool}|pool|task"], return_inverse=True)
    keys, rows = splits[f"{pool}|pool|key"], []
    for name, distill in zip(EMBEDDERS, (False, True), strict=True):
        vectors, seconds = embedded(texts, embedder, distill)
        if not distill:
            transformer, reference = vectors, duplicates(vectors, SHIPPED)
        seeds = [of_clusters(vectors, task, keys, seed) for seed in SEEDS]
        rows.append(
            {
                "pool": pool,
                "embedder": name,
                "examples": len(texts),
                "texts_per_s": round(len(texts) / seconds, 1),
                "by_threshold": {
                    str(threshold): agreement(duplicates(vectors, threshold), reference, transformer)
                    for threshold in (THRESHOLDS if distill else THRESHOLDS[:1])
                },
                **{key: round(float(np.mean([of[key] for of in seeds])), 4) for key in seeds[0]},
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def static_embedder(record: dict[str, Any]) -> str:
    """The record as tables of docs/scale.md."""
    pairs: dict[str, dict[str, Any]] = {}
    for row in record["rows"]:
        pairs.setdefault(row["pool"], {})[row["embedder"]] = row
    rows = []
    for pool, of in pairs.items():
        full, fast = (of[name] for name in EMBEDDERS)
        both = [f"{full[key]:.2f} / {fast[key]:.2f}" for key in ("ami", "coverage")]
        speed = f"{full['texts_per_s']:,.0f} / {fast['texts_per_s']:,.0f}"
        rows.append([f"{pool}: {full['examples']:,}", *both, speed])
    shown = [str(threshold) for threshold in THRESHOLDS]
    near = [
        [pool, f"{of['transformer']['by_threshold'][shown[0]]['near_duplicates']:,}"]
        + [_near(of["static"]["by_threshold"][threshold]) for threshold in shown]
        for pool, of in pairs.items()
    ]
    where = (
        f"{record['device']}; {record['date'][:10]}; `{record['command']}`; {record['seeds']} seeds. {record['note']}"
    )
    header = ["pool: examples", "clusters' agreement with tasks", "coverage of 1,000 picks over random's", "texts/s"]
    head = (
        "Near-duplicates that leave the pool: the transformer's at 0.95, and the distilled embedder's by threshold (those that the "
        "transformer leaves out too):"
    )
    first = "Transformer / distilled embedder:"
    return "\n".join(
        [where, "", first, "", table(header, rows), "", head, "", table(["pool", "transformer", *shown], near)]
    )


def _near(found: dict[str, int]) -> str:
    return f"{found['near_duplicates']:,} ({found['found']:,})"


def main() -> None:
    """Compare the two embedders on every pool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("work", "embedder", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--pools", nargs="+", default=POOLS)
    parser.add_argument("--note", default="", help="circumstances, such as other work on the machine")
    asked = parser.parse_args()
    rows = [row for pool in asked.pools for row in compare(asked.work, asked.embedder, pool)]
    record = {
        "date": now(),
        "command": "python benchmarks/static_embedder.py",
        "device": device_name(),
        "versions": versions("numpy", "faiss-cpu", "sentence-transformers"),
        "seeds": len(SEEDS),
        "note": asked.note,
        "rows": rows,
    }
    asked.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
