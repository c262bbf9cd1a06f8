"""Fills a work folder with what the study's runs need; what exists is not made again.

Pools are checked against pools.json before anything is made of them. Kinds and clusters are found in processes, one a pool and seed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.proving_ground import embeddings, inputs, near, pools, targets
from benchmarks.proving_ground.picking import Picker, kinds_file, left_file
from benchmarks.proving_ground.planning import LIST
from benchmarks.proving_ground.work import Work, whole

PARTS = ("pool", "dev", "test")
WHEEL = "evals-3.0.1.post1-py3-none-any.whl"


def prepare(
    work: Work,
    models: list[Path],
    data: Path | None,
    embedder: Path | None,
    processes: int,
    later: bool = False,
    searched: Sequence[str] = (),
    log: Callable[[str], None] = print,
) -> None:
    """Pools, inputs of each model, kinds and, with an embedder, embeddings and clusters.

    Args:
        models: directories; those that the folder knows already need not be given. data: the published files, where pools are missing.
        later: leave embeddings, kinds and clusters to the GPU machine, which makes them next to its players.
        searched: pools that are searched for near-duplicates here all the same, with embeddings of their rows alone.

    Raises:
        SystemExit: a pool is not there and no data is given, its files are not those that pools.json lists, or one cannot be searched.
    """
    about: dict[str, Any] = {"pools": list(LIST["pools"]), "cut": None, "models": {}, "embedder": None}
    about |= work.about if (work / "about.json").exists() else {}
    _pools(work, about, data, log)
    about["models"] |= {model.name: str(model.resolve()) for model in models}
    about["embedder"] = str(embedder.resolve()) if embedder else about["embedder"]
    if not about["models"]:
        raise SystemExit(f"{work.root}: no model; give --models DIR")
    with whole(work / "about.json") as file:
        file.write_text(json.dumps(about, indent=1) + "\n")
    for model in work.models:
        _inputs(work, model, log)
    if searched:
        search(work, searched, processes, log)
    if later:
        return
    if about["embedder"] and not (work / "embeddings.npy").exists():
        with whole(work / "embeddings.npy") as file:
            embeddings.write(work / "pools", work.inputs(), work.root / about["embedder"], file)
        log("embeddings written")
    grouped = [partial(find_kinds, work.root, pool, seed) for pool in work.pools for seed in LIST["seeds"]]
    grouped += _kinds_of(work, _searched(work, log))
    if (work / "embeddings.npy").exists() and find_spec("faiss"):
        grouped += [partial(find_clusters, work.root, pool, seed) for pool in work.pools for seed in LIST["seeds"]]
    else:
        log("no clusters: they need embeddings and faiss")
    in_processes(grouped, processes)
    log(f"{work.root}: kinds of {len(work.pools)} pools, {len(LIST['seeds'])} seeds")


def search(work: Work, names: Sequence[str], processes: int, log: Callable[[str], None]) -> None:
    """Search these pools for near-duplicates, and find the kinds of what is left; embeddings that only the search needs are not kept."""
    embedder, splits = work.about["embedder"], np.load(work.inputs() / "splits.npz")
    if unknown := [name for name in names if name not in work.pools]:
        raise SystemExit(
            f"--search: expected pools of {work.root} ({', '.join(work.pools)}), found {', '.join(unknown)}"
        )
    for pool in names:
        missing = [noise for noise in near.noises(pool, splits) if not left_file(work / "kinds", pool, noise).exists()]
        if not missing:
            continue
        if not embedder and not (work / "embeddings.npy").exists():
            raise SystemExit("--search: needs embeddings; give --embedder DIR, a sentence-transformers model")
        with TemporaryDirectory(dir=work.root) as folder:
            vectors = work / "embeddings.npy"
            if not vectors.exists():
                vectors = Path(folder) / "embeddings.npy"
                paths = (work / "pools", work.inputs(), work.root / embedder, vectors)
                count = embeddings.write(*paths, names=[pool], parts=["pool"])
                log(f"{pool}: {count:,} rows embedded")
            picker = Picker(work / "pools", splits, work / "kinds", vectors)
            for noise in missing:
                picker.left(pool, noise)
    in_processes(_kinds_of(work, _searched(work, log)), processes)


def _kinds_of(work: Work, searched: Sequence[str]) -> list[Callable[[], None]]:
    """What finds the kinds of searched pools, for the seeds that stage "near" has."""
    return [partial(find_kinds, work.root, pool, seed) for pool in searched for seed in LIST["seeds"][:3]]


def _searched(work: Work, log: Callable[[str], None]) -> list[str]:
    """POOL|NOISE of the pools whose near-duplicates are known; finds them where there are embeddings, and writes how many there are."""
    picker, embedded = Picker.of(work), (work / "embeddings.npy").exists()
    wanted = [(pool, noise) for pool in work.pools for noise in near.noises(pool, picker.splits)]
    known = [(pool, noise) for pool, noise in wanted if embedded or left_file(work / "kinds", pool, noise).exists()]
    found: dict[str, dict[str, Any]] = {}
    for pool, noise in known:
        count, left = len(picker.splits[f"{pool}|{near.rows_in(noise)}"]), picker.left(pool, noise)
        of = picker.splits[f"{pool}|near|of"] if noise == near.NOISE else np.arange(count)
        alone = int(np.load(left_file(work / "kinds", pool, noise))["by_embeddings"])
        found.setdefault(noise, {})[pool] = near.search_figures(of, left) | {"by_embeddings_alone": count - alone}
        log(f"{pool}, {noise}: the search for near-duplicates leaves {len(left):,} of {count:,} rows")
    with whole(work / "results/near.json") as file:
        file.write_text(json.dumps(found, indent=1) + "\n")
    return [f"{pool}|{noise}" for pool, noise in known]


def _pools(work: Work, about: dict[str, Any], data: Path | None, log: Callable[[str], None]) -> None:
    missing = [
        name for name in about["pools"] if not all((work / "pools" / name / f"{p}.jsonl").exists() for p in PARTS)
    ]
    if missing:
        if data is None:
            raise SystemExit(f"{work / 'pools'}: {', '.join(missing)} not there; give --data DIR, the published files")
        for name, (tasks, source) in pools.recipes(data, data / WHEEL).items():
            if name in missing:
                pools.write(pools.build(tasks, source), work / "pools" / name)
                log(f"{name} built")
    if about["cut"] is None:
        different = [name for name in about["pools"] if digests(work / "pools" / name) != LIST["pools"][name]["sha256"]]
        if different:
            raise SystemExit(
                f"{', '.join(different)}: expected the files that pools.json lists, found others in {work / 'pools'}"
            )


def digests(folder: Path) -> dict[str, str]:
    """sha256 of each part's file."""
    return {part: hashlib.sha256((folder / f"{part}.jsonl").read_bytes()).hexdigest() for part in PARTS}


