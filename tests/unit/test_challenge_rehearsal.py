"""The rehearsal of the efficiency challenge: it ends in time, says why it stopped, and goes on where it was. Commands are stand-ins."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from al.cache import cache_dir
from al.config import CONFIG_DIR, load

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import challenge_rehearsal  # noqa: E402
from challenge_rehearsal import LAST_SECONDS, Failed, Rehearsal, Stopped, TimeUp, answered  # noqa: E402

COMMANDS = """
import json, pathlib, sys, time
command = sys.argv[1]
if command == "slow":
    pathlib.Path(sys.argv[2]).write_text("begun")
    time.sleep(60)
if command == "broken":
    sys.exit("no such pool")
print(json.dumps({"did": command}))
"""


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that begins or continues a rehearsal of so many seconds."""
    (tmp_path / "cli.py").write_text(COMMANDS)
    monkeypatch.setattr(challenge_rehearsal, "ROOT", tmp_path)
    (tmp_path / "work").mkdir()

    def begun(seconds: float) -> Rehearsal:
        """With the record in the test's folder."""
        options = {"config": "x.yaml", "model": None, "budget": "5", "questions": 2, "tokens": 4, "set": []}
        places = {"work": tmp_path / "work", "out": tmp_path / "record.json", "device": "none", "card_shared": True}
        return Rehearsal(argparse.Namespace(**options, **places, minutes=(seconds + LAST_SECONDS) / 60))

    return begun


def test_a_phase_that_is_done_is_not_done_again_and_its_seconds_count(begin, tmp_path: Path):
    first = begin(30.0)
    assert first.phase("rounds", lambda: first.cli("run")) == {"did": "run"}
    first.seconds["rounds"] = 29.0
    first.write()
    second = begin(30.0)
    assert second.phase("rounds", lambda: pytest.fail("done again")) == {"did": "run"}
    assert second.left < 1.5
    assert json.loads((tmp_path / "record.json").read_text())["card_shared"] is True


def test_a_command_that_is_still_at_work_when_the_time_is_up_is_ended(begin, tmp_path: Path):
    rehearsal, started = begin(2.5), time.monotonic()
    with pytest.raises(TimeUp, match="slow"):
        rehearsal.phase("rounds", lambda: rehearsal.cli("slow", tmp_path / "mark"))
    assert (tmp_path / "mark").exists() and time.monotonic() - started < 20
    assert "rounds" not in rehearsal.found and rehearsal.seconds["rounds"] >= 2
    with pytest.raises(TimeUp):
        rehearsal.phase("export", lambda: pytest.fail("begun without time"))


KILLED = """
import argparse, os, pathlib, signal, sys, time
import challenge_rehearsal
from challenge_rehearsal import Rehearsal
challenge_rehearsal.BEAT_SECONDS = 0.05
work = pathlib.Path(sys.argv[1])
rehearsal = Rehearsal(argparse.Namespace(work=work, out=work / "record.json", minutes=60))
rehearsal.phase("rounds", lambda: (time.sleep(1), os.kill(os.getpid(), signal.SIGKILL)))
"""


def test_the_time_of_a_killed_phase_counts(begin, tmp_path: Path):
    (tmp_path / "work" / "state.json").write_text(json.dumps({"seconds": {"rounds": 20.0}, "found": {}}))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "work")],
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    rehearsal = begin(30.0)
    assert 20.7 <= rehearsal.seconds["rounds"] <= 22 and rehearsal.left < 9.4
    assert "rounds" not in rehearsal.found


def test_a_server_that_ends_is_named(begin, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    rehearsal = begin(30.0)

    @contextmanager
    def served(model: str):
        """The address of a server that is gone."""
        yield address

    monkeypatch.setattr(rehearsal, "served", served)
    with pytest.raises(Failed, match=r"the server of selected ended \(.*refused.*log.txt"):
        challenge_rehearsal.ask(rehearsal, "selected", [{"prompt": "1 + 1 =", "accepted": ["2"]}])


def test_a_signal_during_the_last_status_ends_the_rehearsal(begin, monkeypatch: pytest.MonkeyPatch):
    """The status may be missing, but not the wish to stop."""
    rehearsal = begin(30.0)

    def cli(command: str, *arguments: object, seconds: float | None = None):
        if command == "run":
            return {"did": "run"}
        if command == "status":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        return pytest.fail(f"{command} was begun")

    monkeypatch.setattr(rehearsal, "cli", cli)
    rehearsal.arguments.pool = None
    before = signal.signal(signal.SIGTERM, challenge_rehearsal._stop)
    try:
        with pytest.raises(Stopped, match="SIGTERM"):
            challenge_rehearsal.rehearse(rehearsal)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_no_answers_have_no_mean_score(tmp_path: Path):
    assert answered(tmp_path / "none.jsonl") == {"questions": 0, "mean_score": None, "seconds": 0, "answer_tokens": 0}


def test_a_command_that_fails_is_named_with_what_it_said(begin, tmp_path: Path):
    rehearsal = begin(30.0)
    with pytest.raises(Failed, match=r"cli.py broken: exit code 1: no such pool"):
        rehearsal.phase("rounds", lambda: rehearsal.cli("broken"))
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["complete"] is False and record["within_time"] is False
    assert "no such pool" in (tmp_path / "work" / "log.txt").read_text()


def test_answers_are_summed_up_from_what_was_kept(begin, tmp_path: Path):
    kept = tmp_path / "work" / "answers-base.jsonl"
    kept.write_text("".join(json.dumps({"score": s, "tokens": 3, "seconds": 0.25}) + "\n" for s in (1.0, 0.0, 0.5)))
    rehearsal = begin(30.0)
    rehearsal.write()
    expected = {"questions": 3, "mean_score": 0.5, "seconds": 0.8, "answer_tokens": 9}
    assert json.loads((tmp_path / "record.json").read_text())["answered"] == {"base": expected}


def test_what_a_small_model_changes_of_the_challenge_is_a_config():
    small = load(CONFIG_DIR / "efficiency-challenge.yaml", challenge_rehearsal.SMALL)
    assert small.embed.model == f"{cache_dir()}/minilm"
    assert (small.lora.r, small.holdout.test) == (32, 300)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs util-linux' setpriv")
def test_a_killed_rehearsal_leaves_no_command_at_work():
    parent = f"""
import sys, time
sys.path.append({str(BENCHMARKS)!r})
from common import child
child([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"])
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as killed:
        pid = int(killed.stdout.readline())  # of the child, which by now is asked to end when its parent does
        killed.kill()
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():  # a zombie's is empty
        assert time.monotonic() < until, "the child goes on"
        time.sleep(0.05)
