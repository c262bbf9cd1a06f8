"""A whole round on worker processes, one of which is killed while it trains: the files are those of a round in one process."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import numpy as np
import psutil
import yaml
from command_line import winnow

from al.run import rounds
from al.run.store import Run

SAME = (
    "selection/picked.npy",
    "control.selection/picked.npy",
    "train/adapter/adapter_model.safetensors",
    "control.train/adapter/adapter_model.safetensors",
    "evaluate.control/examples.parquet",
    "answers.selected/answers.parquet",
)


def kill_a_worker_in_training(run, killed):
    """SIGKILL the youngest worker process once a training step is recorded."""
    events = run / "events.jsonl"
    while not (events.exists() and '"train.step"' in events.read_text()):
        time.sleep(0.02)
    workers = [child for child in psutil.Process().children(recursive=True) if child.ppid() != os.getpid()]
    killed.append(max(workers, key=lambda child: child.create_time()).pid)
    os.kill(killed[0], signal.SIGKILL)


def test_a_round_on_workers_is_that_of_one_process(two_rounds, quick_workers, tmp_path):
    with Run.read(two_rounds[0]) as before:
        config = rounds.all_rounds(before)[0].config
    path, run, killed = tmp_path / "workers.yaml", tmp_path / "run", []
    path.write_text(yaml.safe_dump({**config, "engine": {"kind": "processes", "gpus": 2}}))
    killer = threading.Thread(target=kill_a_worker_in_training, args=(run, killed), daemon=True)
    killer.start()
    result = winnow("round", "--config", path, "--run", run, "--budget", 24, "--json")
    assert result.code == 0, result.err
    there, here = two_rounds[0] / "rounds/001", run / "rounds/001"
    assert [name for name in SAME if (there / name).read_bytes() != (here / name).read_bytes()] == []
    vectors = [np.load(next(path.glob("artifacts/embeddings/*/embeddings.npy"))) for path in (two_rounds[0], run)]
    assert np.array_equal(*vectors)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    died = [event["message"] for event in events if event["event"] == "worker.died"]
    assert len(died) == 1 and f"worker process {killed[0]} ended by SIGKILL" in died[0]
    first = {
        event["lineage"]: number for number, event in reversed([*enumerate(events)]) if event["event"] == "train.step"
    }
    ends = next(
        n
        for n, event in enumerate(events)
        if event["event"] == "stage.published" and event["stage"].startswith("train")
    )
    assert set(first) == {"selected", "control"} and max(first.values()) < ends, "both lineages train at the same time"
