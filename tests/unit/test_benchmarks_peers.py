"""What the peers' benchmark promises before any peer is installed: the documents, the arithmetic, the refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import peers  # noqa: E402


def test_the_documents_need_no_torch():
    code = "import sys, peers; peers.documents(3, 0); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS).returncode == 0


def test_document_lengths_are_lognormal_clipped_and_the_same_for_every_count():
    lengths = peers.document_lengths(20_000, 0)
    assert (lengths.min(), lengths.max()) == (16, 2048)
    assert np.median(lengths) == pytest.approx(200, rel=0.03)
    assert np.log(lengths[(lengths > 16) & (lengths < 2048)]).std() == pytest.approx(0.8, rel=0.05)
    assert peers.document_lengths(7, 0).tolist() == lengths[:7].tolist()
    assert peers.document_lengths(7, 1).tolist() != lengths[:7].tolist()
    assert [len(document) for document in peers.documents(7, 0)] == lengths[:7].tolist()


def test_the_first_four_steps_do_not_count_and_each_step_has_its_own_tokens():
    record = peers.Record(ended=[9.0, 19.0, 29.0, 39.0, 41.0, 45.0], tokens=[1, 1, 1, 1, 8000, 8400])
    assert record.speeds() == [4000.0, 2100.0]


@pytest.mark.parametrize(("tokens", "documents"), [(4000, 30), (8192, 4)])
def test_a_batch_that_is_half_empty_or_not_kept_apart_is_refused(tokens: int, documents: int):
    with pytest.raises(RuntimeError, match="not packed"):
        peers.check_first(peers.Record(tokens=[tokens], documents=[documents]), checkpointing=True)
    peers.check_first(peers.Record(tokens=[8183], documents=[22], checkpointing=True), checkpointing=True)


def test_checkpointing_that_was_switched_off_must_be_off():
    with pytest.raises(RuntimeError, match="switched off"):
        peers.check_first(peers.Record(tokens=[8183], documents=[22], checkpointing=True), checkpointing=False)


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (RuntimeError("CUDA error: out of memory"), True),
        (type("OutOfMemoryError", (RuntimeError,), {})("Tried to allocate 2.00 GiB"), True),
        (ImportError("No module named 'trl'"), False),
    ],
)
def test_a_failure_says_whether_memory_ran_out(error: Exception, full: bool):
    row = peers.failure("trl", 16, error)
    assert (row["name"], row["out_of_memory"]) == ("trl", full)
    assert str(error) in row["error"]


def test_rows_are_appended(tmp_path: Path):
    path = tmp_path / "new" / "rows.json"
    peers.append_row(path, {"name": "a"})
    peers.append_row(path, {"name": "b"})
    assert [row["name"] for row in json.loads(path.read_text())] == ["a", "b"]


def test_a_peer_that_is_not_there_leaves_an_error_row_and_fails(tmp_path: Path):
    (tmp_path / "unsloth.py").write_text("raise ImportError('no accelerator')")
    out = tmp_path / "rows.json"
    command = [sys.executable, str(BENCHMARKS / "peers.py"), "unsloth", "--model", str(tmp_path), "--out", str(out)]
    done = subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, capture_output=True)
    assert done.returncode == peers.FAILED
    assert json.loads(out.read_text())[0]["error"] == "ImportError: no accelerator"
