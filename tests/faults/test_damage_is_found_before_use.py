"""A file that changed after it was published stops the next command that would use it, and `doctor` and `resume` mend the run."""

from __future__ import annotations

import shutil

import pytest
from command_line import winnow

from al.run import integrity

FILES = (
    "selection/picked.npy", "selection/selection.parquet", "split/split.npy", "tokens/offsets.npy", "tokens/targets.npy", "tokens/ids.npy",
    "train/adapter/adapter_model.safetensors", "train/adapter/adapter_config.json", "groups/groups.parquet", "clusters/clusters.parquet",
)  # fmt: skip


@pytest.fixture
def run(two_rounds, tmp_path):
    """A copy of a run of two rounds, in what counts as another process."""
    copy = tmp_path / "run"
    shutil.copytree(two_rounds[0], copy, symlinks=True)
    integrity._checked.clear()
    return copy


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def next_round(run):
    return winnow("round", "--run", run, "--budget", 24, "--json")


@pytest.mark.parametrize("file", FILES)
def test_the_next_round_does_not_use_a_file_with_a_flipped_bit(run, file):
    path = (run / "rounds/002" / file).resolve()
    original = path.read_bytes()
    flip(path)
    stopped = next_round(run)
    assert stopped.code == 5 and path.name in stopped.err, stopped.err
    assert "Traceback" not in stopped.err and "--drop-damaged" in stopped.err
    published = {entry.name for entry in (run / "artifacts/train").iterdir()}
    assert {entry.name for entry in (run / "artifacts/selection").iterdir()} and len(published) == 4
    path.write_bytes(original)
    integrity._checked.clear()
    assert winnow("doctor", "--run", run).code == 0


def test_doctor_and_resume_mend_what_was_damaged(run, two_rounds):
    for file in FILES[:3]:
        flip((run / "rounds/002" / file).resolve())
    assert winnow("doctor", "--run", run).code == 5
    dropped = winnow("doctor", "--run", run, "--drop-damaged", "--json")
    assert dropped.code == 0 and 2 in dropped.document["reopened"]
    while winnow("resume", "--run", run, "--json").code == 0:
        pass
    assert winnow("doctor", "--run", run).code == 0
    for file in FILES[:3]:
        assert (run / "rounds/002" / file).read_bytes() == (two_rounds[0] / "rounds/002" / file).read_bytes()


@pytest.mark.parametrize("arguments", [("report",), ("status",), ("generate", "a word"), ("pool", "export", "OUT")])
def test_reading_commands_do_not_use_it_either(run, tmp_path, arguments):
    files = {
        "report": "report/summary.json",
        "status": "report/summary.json",
        "generate": "train/adapter/adapter_model.safetensors",
    }
    flip((run / "rounds/002" / files.get(arguments[0], "pool/examples.parquet")).resolve())
    out = str(tmp_path / "out.jsonl")
    found = winnow(*(out if word == "OUT" else word for word in arguments), "--run", run)
    assert found.code == 5 and "changed after it was published" in found.err, found.err
