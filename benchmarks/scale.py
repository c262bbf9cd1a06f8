"""Time and memory of every stage of one machine at 10,000, 100,000 and 1,000,000 examples.

    python benchmarks/scale.py --work DIR --out benchmarks/results/scale_cpu.json [--n 10000 100000] [--rows cluster nearest]

The data are made (`benchmarks/scale_data.py`): topics whose sizes follow a power law, 15% near-duplicates, 384 dimensions. Each row
runs in a process of its own and replaces its row in the record. `seconds` and `cpu_seconds` (all threads) are those of the stage,
without making its input. `peak_gib` is the largest RssAnon of the process and its workers together, sampled every 50 ms:
mapped files are not counted, the libraries' 0.2 to 0.5 GiB of each process are. `round` is import to report with a tiny model, 100 picks
and made embeddings; it also prints the seconds of each stage. Tokenizing, embedding and the round use the demo's assets
(`make assets`).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from common import device_name, now, versions  # noqa: E402
from scale_data import topics_of, write_conversations, write_vectors  # noqa: E402
from scale_round import prepare_round  # noqa: E402

SIZES = (10_000, 100_000, 1_000_000)
PICKS, TARGETS, HELD_OUT = 5_000, 64, 1_500
Work = Callable[[], object]
ROWS: dict[str, Callable[[Path, int], Work]] = {}


def row(name: str) -> Callable[[Callable[[Path, int], Work]], Callable[[Path, int], Work]]:
    """Register a row: a function of the work folder and n that prepares and returns what is measured."""

    def register(prepare: Callable[[Path, int], Work]) -> Callable[[Path, int], Work]:
        """Keep it by name."""
        ROWS[name] = prepare
        return prepare

    return register


def vectors_of(work: Path, n: int) -> np.ndarray:
    """The made embeddings, memory-mapped; written on first use."""
    path = work / f"vectors-{n}.npy"
    if not path.exists():
        write_vectors(path, n)
    return np.load(path, mmap_mode="r")


def pool_of(work: Path, n: int) -> Path:
    """The made conversations as a pool; imported on first use."""
    out = work / f"pool-{n}"
    if not (out / "pool.json").exists():
        import_into(work, n, out)
    return out


def import_into(work: Path, n: int, out: Path) -> None:
    """Import the made conversations into the folder `out`."""
    from al.config.pool import PoolConfig
    from al.pool.importer import import_pool
    from al.pool.sources import find_sources

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    import_pool(find_sources(PoolConfig(files=[str(conversations_of(work, n))])), out)


def conversations_of(work: Path, n: int) -> Path:
    """The made conversations as JSON Lines; written on first use."""
    path = work / f"conversations-{n}.jsonl"
    if not path.exists():
        write_conversations(path, n)
    return path


@row("import")
def _import(work: Path, n: int) -> Work:
    conversations_of(work, n)
    return lambda: import_into(work, n, work / f"pool-{n}")


@row("tokenize")
def _tokenize(work: Path, n: int) -> Work:
    from al.config import CONFIG_DIR, load
    from al.pool.store import Pool
    from al.preparation.tokens import tokenize_rows
    from al.run.session import Session
    from al.run.store import Run

    pool, folder = pool_of(work, n), work / "tokens"
    shutil.rmtree(folder, ignore_errors=True)
    session = Session(Run.create_or_open(folder / "run"), load(CONFIG_DIR / "demo.yaml", []), quiet=True)
    (scratch := folder / "scratch").mkdir()
    rows = np.arange(len(Pool.open(pool)))
    return lambda: tokenize_rows(session, pool, rows, folder / "table", scratch)


@row("near-duplicates")
def _near_duplicates(work: Path, n: int) -> Work:
    from selection.config import DedupConfig
    from selection.dedup import near_duplicate_groups

    vectors, config = vectors_of(work, n), DedupConfig()
    return lambda: near_duplicate_groups(vectors, np.zeros(n, dtype=int), config.threshold, config.neighbours)


@row("shared-passages")
def _shared_passages(work: Path, n: int) -> Work:
    from al.pool.store import Pool
    from selection.overlap import shares_passages

    pool = Pool.open(pool_of(work, n))
    held = np.sort(np.random.default_rng(0).choice(len(pool), size=min(HELD_OUT, len(pool) // 10), replace=False))
    return lambda: shares_passages(pool.texts(np.arange(len(pool))), pool.sources, held, 0.5)


@row("cluster")
def _cluster(work: Path, n: int) -> Work:
    from selection.cluster import cluster
    from selection.config import ClusterConfig

    vectors = vectors_of(work, n)
    return lambda: cluster(vectors, ClusterConfig(), seed=0)


def over_topics(work: Path, n: int, order: Callable[[Any, int], object]) -> Work:
    """`order` of each topic's vectors, in random order, with a quota in proportion to the topic's size."""
    from selection.candidates import Vectors

    vectors, topic = vectors_of(work, n), topics_of(n, 0)
    rows = np.random.default_rng(0).permutation(n)
    rows = rows[np.argsort(topic[rows], kind="stable")]
    groups = np.split(rows, np.cumsum(np.bincount(topic))[:-1])

    def pick() -> None:
        """Every topic in turn."""
        for group in groups:
            if len(group):
                order(Vectors(vectors, group), max(1, round(PICKS * len(group) / n)))

    return pick


@row("k-center")
def _k_center(work: Path, n: int) -> Work:
    from selection.greedy import k_center

    return over_topics(work, n, lambda vectors, count: k_center(vectors.values(), count))


@row("facility-location")
def _facility_location(work: Path, n: int) -> Work:
    from selection.submodular import facility_location

    return over_topics(work, n, facility_location)


@row("nearest")
def _nearest(work: Path, n: int) -> Work:
    from selection.candidates import Vectors
    from selection.turns import round_robin

    vectors = vectors_of(work, n)
    targets = np.random.default_rng(1).choice(n, size=TARGETS, replace=False)
    return lambda: round_robin(Vectors(vectors, np.arange(n)), np.asarray(vectors[np.sort(targets)]), min(PICKS, n))


@row("embed-static")
def _embed_static(work: Path, n: int) -> Work:
    from al.config import CONFIG_DIR, load
    from al.pool.store import Pool
    from selection.embed import embed_texts, load_embedder
    from selection.vectors import blocks

    config, pool = load(CONFIG_DIR / "demo.yaml", []).embed, Pool.open(pool_of(work, n))
    static = work / "static"
    if not static.exists():
        load_embedder(config.model_copy(update={"distill": True})).save(str(static))
    embedder = load_embedder(config.model_copy(update={"model": str(static)}))
    shape = (len(pool), embedder.get_embedding_dimension())
    out = np.lib.format.open_memmap(work / "static.npy", mode="w+", dtype=np.float16, shape=shape)

    def embed() -> None:
        """In shards, as the stage does."""
        for rows in blocks(np.arange(len(pool)), 2048):
            embed_texts(list(pool.texts(rows)), config, out[rows[0] : rows[-1] + 1], embedder=embedder)

    return embed


@row("round")
def _round(work: Path, n: int) -> Work:
    return prepare_round(conversations_of(work, n), vectors_of(work, n), work)


def cpu_seconds() -> float:
    """CPU time of this process and of its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(entry.ru_utime + entry.ru_stime for entry in used)


