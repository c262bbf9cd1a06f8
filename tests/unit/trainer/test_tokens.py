"""The token table: what is kept, cut and counted, and that the files give back what was tokenized."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import tokens
from trainer.errors import CheckpointError, DataError
from trainer.template import ChatTemplate, Tokenized
from trainer.tokens import BATCH, TokenTable, fit, join_parts, merge_tables, tokenize_parts, tokenize_pool, write_table
from trainer.tokens_config import TokensConfig


def chat(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def long_chat(tokenizer: Any, template: ChatTemplate) -> tuple[list[dict[str, str]], Tokenized]:
    messages = chat("Hello", "I am fine.", "And you?", "Thank you, I am fine too.")
    return messages, template.tokenize(messages)


@pytest.fixture(scope="module")
def template(byte_tokenizer: Any) -> ChatTemplate:
    return ChatTemplate.resolve(byte_tokenizer, "chatml")


def tokenize(
    conversations: list[Any], template: ChatTemplate, out: Path, **config: Any
) -> tuple[TokenTable, dict[str, Any]]:
    tokenize_pool(conversations, template, TokensConfig(**config), out)
    return TokenTable.open(out), json.loads((out / "tokens.json").read_text())


def test_the_files_hold_every_conversation_in_order(template: ChatTemplate, tmp_path: Path) -> None:
    conversations = [chat(f"question {i}", f"answer {i} 日本"[: i % 17]) for i in range(BATCH + 50)]
    tokenize_pool(iter(conversations), template, TokensConfig(), tmp_path)
    table = TokenTable.open(tmp_path)
    assert len(table) == len(conversations)
    for row in (0, 1, BATCH - 1, BATCH, len(table) - 1):
        expected = template.tokenize(conversations[row])
        assert table.ids(row).tolist() == expected.ids and table.targets(row).tolist() == expected.targets
    assert table.ids(0).dtype == np.int32 and table.targets(0).dtype == np.uint8 and table.offsets.dtype == np.int64
    assert (table.lengths == np.diff(table.offsets)).all()
    assert table.target_counts.tolist() == [int((table.targets(row) > 0).sum()) for row in range(len(table))]


@pytest.mark.parametrize(
    ("overlength", "limit", "status", "kept"),
    [
        ("skip", 40, 1, 0),
        ("truncate", 40, 2, 40),
        ("truncate_turns", 40, 2, None),
        ("truncate_turns", 8, 1, 0),
        ("truncate", 8, 3, 8),
    ],
)
def test_trap_5_what_is_over_length_is_cut_as_asked_and_counted(
    template: ChatTemplate,
    byte_tokenizer: Any,
    tmp_path: Path,
    overlength: str,
    limit: int,
    status: int,
    kept: int | None,
) -> None:
    messages, full = long_chat(byte_tokenizer, template)
    first_turn = full.targets.index(2) + 1
    assert 8 < first_turn < 40 < len(full.ids)
    kept = first_turn if kept is None else kept
    table, facts = tokenize([messages], template, tmp_path, max_length=limit, overlength=overlength)
    assert (table.status[0], table.lengths[0], table.dropped[0]) == (status, kept, len(full.ids) - kept)
    assert table.ids(0).tolist() == full.ids[:kept] and table.targets(0).tolist() == full.targets[:kept]
    assert facts["dropped_tokens"] == len(full.ids) - kept


@settings(max_examples=300, deadline=None)
@given(
    targets=st.lists(st.sampled_from([0, 0, 1, 2]), max_size=40),
    limit=st.integers(8, 48),
    overlength=st.sampled_from(["skip", "truncate", "truncate_turns"]),
)
def test_trap_5_kept_and_dropped_are_always_the_whole(targets: list[int], limit: int, overlength: str) -> None:
    full = Tokenized(list(range(len(targets))), targets)
    kept, status, dropped = fit(full, TokensConfig(max_length=limit, overlength=overlength))
    assert len(kept.ids) == len(kept.targets) <= limit and len(kept.ids) + dropped == len(targets)
    assert kept.ids == full.ids[: len(kept.ids)] and kept.targets == targets[: len(kept.ids)]
    assert (status in (0, 2)) == any(kept.targets)
    assert (status == 0) <= (dropped == 0) and (status == 2) <= (dropped > 0)
    assert status != 1 or (any(targets) and not kept.ids)
    if overlength == "truncate_turns" and status == 2:
        assert kept.targets[-1] == 2 and 2 not in targets[len(kept.ids) : limit]


def test_a_conversation_without_a_response_is_kept_with_status_3(template: ChatTemplate, tmp_path: Path) -> None:
    table, facts = tokenize([chat("Hello"), chat("Hello", "Fine.")], template, tmp_path)
    assert table.status.tolist() == [3, 0] and table.lengths[0] > 0 and table.target_counts[0] == 0
    assert facts["status"] == {"ok": 1, "skipped": 0, "truncated": 0, "no_target": 1}


def test_refused_conversations_are_counted_with_reason_and_row(template: ChatTemplate, tmp_path: Path) -> None:
    table, facts = tokenize([chat("a", "b"), [], chat("c", "d")], template, tmp_path)
    assert table.status.tolist() == [0, 3, 0] and table.lengths[1] == 0
    assert facts["refused"]["count"] == 1 and facts["refused"]["first"] == [
        {"row": 1, "reason": "expected at least one message, found none"}
    ]


def test_a_template_that_refuses_everything_stops_at_once(template: ChatTemplate, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="refuses all of the first 3 conversations"):
        tokenize_pool([[], [], []], template, TokensConfig(), tmp_path)


def test_tokens_json_names_template_and_tokenizer(template: ChatTemplate, tmp_path: Path) -> None:
    table, facts = tokenize([chat("a", "b")], template, tmp_path)
    assert facts["template"] == "chatml" and facts["template_hash"] == template.hash
    assert facts["tokens"] == table.lengths.sum() and facts["target_tokens"] == table.target_counts.sum() > 0
    assert facts["tokenizer"] == template.tokenizer_name and facts["conversations"] == 1


def test_an_empty_pool_gives_an_empty_table(template: ChatTemplate, tmp_path: Path) -> None:
    table, facts = tokenize([], template, tmp_path)
    assert len(table) == 0 and facts["tokens"] == 0 and len(table.lengths) == 0


def test_the_same_pool_gives_the_same_bytes(template: ChatTemplate, tmp_path: Path) -> None:
    for name in ("a", "b"):
        tokenize([chat("q", f"answer {i}") for i in range(20)], template, tmp_path / name)
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_a_table_in_memory_equals_the_one_on_disk(template: ChatTemplate, tmp_path: Path) -> None:
    conversations = [chat("a", "b"), chat("only a question"), chat("c", "d", "e", "f")]
    disk, _ = tokenize(conversations, template, tmp_path)
    memory = TokenTable.build([template.tokenize(messages) for messages in conversations])
    for name in ("flat_ids", "flat_targets", "offsets", "status", "dropped", "target_counts"):
        assert np.array_equal(getattr(disk, name), getattr(memory, name)), name


def test_damage_is_noticed(template: ChatTemplate, tmp_path: Path) -> None:
    tokenize([chat("a", "b"), chat("c", "d")], template, tmp_path)
    np.save(tmp_path / "status.npy", np.zeros(1, np.uint8))
    with pytest.raises(CheckpointError, match="do not belong together"):
        TokenTable.open(tmp_path)
    (tmp_path / "ids.npy").unlink()
    with pytest.raises(CheckpointError, match="ids.npy"):
        TokenTable.open(tmp_path)


@pytest.mark.parametrize("added", [[0, 7, 8, 29], [], list(range(30))])
def test_merged_tables_are_what_tokenizing_all_at_once_writes(
    template: ChatTemplate, tmp_path: Path, added: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "MERGED_AT_ONCE", 5)
    conversations: list[Any] = [chat(f"question {i}", "answer " * (i % 9)) for i in range(30)]
    conversations[3] = conversations[8] = [{"role": "assistant", "content": "nobody asked"}]
    kept = [i for i in range(30) if i not in added]
    config = TokensConfig(max_length=60, overlength="truncate")
    tokenize_pool(conversations, template, config, tmp_path / "all")
    for name, rows in (("kept", kept), ("added", added)):
        parts = tokenize_parts([conversations[i] for i in rows], template, config, may_refuse_all=True)
        write_table(parts, template, config, tmp_path / name)
    (tmp_path / "merged").mkdir()
    places = [np.array(rows, dtype=np.int64) for rows in (kept, added)]
    merge_tables([tmp_path / "kept", tmp_path / "added"], places, tmp_path / "merged")
    for file in sorted((tmp_path / "all").iterdir()):
        assert (tmp_path / "merged" / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_few_added_conversations_may_all_be_refused(template: ChatTemplate, tmp_path: Path) -> None:
    refused = [[{"role": "assistant", "content": 5}]]
    with pytest.raises(DataError, match="refuses all"):
        tokenize_pool(refused, template, TokensConfig(), tmp_path)
    parts = tokenize_parts(refused, template, TokensConfig(), may_refuse_all=True)
    write_table(parts, template, TokensConfig(), tmp_path)
    assert TokenTable.open(tmp_path).status.tolist() == [3]


@pytest.mark.parametrize("sizes", [[1] * 60, [30, 30], [1, 40, 0, 19]])
def test_the_table_does_not_depend_on_how_its_rows_were_parted(
    template: ChatTemplate, tmp_path: Path, sizes: list[int]
) -> None:
    conversations: list[Any] = [chat(f"question {i}", "answer " * (i % 9)) for i in range(60)]
    for row in range(9, 40):  # more reasons than are listed, and one of them often
        conversations[row] = [{"role": "user", "content": row}] if row % 5 else []
    config = TokensConfig(max_length=60, overlength="truncate")
    tokenize_pool(conversations, template, config, tmp_path / "once")
    parts = []
    for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        found = tokenize_parts(conversations[start : start + size], template, config, may_refuse_all=True)
        parts.append(list(found))
    joined = [join_parts(found) for found in parts if found]
    for name, some in (("single", chain.from_iterable(parts)), ("joined", joined), ("one", [join_parts(joined)])):
        write_table(some, template, config, tmp_path / name)
        for file in sorted((tmp_path / "once").iterdir()):
            assert (tmp_path / name / file.name).read_bytes() == file.read_bytes(), (name, file.name)
    facts = json.loads((tmp_path / "once" / "tokens.json").read_text())["refused"]
    assert facts["count"] == 31 and len(facts["reasons"]) == len(facts["first"]) == tokens.REASONS_KEPT
