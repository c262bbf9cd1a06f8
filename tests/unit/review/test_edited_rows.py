"""An edited example stands in for the original that led its group of near-duplicates; nothing else of the group does."""

from __future__ import annotations

import json

import numpy as np
import pytest

from al.lineage.outcomes import edited_rows
from al.pool.importer import import_pool
from al.pool.sources import make_sources
from al.pool.store import Pool


@pytest.fixture
def pool(tmp_path) -> Pool:
    """An original, another near-duplicate of it, one edited from it, and one that only says that it was edited from something."""
    rows = [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": said}], **more}
        for said, more in (("original", {}), ("alike", {}), ("of another", {"edited_from": "00000000000000ff"}))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "first").mkdir()
    import_pool(make_sources([str(tmp_path / "rows.jsonl")]), tmp_path / "first")
    name = str(named(Pool.open(tmp_path / "first"))["original"][1])
    edited = {"messages": rows[0]["messages"][:1], "response": "edited", "suggestion": "", "edited_from": name}
    (tmp_path / "edited.jsonl").write_text(json.dumps(edited) + "\n")
    (tmp_path / "second").mkdir()
    import_pool(make_sources([str(tmp_path / "edited.jsonl")]), tmp_path / "second", previous=tmp_path / "first")
    return Pool.open(tmp_path / "second")


def named(pool: Pool) -> dict[str, tuple[int, str]]:
    """{response: (row, id)}."""
    return {said[-1]["content"]: (row, pool.ids[row]) for row, said in enumerate(pool.iter_messages())}


def replacing(pool: Pool, *dropped: str, leader: str = "original") -> list[str]:
    """The responses of the examples that take a place, where one leads all and the `dropped` were removed."""
    at = {said: row for said, (row, _) in named(pool).items()}
    representative = np.full(len(pool), at[leader])
    gone = np.isin(np.arange(len(pool)), [at[name] for name in dropped])
    near = representative != np.arange(len(pool))
    found = edited_rows(pool, near, representative, [("dropped_in_review", gone)])
    return [said for said, row in at.items() if row in found]


def test_the_edited_one_takes_the_place_of_its_original(pool):
    assert replacing(pool, "original") == ["edited"]


def test_without_a_removed_leader_every_near_duplicate_stays_one(pool):
    assert replacing(pool) == [] and replacing(pool, "alike") == []
    assert replacing(pool, "original", leader="alike") == [], "the leader can be picked, and is nearly the same"