def run(name: str, work: Path, n: int, pipe: Any) -> None:
    """Prepare and measure a row in this process: "started", then (seconds, CPU seconds), through the pipe."""
    measured = ROWS[name](work, n)
    pipe.send("started")
    wall, cpu = time.perf_counter(), cpu_seconds()
    measured()
    pipe.send((time.perf_counter() - wall, cpu_seconds() - cpu))


def anonymous(process: psutil.Process) -> int:
    """RssAnon in bytes of a process and of those that it started; 0 once it has ended."""
    try:
        found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        return (int(found[1]) * 1024 if found else 0) + sum(map(anonymous, process.children()))
    except (OSError, psutil.NoSuchProcess):
        return 0


def measure(name: str, work: Path, n: int) -> dict[str, Any]:
    """A row of the record. Raises RuntimeError if its process fails."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=run, args=(name, work, n, there))
    process.start()
    there.close()
    try:
        here.recv()
        peak = 0
        while not here.poll(0.05):
            peak = max(peak, anonymous(psutil.Process(process.pid)))
        seconds, cpu = here.recv()
    except EOFError:
        raise RuntimeError(f"{name} at {n:,} failed; its message is above") from None
    finally:
        process.join()
    figures = {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "peak_gib": round(peak / 2**30, 3)}
    return {"name": name, "n": n, **figures}


def main() -> None:
    """Measure the rows that are asked for and put them into the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--note", default="", help="circumstances of these rows, such as other work on the machine")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(asked.out.read_text()) if asked.out.exists() else {"rows": [], "note": ""}
    rows = {(entry["name"], entry["n"]): entry for entry in earlier["rows"]}
    for n in asked.n:
        for name in asked.rows:
            rows[name, n] = measure(name, asked.work, n) | ({"note": asked.note} if asked.note else {})
            print(json.dumps(rows[name, n]), flush=True)
            order = sorted(rows.values(), key=lambda entry: (list(ROWS).index(entry["name"]), entry["n"]))
            record = {
                "date": now(),
                "command": "python benchmarks/scale.py",
                "device": device_name(),
                "versions": versions("numpy", "scipy", "faiss-cpu", "tokenizers", "pyarrow"),
                "note": earlier["note"],
                "rows": order,
            }
            asked.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
