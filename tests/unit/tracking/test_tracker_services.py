"""What each tracker keeps of a round. Those that are not installed are skipped; none of them reaches a network here."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from al.config import TrackerName
from al.errors import ConfigError
from al.tracking import services
from al.tracking.services import NEEDED, SERVICES, TrackedRound, check_installed

ROOT = Path(__file__).resolve().parents[3]
CONFIG = {"seed": 3, "train": {"learning_rate": 0.001}, "pool": {"files": ["x" * 900]}, "track": []}
PLAY = """
import json, sys
from pathlib import Path
from al.tracking.services import SERVICES, TrackedRound
tracker = SERVICES[sys.argv[1]]()
tracker.start(TrackedRound("demo", 2, "abc123", Path(sys.argv[2]), json.loads(sys.argv[3])))
for lineage in ("selected", "control"):
    for step in (1, 2, 3):
        tracker.log({f"{lineage}/loss": 1 / step}, step)
tracker.finish({"test/macro_nll/selected": 1.5, "test/macro_nll/selected - base/low": -0.25}, "the selection beat the base model")
"""


CONTRACT = """
import json, sys
from pathlib import Path
from al.tracking.services import SERVICES, TrackedRound
from al.tracking.worker import Worker
name, folder, config = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
failures = []
def worker():
    return Worker(name, SERVICES[name], lambda *failure: failures.append(failure))
first, second = (TrackedRound("demo", number, f"id{number}", folder, config) for number in (1, 2))
stopped = worker()
stopped.start(first)
stopped.log({"selected/loss": 1.0}, 1)
stopped.close()
goes_on = worker()
for current in (first, second):
    goes_on.start(current)
    goes_on.log({"selected/loss": 0.5, "selected/learning_rate": 0.001}, 2)
    goes_on.log({"control/loss": 0.75}, 1)
    goes_on.finish({"test/macro_nll/selected - base/low": -0.25}, "the selection beat the base model")
goes_on.close()
assert not failures, failures
"""


def play(name: str, folder: Path, program: str = PLAY, **environment: str) -> str:
    """A round sent to a tracker in a separate process, because wandb and trackio keep global state; returns the output."""
    for module in NEEDED[name]:
        pytest.importorskip(module)
    done = subprocess.run(
        [sys.executable, "-c", program, name, str(folder), json.dumps(CONFIG)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_tracker_takes_a_round_that_is_stopped_goes_on_and_is_followed_by_another(tmp_path, name):
    """In a thread, as in a round; nothing is printed on stdout, which `--json` reserves for one document."""
    alone = {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": "", "TRACKIO_DIR": str(tmp_path / "store")}
    assert play(name, tmp_path / "tracking", CONTRACT, **alone) == ""


def test_every_name_that_the_config_takes_has_a_service_and_packages():
    assert set(typing.get_args(TrackerName)) == set(SERVICES) == set(NEEDED)


def test_a_tracker_that_is_not_installed_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(services.NEEDED, "mlflow", {"no_such_module": "mlflow-skinny", "json": "there"})
    with pytest.raises(ConfigError, match=r"track: mlflow .*`pip install mlflow-skinny`"):
        check_installed(["mlflow"])


def test_tensorboard_reads_back_steps_results_config_and_verdict(tmp_path):
    assert play("tensorboard", tmp_path) == ""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "tensorboard" / "round-002"))
    found.Reload()
    assert [(s.step, round(s.value, 3)) for s in found.Scalars("selected/loss")] == [(1, 1.0), (2, 0.5), (3, 0.333)]
    assert [(s.step, s.value) for s in found.Scalars("test/macro_nll/selected")] == [(2, 1.5)]
    texts = {name: found.Tensors(name)[0].tensor_proto.string_val[0].decode() for name in found.Tags()["tensors"]}
    assert "train.learning_rate: 0.001" in texts["config/text_summary"]
    assert texts["verdict/text_summary"] == "the selection beat the base model"


def test_wandb_keeps_an_offline_run_of_both_lineages(tmp_path):
    printed = play("wandb", tmp_path, WANDB_MODE="offline")
    records = _wandb_records(next(tmp_path.rglob("run-abc123.wandb")))
    rows = [{"/".join(i.nested_key) or i.key: i.value_json for i in r.history.item} for r in records if r.history.item]
    assert [row["selected/loss"] for row in rows if "selected/loss" in row][:2] == ["1", "0.5"]
    assert [row["control/step"] for row in rows if "control/step" in row] == ["1", "2", "3"]
    summary = {i.key or "/".join(i.nested_key): i.value_json for r in records for i in r.summary.update}
    assert summary["test/macro_nll/selected"] == "1.5" and "beat" in summary["verdict"]
    assert printed == ""


def _wandb_records(path: Path) -> list:
    """Records of a .wandb file: after a header of 7 bytes, the log format of LevelDB in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    data, at, part, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if (1 << 15) - at % (1 << 15) < 7:  # the rest of a block that no header fits into
            at += (1 << 15) - at % (1 << 15)
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(wandb_internal_pb2.Record.FromString(part))
            part = b""
    return found


def test_wandb_never_asks_for_a_login_on_the_terminal(tmp_path):
    pytest.importorskip("wandb")
    done = subprocess.run(
        [sys.executable, "-c", PLAY, "wandb", str(tmp_path), "{}"],
        cwd=ROOT,
        env={**os.environ, "WANDB_MODE": "online", "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")},
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert "not logged in; run `wandb login`, or set WANDB_MODE=offline" in done.stderr


def test_mlflow_keeps_a_finished_run_in_the_runs_directory(tmp_path):
    play("mlflow", tmp_path / "tracking", MLFLOW_TRACKING_URI="")
    with sqlite3.connect(tmp_path / "tracking" / "mlflow.db") as db:
        assert db.execute("SELECT name, status FROM runs").fetchall() == [("demo, round 2", "FINISHED")]
        assert db.execute("SELECT step, value FROM metrics WHERE key = 'control/loss' ORDER BY step").fetchone() == (
            1,
            1.0,
        )
        assert db.execute("SELECT value FROM params WHERE key = 'train.learning_rate'").fetchone() == ("0.001",)


def test_trackio_keeps_the_run_and_leaves_stdout_alone(tmp_path):
    assert play("trackio", tmp_path, TRACKIO_DIR=str(tmp_path / "store")) == ""
    with sqlite3.connect(next((tmp_path / "store").glob("winnow*.db"))) as db:
        rows = db.execute("SELECT metrics FROM metrics").fetchall()
    assert sum(b"selected/loss" in metrics for (metrics,) in rows) == 3


def test_a_round_keeps_its_name():
    assert TrackedRound("demo", 3, "x", Path("."), {}).title == "demo, round 3"
