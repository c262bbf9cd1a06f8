"""Seconds of every stage of a pool's preparation, for a whole pool and after 1,000 examples were added to it.

    python benchmarks/scale_grow.py --work DIR --out benchmarks/results/scale_grow_cpu.json [--n 100000] [--strategy uniform]

The pool and its embeddings are those of `benchmarks/scale.py` (its --work has them, or they are made). The added examples are made from
rows of the pool: half of them near-duplicates by their embeddings, the others of the same topics. Embedding is left out: it takes
time in proportion to what is new. `first` is a pool's first round, `grown` the round after the import. The map and the terms of
clusters, which only the report shows, are included. The config is that of the demo, whose number of clusters is fixed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from common import device_name, now, versions  # noqa: E402
from scale import conversations_of, vectors_of  # noqa: E402

from al.config import CONFIG_DIR, load  # noqa: E402
from al.config.pool import PoolConfig  # noqa: E402
from al.pool.sources import find_sources  # noqa: E402
from al.pool.store import Pool  # noqa: E402
from al.preparation import stages  # noqa: E402
from al.preparation.projection import for_the_report  # noqa: E402
from al.run import rounds  # noqa: E402
from al.run.artifacts import Artifact, write_json  # noqa: E402
from al.run.session import Session  # noqa: E402
from al.run.store import Run  # noqa: E402
from selection.vectors import unit  # noqa: E402

ADDED = 1_000


def write_added(work: Path, n: int, out: Path) -> Path:
    """ADDED rows like the pool's: the words of a question in another order."""
    draw = np.random.default_rng(0)
    with conversations_of(work, n).open(encoding="utf-8") as file, out.open("w", encoding="utf-8") as into:
        for line in islice(file, ADDED):
            row = json.loads(line)
            for message in row["messages"][:1]:
                message["content"] = " ".join(draw.permutation(message["content"].split()))
            into.write(json.dumps(row) + "\n")
    return out


def embedded(work: Path, n: int) -> Any:
    """A stage in place of `embed`: the made vectors, and for what was added those of random examples, half of them moved far."""

    def embed(session: Session, pool: Artifact) -> Artifact:
        """Publish `embeddings.npy`."""

        def build(out: Path, scratch: Path) -> None:
            """Write the vectors in the order of the pool."""
            reader, made = Pool.open(pool.path), vectors_of(work, n)
            previous = session.run.find("pool", pool.manifest["inputs"].get("previous") or "")
            old = np.ones(len(reader), dtype=bool)
            if previous is not None:
                old = np.isin(reader.keys, Pool.open(previous.path).keys)
            shape = (len(reader), made.shape[1])
            vectors = np.lib.format.open_memmap(out / "embeddings.npy", mode="w+", dtype=np.float16, shape=shape)
            vectors[np.flatnonzero(old)] = made[: int(old.sum())]
            draw, new = np.random.default_rng(1), np.flatnonzero(~old)
            noise = draw.normal(size=(len(new), shape[1])) * np.where(np.arange(len(new)) % 2, 0.05, 0.002)[:, None]
            vectors[new] = unit(made[draw.integers(0, len(made), len(new))] + noise)
            np.save(out / "keys.npy", reader.keys)
            write_json(out / "embeddings.json", {"examples": len(reader), "dimensions": shape[1]})

        return session.run.stage(
            "embeddings", version=1, inputs={"pool": pool}, params={"made": n}, build=build, label="embed"
        )

    return embed


def settle(session: Session, number: int) -> dict[str, float]:
    """Prepare a round and record it; seconds by stage."""
    session.run.timings.clear()
    rounds.open_round(session.run, number, "1000", session.config.model_dump(mode="json"))
    begun, cpu = time.perf_counter(), time.process_time()
    prepared = stages.prepare(session, number)
    for role, artifact in stages.as_dict(prepared).items():
        rounds.record(session.run, number, role, artifact)
    for role, artifact in for_the_report(session, prepared, prepared.clusters, number).items():
        rounds.record(session.run, number, role, artifact)
    seconds = {stage: round(taken, 2) for stage, (taken, _) in session.run.timings.items() if stage != "embed"}
    total = time.perf_counter() - begun - session.run.timings["embed"][0]
    return seconds | {"total": round(total, 2), "CPU of all threads": round(time.process_time() - cpu, 2)}


def measure(work: Path, n: int, strategy: str) -> dict[str, Any]:
    """A row of the record: a first round, an import of ADDED examples, a second round."""
    folder = work / f"grow-{n}-{strategy}"
    shutil.rmtree(folder, ignore_errors=True)
    settings = [f"pool.files={json.dumps([str(conversations_of(work, n))])}", f"select.strategy={strategy}"]
    stages.embed = embedded(work, n)
    with Run.create_or_open(folder) as run:
        session = Session(run, load(CONFIG_DIR / "demo.yaml", settings), quiet=True)
        first = settle(session, 1)
        added = write_added(work, n, folder.with_suffix(".jsonl"))
        begun = time.perf_counter()
        sources = find_sources(PoolConfig(files=[str(added)]))
        rounds.add_pool(run, stages.import_sources(session, sources, rounds.current_pool(run)[1]))
        imported = round(time.perf_counter() - begun, 2)
        grown = {"import": imported} | settle(session, 2)
        grown["total"] = round(grown["total"] + imported, 2)
    shutil.rmtree(folder)
    return {"n": n, "added": ADDED, "strategy": strategy, "first": first, "grown": grown}


def main() -> None:
    """Measure what is asked for and put it into the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--strategy", default="uniform")
    parser.add_argument("--note", default="", help="circumstances, such as other work on the machine")
    asked = parser.parse_args()
    earlier = json.loads(asked.out.read_text())["rows"] if asked.out.exists() else []
    rows = {(entry["n"], entry["strategy"]): entry for entry in earlier}
    rows[asked.n, asked.strategy] = measure(asked.work, asked.n, asked.strategy)
    record = {
        "date": now(),
        "command": "python benchmarks/scale_grow.py",
        "device": device_name(),
        "versions": versions("numpy", "scipy", "faiss-cpu", "tokenizers", "pyarrow"),
        "note": asked.note,
        "rows": [rows[key] for key in sorted(rows)],
    }
    asked.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(rows[asked.n, asked.strategy]))


if __name__ == "__main__":
    main()
