"""How much faster N workers are than one: measuring, embedding, training, and both lineages at once, on the Mistral-7B shape.

    python benchmarks/many_gpus.py --pool rows.jsonl --tokenizer DIR --embedder DIR --work DIR --gpus 2 \\
        --out benchmarks/results/two_gpus.json

Random weights have the speed and size of trained ones; losses are meaningless. One worker and N get the same shards and the same
micro-batches. Before a clock starts, each worker has loaded its model and compiled its kernels: with a shard of its own, and in trainings
with the first UNTIMED steps, in which ranks also meet. The driver times measuring and embedding; trainings count their own seconds in
steps. `lineages`: two trainings, one after the other on one worker, and at the same time on N. `equal`: whether N workers gave the bytes
of one. On a CPU they do; on a GPU, two runs of one worker already differ in the last bits.

The record is written after each part. A part that fails or hangs has its error there, and the others are still measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
from common import device_name, now, versions  # noqa: E402
from gpu_round import write_config  # noqa: E402
from random_nf4 import save_random_nf4  # noqa: E402
from train_throughput import SHAPES, shaped_config  # noqa: E402

from al.config import change, load  # noqa: E402
from al.lineage.history import CONTROL, SELECTED  # noqa: E402
from al.preparation.embedding import embed, shard_work  # noqa: E402
from al.preparation.holdout import hold_out  # noqa: E402
from al.preparation.near_duplicates import group  # noqa: E402
from al.preparation.pool_state import trainable  # noqa: E402
from al.preparation.stages import Tokenized, pool_version  # noqa: E402
from al.preparation.tokens import tokenize  # noqa: E402
from al.round.following import run_trainings  # noqa: E402
from al.round.train import Training, plan_packs  # noqa: E402
from al.run.session import Session  # noqa: E402
from al.run.shards import finish_shards, read_columns, token_shards  # noqa: E402
from al.run.store import Run  # noqa: E402
from al.scoring.passes import passes  # noqa: E402
from selection.embed import CHUNK  # noqa: E402
from trainer.tokens import TokenTable  # noqa: E402

UNTIMED = 2
"""First steps of a training that do not count: kernels compile, and ranks set up their connections."""
LEAST_SECONDS = 5
"""A part is not begun with less time left."""


@dataclass(frozen=True)
class Found:
    """Seconds for an amount of work, its unit, and digests of the results."""

    seconds: float
    amount: int
    unit: str
    digests: list[str]


@dataclass(frozen=True)
class Bench:
    """What every part needs: the session with its workers, the pool, where to write, and the sizes from the command line."""

    session: Session
    data: Tokenized
    folder: Path
    sizes: argparse.Namespace

    @property
    def rows(self) -> np.ndarray:
        """Rows (n,) that can be trained on."""
        return np.flatnonzero(trainable(self.data.pool, self.data.tokens))

    def timed(self, name: str, work: Any, shards: list[np.ndarray]) -> Found:
        """Seconds of all shards after each worker has had one to load its model with, and digests of what came out."""
        with self.session.progress(name, None, "examples") as progress:
            workers = self.session.engine.size(self.session.config)
            finish_shards(self.session, f"warm-{name}", work, shards[:workers], self.folder, progress)
            started = time.perf_counter()
            paths = finish_shards(self.session, name, work, shards, self.folder, progress)
            seconds = time.perf_counter() - started
        results = [hashlib.sha256(values.tobytes()).hexdigest() for values in read_columns(paths).values()]
        return Found(seconds, sum(map(len, shards)), "examples", results)

    def trained(self, name: str, trainings: list[Training]) -> Found:
        """Seconds in steps of trainings at the same time, those of the longest, and digests of their adapters."""
        jobs = []
        for training in trainings:
            scratch = self.folder / f"{name}-{training.lineage.name}"
            (scratch / "out").mkdir(parents=True)
            jobs.append((training.job(scratch, scratch / "out"), training.lineage))
        run_trainings(self.session, jobs)
        curves = [[json.loads(line) for line in (job.scratch / "curve.jsonl").open()] for job, _ in jobs]
        seconds = max(steps[-1]["seconds"] - steps[UNTIMED - 1]["seconds"] for steps in curves)
        tokens = sum(step["tokens"] for steps in curves for step in steps[UNTIMED:])
        adapters = [digest_of_file(job.out / "adapter/adapter_model.safetensors") for job, _ in jobs]
        return Found(seconds, tokens, "tokens", adapters)

    def trainings(self) -> list[Training]:
        """One of each lineage, over halves of the pool."""
        halves = np.array_split(np.random.default_rng(0).permutation(self.rows), 2)
        return [
            Training(
                self.session,
                self.data,
                plan_packs(self.session, self.data, np.sort(picks), lineage),
                None,
                1,
                lineage,
                self.sizes.steps,
            )
            for lineage, picks in zip((SELECTED, CONTROL), halves, strict=True)
        ]


def measure_scores(bench: Bench) -> Found:
    """Losses and uncertainty of the first shards of the pool."""
    table = TokenTable.open(bench.data.tokens.path)
    (step, *_) = passes(bench.data.tokens.path, None, bench.folder, frozenset({"response"}), ())
    shards = token_shards(bench.session, bench.rows, np.asarray(table.lengths))
    return bench.timed("score", step.work, shards[: bench.sizes.score_shards])


def measure_embedding(bench: Bench) -> Found:
    """Embeddings of the whole pool, in at least eight parts."""
    everyone = np.arange(len(bench.data.open_pool()))
    chunk = min(CHUNK, -(-len(everyone) // 8))
    texts = [everyone[start : start + chunk] for start in range(0, len(everyone), chunk)]
    return bench.timed("embed", shard_work(bench.data.pool), texts)


def measure_training(bench: Bench) -> Found:
    """One training, its micro-batches divided among the workers."""
    return bench.trained("train", bench.trainings()[:1])


def measure_lineages(bench: Bench) -> Found:
    """Two trainings: at the same time on several workers, one after the other on one."""
    if bench.session.engine.size(bench.session.config) > 1:
        return bench.trained("lineages", bench.trainings())
    parts = [bench.trained("lineages", [training]) for training in bench.trainings()]
    return Found(
        sum(part.seconds for part in parts),
        sum(part.amount for part in parts),
        "tokens",
        [digest for part in parts for digest in part.digests],
    )


PARTS: dict[str, Callable[[Bench], Found]] = {
    "score": measure_scores,
    "embed": measure_embedding,
    "train": measure_training,
    "lineages": measure_lineages,
}


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def working(config: Path, run: Run, kind: str, gpus: int) -> Iterator[Session]:
    """A session with that many workers; they end with the block."""
    values = load(config).model_dump(mode="json")
    session = Session(run, change(values, [f"engine={{kind: {kind}, gpus: {gpus}}}"], "benchmark"))
    try:
        assert session.engine.size(session.config) == gpus
        yield session
    finally:
        session.engine.close()


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises TimeoutError inside the block after `seconds`: ranks that lost each other may wait for half an hour."""

    def stop(number: int, frame: FrameType | None) -> None:
        """End what runs."""
        raise TimeoutError(f"not finished after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def prepared(session: Session) -> Tokenized:
    """The pool, tokenized and split."""
    version, pool = pool_version(session)
    tokens, vectors = tokenize(session, pool), embed(session, pool)
    split = hold_out(session, pool, tokens, vectors, group(session, pool, tokens, vectors), 1, None)
    return Tokenized(version, pool, tokens, split)


def measure(
    session: Session,
    folder: Path,
    sizes: argparse.Namespace,
    ends: float,
    add: Callable[[str, Found | str], None],
) -> None:
    """All parts with the workers of a session: `add` gets each one's name and what was found, or its error. `ends`: on the clock of
    time.monotonic. A failed part's workers are replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with at_most(ends - time.monotonic()):
        data = prepared(session)
    for name, part in PARTS.items():
        left = min(sizes.part_seconds, ends - time.monotonic())
        if left < LEAST_SECONDS:
            add(name, "not begun: the time was up")
            continue
        try:
            with at_most(left):
                found: Found | str = part(Bench(session, data, folder, sizes))
        except Exception as error:  # one part's error must not lose the others
            found = f"{type(error).__name__}: {error}"[-2000:]
            session.engine.close()
        add(name, found)


def rows_of(found: dict[int, dict[str, Found | str]], gpus: int) -> list[dict[str, Any]]:
    """A row for each part that has begun: seconds and amount per second with one worker and with N, the speedup if both have been
    measured, and the errors of those that failed."""
    rows = []
    for name in PARTS:
        one, many = (found.get(count, {}).get(name) for count in (1, gpus))
        row: dict[str, Any] = {"name": name}
        for label, result in (("one", one), ("many", many)):
            if isinstance(result, Found):
                row |= {"unit": result.unit, "amount": result.amount, f"seconds_{label}": result.seconds}
            elif result is not None:
                row[f"error_{label}"] = result
        if isinstance(one, Found) and isinstance(many, Found):
            row |= {"speedup": one.seconds / many.seconds, "equal": one.digests == many.digests}
        if len(row) > 1:
            rows.append(row)
    return rows


def build(model: Path, tokenizer: Path, shape: str) -> str:
    """Save the model if it is not there yet; the name of the device. In a process of its own, so that the driver holds no GPU memory."""
    if not (model / "config.json").exists():
        save_random_nf4(model, shaped_config("mistral", shape), tokenizer)
    return device_name()


def main() -> int:
    """Parse arguments, measure with one worker and with N, write the record; 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pool", "tokenizer", "embedder", "work", "out"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--engine", choices=("processes", "ray"), default="processes")
    parser.add_argument("--shape", choices=SHAPES, default="mistral-7b")
    parser.add_argument("--steps", type=int, default=UNTIMED + 4, help="of a training; the first ones are not timed")
    parser.add_argument("--score-shards", type=int, default=6, help="shards of the pool that are scored")
    parser.add_argument("--packs-per-step", type=int, default=16)
    parser.add_argument("--packs-per-batch", type=int, default=2)
    parser.add_argument(
        "--seconds", type=float, default=600.0, help="for everything; parts that are left then are not begun"
    )
    parser.add_argument("--part-seconds", type=float, default=120.0, help="after which a part has failed")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments = parser.parse_args()
    if arguments.steps <= UNTIMED:
        parser.error(f"--steps: expected more than the {UNTIMED} that are not timed, found {arguments.steps}")
    ends = time.monotonic() + arguments.seconds
    arguments.work.mkdir(parents=True, exist_ok=True)
    model, config = arguments.work / "model", arguments.work / "many.yaml"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        device = other.submit(build, model, arguments.tokenizer, arguments.shape).result()
    train = {"packs_per_step": arguments.packs_per_step, "packs_per_batch": arguments.packs_per_batch}
    overrides: dict[str, Any] = {"train": train}
    if arguments.device == "cpu":
        cpu = {"name": str(model), "device": "cpu", "compute_dtype": "float32"}
        overrides |= {"model": cpu, "embed": {"device": "cpu"}}
    write_config(config, model, arguments.embedder, [str(arguments.pool)], arguments.device, overrides)
    found: dict[int, dict[str, Found | str]] = {1: {}, arguments.gpus: {}}
    sizes = {name: getattr(arguments, name) for name in ("steps", "score_shards", "packs_per_step", "packs_per_batch")}
    record = {
        "command": f"python benchmarks/many_gpus.py --gpus {arguments.gpus} --engine {arguments.engine} --shape {arguments.shape}",
        "date": now(),
        "device": device,
        "gpus": arguments.gpus,
        "versions": versions("ray"),
        "nccl": {name: value for name, value in os.environ.items() if name.startswith("NCCL_")},
        "shape": arguments.shape,
        "sizes": sizes | {"untimed_steps": UNTIMED},
    }

    def add(gpus: int, name: str, result: Found | str) -> None:
        """Keep a result and write the record."""
        found[gpus][name] = result
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({**record, "rows": rows_of(found, arguments.gpus)}, indent=1) + "\n")
        print(f"{gpus} workers, {name}: {result}", flush=True)

    with Run.create_or_open(arguments.work / "run") as run:
        for gpus in (1, arguments.gpus):
            try:
                with working(config, run, arguments.engine, gpus) as session:
                    measure(session, arguments.work / f"with-{gpus}", arguments, ends, partial(add, gpus))
            except Exception as error:
                for name in PARTS:
                    if name not in found[gpus]:
                        add(gpus, name, f"{type(error).__name__}: {error}"[-2000:])
    return int(any("speedup" not in row for row in rows_of(found, arguments.gpus)))


if __name__ == "__main__":
    sys.exit(main())
