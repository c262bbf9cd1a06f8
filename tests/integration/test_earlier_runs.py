"""Runs as earlier versions wrote them, kept as archives by tests/fixtures/make_run.py, are opened by this version and go on."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from command_line import winnow

from al.run import database, integrity

ARCHIVES = sorted((Path(__file__).resolve().parents[1] / "fixtures").glob("run-schema-*.tar.gz"))


@pytest.fixture(params=ARCHIVES, ids=lambda archive: archive.name.removesuffix(".tar.gz"))
def earlier(request, tmp_path, monkeypatch):
    """The folder of an earlier run and its models, in which paths are relative to it."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path / "earlier")
    integrity._checked.clear()
    return Path("run")


def test_every_schema_has_an_archive_that_is_small():
    schemas = {int(archive.name.split("-")[2].split(".")[0]) for archive in ARCHIVES}
    assert schemas >= set(range(1, database.SCHEMA_VERSION))
    assert all(archive.stat().st_size < 200_000 for archive in ARCHIVES)


def test_an_earlier_run_is_read_checked_and_continued(earlier):
    content = (earlier / "run.db").read_bytes()
    for words in (("status",), ("report",), ("doctor",)):
        found = winnow(*words, "--run", earlier, "--json")
        assert found.code == 0, found.err
    assert (earlier / "run.db").read_bytes() == content, "reading changes nothing"
    found = winnow("round", "--run", earlier, "--budget", 12, "--json")
    assert found.code == 0, found.err
    assert found.document["round"] == 2
    with database.connected_to_read(earlier) as db:
        assert database.schema_version(db) == database.SCHEMA_VERSION
    events = [json.loads(line) for line in (earlier / "events.jsonl").read_text().splitlines()]
    second = next(i for i, event in enumerate(events) if event["event"] == "round.opened" and event["round"] == 2)
    reused = {event["stage"] for event in events[second:] if event["event"] == "stage.reused"}
    assert {"tokenize", "embed", "train"} - reused == {"tokenize", "train"}
