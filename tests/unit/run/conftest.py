"""Fixtures of tests of artifacts on a store."""

from __future__ import annotations

import fsspec
import pytest
from shaky_store import Shaky, opened, publish

from al.run import integrity
from al.run.object_store import access


@pytest.fixture
def calm(monkeypatch):
    """No fault, no waiting, and nothing checked before."""
    fsspec.register_implementation("shaky", Shaky, clobber=True)
    monkeypatch.setattr(Shaky, "faults", {})
    monkeypatch.setattr(Shaky, "puts", [])
    waited = []
    monkeypatch.setattr(access.time, "sleep", waited.append)
    integrity._checked.clear()
    return waited


@pytest.fixture
def base(tmp_path):
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def run_path(calm, tmp_path, base):
    """A run with two artifacts on a store."""
    with opened(tmp_path / "run", f"shaky://{base}") as run:
        publish(run, 1)
        publish(run, 2)
    integrity._checked.clear()
    return tmp_path / "run"
