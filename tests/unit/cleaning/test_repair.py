"""Repairs on import: what they change, what they must not change, and that they are counted and part of a pool's identity."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al.config.cleaning import ENTITIES, CleanConfig
from al.config.pool import PoolConfig
from al.errors import ConfigError, RunStateError
from al.pool.formats import RowError
from al.pool.identity import check_same_pool, describe_sources
from al.pool.importer import import_pool
from al.pool.repair import Repair, make_repair
from al.pool.sources import find_sources
from al.pool.stats import PoolStats
from al.pool.store import Pool

ENCODING = CleanConfig(repair_encoding=True)
BROKEN, WHOLE = "It’s a cafÃ©, isnâ€™t it?", "It’s a café, isn’t it?"


def repaired(text: str, clean: CleanConfig = ENCODING) -> tuple[str, dict[str, int]]:
    counts: Counter[str] = Counter()
    ((_, after),) = Repair(clean).apply([("user", text)], counts)
    return after, dict(counts)


def imported(folder: Path, rows: list[dict], clean: CleanConfig) -> tuple[Pool, PoolStats]:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = folder / f"pool-{len(list(folder.iterdir()))}"
    out.mkdir()
    stats = import_pool(find_sources(PoolConfig(files=[str(folder / "rows.jsonl")])), out, repair=make_repair(clean))
    return Pool.open(out), stats


def test_text_of_the_wrong_character_set_is_repaired_and_counted_once_an_example():
    turns, counts = [("user", BROKEN), ("assistant", BROKEN)], Counter()
    assert Repair(ENCODING).apply(turns, counts) == [("user", WHOLE), ("assistant", WHOLE)]
    assert counts == {"repaired_encoding": 1}


@pytest.mark.parametrize(
    "text",
    ["plain", "“curly” – quotes…", "ﬁne", "ＦＵＬＬ", "&lt;b&gt;", "a\r\nb\u2028c", "\x1b[1m", "A\u0308", "日本語 über Ω"],
)  # fmt: skip
def test_text_that_was_decoded_rightly_is_left_alone(text):
    assert repaired(text) == (text, {})


@given(st.text(max_size=60))
def test_repairing_twice_is_repairing_once(text):
    once = repaired(text)[0]
    assert repaired(once)[0] == once


def test_nothing_is_loaded_or_called_while_the_switches_are_off():
    assert make_repair(CleanConfig()) is None and CleanConfig().repairs() == {}


def test_answers_and_other_fields_are_repaired_with_the_conversation(tmp_path):
    row = {"input": BROKEN, "ideal": [BROKEN, f"2 {BROKEN}"], "note": {"by": [BROKEN, 7]}}
    pool, stats = imported(tmp_path, [row], ENCODING)
    assert [m["content"] for m in pool.messages([0])[0]] == [WHOLE, WHOLE]
    assert pool.alternatives([0]) == [[f"2 {WHOLE}"]] and pool.metadata([0]) == [{"note": {"by": [WHOLE, 7]}}]
    assert stats.adjusted == {"repaired_encoding": 1}


def test_a_repaired_example_equals_the_one_that_was_never_broken(tmp_path):
    rows = [{"question": BROKEN, "answer": "yes"}, {"question": WHOLE, "answer": "yes"}]
    pool, stats = imported(tmp_path, rows, ENCODING)
    assert (len(pool), stats.duplicates) == (1, 1)
    pool, stats = imported(tmp_path, rows, CleanConfig())
    assert (len(pool), stats.adjusted) == (2, {})


def test_a_row_nested_too_deeply_to_repair_is_a_bad_row_and_no_crash():
    nested: list = [BROKEN]
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(RowError, match="nested too deeply"):
        Repair(ENCODING).fields({"more": nested})


def test_a_file_that_was_imported_without_repairs_is_read_again_with_them(tmp_path):
    imported(tmp_path, [{"question": BROKEN, "answer": "yes"}], CleanConfig())
    before, out = tmp_path / "pool-1", tmp_path / "grown"
    out.mkdir()
    sources = find_sources(PoolConfig(files=[str(tmp_path / "rows.jsonl")]))
    import_pool(sources, out, previous=before, repair=make_repair(ENCODING))
    assert sorted(m[0]["content"] for m in Pool.open(out).iter_messages()) == sorted([BROKEN, WHOLE])


def test_a_pool_is_described_as_before_unless_something_is_repaired(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    sources = find_sources(PoolConfig(files=[str(tmp_path)]))
    assert describe_sources(sources, CleanConfig().repairs()) == describe_sources(sources)
    assert describe_sources(sources, ENCODING.repairs())[0]["clean"] == {"encoding": True}


def test_a_run_cannot_go_on_with_other_repairs_than_it_was_begun_with(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    sources = find_sources(PoolConfig(files=[str(tmp_path)]))
    check_same_pool(describe_sources(sources, ENCODING.repairs()), sources, "runs/x", ENCODING.repairs())
    with pytest.raises(RunStateError, match="clean.repair_encoding"):
        check_same_pool(describe_sources(sources), sources, "runs/x", ENCODING.repairs())


def test_masking_says_how_to_install_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(ConfigError, match=r"pip install 'winnow-al\[pii\]'"):
        make_repair(CleanConfig(mask_pii=True))


def test_masked_kinds_are_an_identity_whatever_their_order():
    one = CleanConfig(mask_pii=["US_SSN", "CRYPTO"]).repairs()
    assert one == CleanConfig(mask_pii=["CRYPTO", "US_SSN", "CRYPTO"]).repairs() == {"pii": ["CRYPTO", "US_SSN"]}
    assert CleanConfig(mask_pii=True).repairs() == {"pii": list(ENTITIES)}
    assert CleanConfig(mask_pii=[]).repairs() == {}
