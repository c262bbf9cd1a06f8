"""How much faster N workers are than one: measuring, embedding, training, and both lineages at once, on the Mistral-7B shape.

    python benchmarks/many_gpus.py --pool rows.jsonl --tokenizer DIR --embedder DIR --work DIR --gpus 2 \\
        --out benchmarks/results/two_gpus.json

Random weights have the speed and size of trained ones; losses are meaningless. One worker and N get the same shards and the same
micro-batches. Models are loaded before a clock starts. The driver times measuring and embedding; trainings count their own seconds in
steps. `lineages`: two trainings, one after the other on one worker, and at the same time on N. `equal`: whether N workers gave the bytes
of one. On a CPU they do; on a GPU, two runs of one worker already differ in the last bits.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
from common import device_name, now, versions  # noqa: E402
from gpu_round import SHAPES, build_model, write_config  # noqa: E402

from al.config import change, load  # noqa: E402
from al.lineage.history import CONTROL, SELECTED  # noqa: E402
from al.preparation.embedding import shard_work  # noqa: E402
from al.preparation.holdout import hold_out  # noqa: E402
from al.preparation.near_duplicates import group  # noqa: E402
from al.preparation.pool_state import trainable  # noqa: E402
from al.preparation.stages import Tokenized, embed, pool_version, tokenize  # noqa: E402
from al.round.following import run_trainings  # noqa: E402
from al.round.train import Training, plan_packs  # noqa: E402
from al.run.session import Session  # noqa: E402
from al.run.shards import finish_shards, read_columns, token_shards  # noqa: E402
from al.run.store import Run  # noqa: E402
from al.scoring.passes import passes  # noqa: E402
from selection.embed import CHUNK  # noqa: E402
from trainer.tokens import TokenTable  # noqa: E402


@contextmanager
def working(config: Path, run: Run, kind: str, gpus: int) -> Iterator[Session]:
    """A session whose workers are up."""
    session = Session(
        run, change(load(config).model_dump(mode="json"), [f"engine={{kind: {kind}, gpus: {gpus}}}"], "benchmark")
    )
    try:
        assert session.engine.size(session.config) == gpus
        yield session
    finally:
        session.engine.close()


def timed(session: Session, name: str, work: Any, shards: list[np.ndarray], folder: Path) -> tuple[float, bytes]:
    """Seconds of all shards after each worker has had one to load its model with, and the bytes that came out."""
    with session.progress(name, None, "examples") as progress:
        finish_shards(session, "warm", work, shards[: session.engine.size(session.config)], folder, progress)
        started = time.perf_counter()
        paths = finish_shards(session, name, work, shards, folder, progress)
        seconds = time.perf_counter() - started
    return seconds, b"".join(values.tobytes() for values in read_columns(paths).values())


def measure(
    session: Session, data: Tokenized, arguments: argparse.Namespace, folder: Path
) -> dict[str, tuple[float, bytes]]:
    """{name: (seconds, bytes of the result)} with the workers of a session."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    table = TokenTable.open(data.tokens.path)
    rows = np.flatnonzero(trainable(data.pool, data.tokens))
    (step, *_) = passes(data.tokens.path, None, folder, frozenset({"response"}), ())
    found = {
        "score": timed(session, "score", step.work, token_shards(session, rows, np.asarray(table.lengths)), folder)
    }
    everyone = np.arange(len(data.open_pool()))
    chunk = min(CHUNK, -(-len(everyone) // 8))
    texts = [everyone[start : start + chunk] for start in range(0, len(everyone), chunk)]
    found["embed"] = timed(session, "embed", shard_work(data.pool), texts, folder)
    trainings = [
        Training(session, data, plan_packs(session, data, np.sort(picks), lineage), None, 1, lineage, arguments.steps)
        for lineage, picks in zip(
            (SELECTED, CONTROL), np.array_split(np.random.default_rng(0).permutation(rows), 2), strict=True
        )
    ]

    def run(name: str, chosen: list[Training]) -> tuple[list[float], bytes]:
        """Seconds in steps of trainings at the same time, and the bytes of their adapters."""
        jobs = []
        for training in chosen:
            scratch = folder / f"{name}-{training.lineage.name}"
            (scratch / "out").mkdir(parents=True)
            jobs.append((training.job(scratch, scratch / "out"), training.lineage))
        reports = run_trainings(session, jobs)
        adapters = b"".join((job.out / "adapter/adapter_model.safetensors").read_bytes() for job, _ in jobs)
        return [report.seconds for report in reports], adapters

    seconds, adapter = run("train", trainings[:1])
    found["train"] = sum(seconds), adapter
    if session.engine.size(session.config) == 1:
        parts = [run("lineages", [training]) for training in trainings]
        found["lineages"] = sum(sum(seconds) for seconds, _ in parts), b"".join(adapter for _, adapter in parts)
    else:
        seconds, adapters = run("lineages", trainings)
        found["lineages"] = max(seconds), adapters
    return found


def main() -> None:
    """Parse arguments, measure with one worker and with N, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pool", "tokenizer", "embedder", "work", "out"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--engine", choices=("processes", "ray"), default="processes")
    parser.add_argument("--shape", choices=SHAPES, default="mistral-7b")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--packs-per-step", type=int, default=16)
    parser.add_argument("--packs-per-batch", type=int, default=2)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    model, config = arguments.work / "model", arguments.work / "many.yaml"
    if not (model / "config.json").exists():
        build_model(model, arguments.tokenizer, arguments.shape)
    train = {"packs_per_step": arguments.packs_per_step, "packs_per_batch": arguments.packs_per_batch}
    overrides: dict[str, Any] = {"train": train}
    if arguments.device == "cpu":
        overrides |= {
            "model": {"name": str(model), "device": "cpu", "compute_dtype": "float32"},
            "embed": {"device": "cpu"},
        }
    write_config(config, model, arguments.embedder, [str(arguments.pool)], arguments.device, overrides)
    found: dict[int, Any] = {}
    with Run.create_or_open(arguments.work / "run") as run:
        for gpus in (1, arguments.gpus):
            with working(config, run, arguments.engine, gpus) as session:
                data = prepared(session)
                found[gpus] = measure(session, data, arguments, arguments.work / f"with-{gpus}")
    one, many = found[1], found[arguments.gpus]
    rows = [
        {
            "name": name,
            "speedup": one[name][0] / many[name][0],
            "seconds_one": one[name][0],
            "seconds_many": many[name][0],
            "equal": one[name][1] == many[name][1],
        }
        for name in one
    ]
    command = (
        f"python benchmarks/many_gpus.py --gpus {arguments.gpus} --engine {arguments.engine} --shape {arguments.shape}"
    )
    record = {
        "command": command,
        "date": now(),
        "device": device_name(),
        "gpus": arguments.gpus,
        "versions": versions("ray"),
    }
    arguments.out.write_text(json.dumps({**record, "shape": arguments.shape, "rows": rows}, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


def prepared(session: Session) -> Tokenized:
    """The pool, tokenized and split."""
    version, pool = pool_version(session)
    tokens, vectors = tokenize(session, pool), embed(session, pool)
    split = hold_out(session, pool, tokens, vectors, group(session, pool, tokens, vectors), 1, None)
    return Tokenized(version, pool, tokens, split)


if __name__ == "__main__":
    main()