def _inputs(work: Work, model: str, log: Callable[[str], None]) -> None:
    """Inputs of a model, or a link to those of one with the same tokenizer."""
    if (work.inputs(model) / "splits.npz").exists():
        return
    same = [
        m
        for m in work.models
        if m != model and work.inputs(m).exists() and _tokenizer(work, m) == _tokenizer(work, model)
    ]
    if same:
        work.inputs(model).symlink_to(same[0])
        return
    about = work.about
    noisy = [name for name in LIST["noisy_pools"] if name in about["pools"]]
    aims = {n: e for n, e in listed_targets(about).items() if {e["pool"], e["from"]} <= set(about["pools"])}
    with whole(work.inputs(model)) as folder:
        count = inputs.write(work / "pools", work.models[model], folder, about["pools"], noisy, aims)
        if about["cut"] is None:
            targets.check(np.load(folder / "splits.npz"))
    log(f"{model}: {count:,} conversations tokenized")


def listed_targets(about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The targets of pools.json; in a cut study with 8 examples and 8 test rows."""
    small = {} if about["cut"] is None else {"dev": 8, "test": 8}
    return {name: {**entry, **small} for name, entry in LIST["targets"].items()}


def _tokenizer(work: Work, model: str) -> bytes:
    """What decides a model's tokens: its vocabulary and its chat template."""
    folder = work.models[model]
    files = [folder / name for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.exists())).digest()


def cut(work: Work, source: Path, names: list[str], rows: int) -> None:
    """Small pools to try things out: about `rows` rows of each, evenly over its file; a tenth of that of the dev and test rows whose
    tasks are left."""
    for name in names:
        (work / "pools" / name).mkdir(parents=True, exist_ok=True)
        left: set[str] | None = None
        for part in PARTS:
            found = [row for row in inputs.read_rows(source, name, part) if left is None or row["task"] in left]
            most = rows if part == "pool" else max(2, rows // 10)
            kept = found[:: max(1, len(found) // most)]
            left = left or {row["task"] for row in kept}
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
            (work / "pools" / name / f"{part}.jsonl").write_text(text, encoding="utf-8")
    (work / "about.json").write_text(json.dumps({"pools": names, "cut": rows, "models": {}}, indent=1) + "\n")


def find_kinds(root: Path, pool: str, seed: int) -> None:
    """Kinds of one pool and seed, kept in kinds/."""
    if not kinds_file(root / "kinds", pool, seed).exists():
        Picker.of(Work(root)).found(pool, seed)


def find_clusters(root: Path, pool: str, seed: int) -> None:
    """Clusters of embeddings of one pool and seed, kept in kinds/."""
    if not (root / "kinds" / f"clusters_{pool}_{seed}.npz").exists():
        Picker.of(Work(root)).clusters(pool, seed)


def in_processes(calls: list[Callable[[], None]], processes: int) -> None:
    """Run the calls, each on one thread, several at once if `processes` is above 1. The first error is raised."""
    if processes == 1:
        for call in calls:
            call()
        return
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # read by the children when they load numpy
    from multiprocessing import get_context

    from al.engine.processes import end_with_the_driver

    with ProcessPoolExecutor(processes, get_context("spawn"), end_with_the_driver) as executor:
        for done in [executor.submit(call) for call in calls]:
            done.result()
