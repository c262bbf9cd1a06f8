"""Presets: published sets by name, read by the loading code that reads the hub, here from local repositories of the same layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from preset_rows import ROWS, write_repository, write_rows

from al.config.pool import PoolConfig
from al.errors import ConfigError, DataError
from al.pool import presets
from al.pool.formats import FORMATS
from al.pool.identity import describe_sources
from al.pool.importer import import_pool
from al.pool.preset_table import PRESETS
from al.pool.sources import find_sources
from al.pool.stats import PoolStats
from al.pool.store import Pool

BY_NAME = {preset.name: preset for preset in PRESETS}


@pytest.fixture
def copies(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(presets.FOLDER_VARIABLE, str(tmp_path / "copies"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    return tmp_path / "copies"


def imported(tmp_path: Path, *names: str, held_out: bool = False, **config) -> tuple[PoolStats, Pool]:
    out = tmp_path / f"pool-{len(list(tmp_path.glob('pool-*')))}"
    out.mkdir()
    stats = import_pool(find_sources(PoolConfig(files=list(names), **config), held_out=held_out), out)
    return stats, Pool.open(out)


def test_every_preset_has_rows_here_and_every_name_is_its_own():
    assert set(ROWS) == set(BY_NAME) and len({preset.name.lower() for preset in PRESETS}) == len(PRESETS)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_preset_is_read_from_a_repository_of_its_layout(copies, tmp_path, preset):
    write_repository(copies, preset)
    stats, pool = imported(tmp_path, preset.name)
    assert preset.format in FORMATS and list(stats.formats) == [preset.format]
    assert stats.quarantined == {} and stats.labelled == 1
    assert all(metadata["group"] == preset.group for metadata in pool.metadata(range(len(pool))))


def test_a_preset_of_a_part_takes_only_the_rows_of_that_part(copies, tmp_path):
    write_repository(copies, BY_NAME["open-platypus-people"])
    _, pool = imported(tmp_path, "open-platypus-people")
    assert pool.origin(range(len(pool))) == ["preset:open-platypus-people:train:2"]
    assert [m["content"] for m in pool.messages([0])[0]] == ["Say A.", "A"]


def test_the_best_reply_of_a_preset_of_trees_is_taken(copies, tmp_path):
    write_repository(copies, BY_NAME["oasst1"])
    _, pool = imported(tmp_path, "oasst1")
    assert [m["content"] for m in pool.messages([0])[0]] == ["Say A.", "A"]


class TestSplits:
    @pytest.fixture
    def gsm8k(self, copies):
        write_repository(copies, BY_NAME["gsm8k"])

    @pytest.mark.parametrize(
        ("name", "held_out", "asked"),
        [
            ("gsm8k", False, "Say A."),
            ("gsm8k", True, "Repeat A."),
            ("gsm8k:test", False, "Repeat A."),
            ("gsm8k:train", True, "Say A."),
            ("preset:GSM8K", False, "Say A."),
        ],
    )
    def test_a_target_takes_the_test_split_unless_another_is_named(self, gsm8k, tmp_path, name, held_out, asked):
        _, pool = imported(tmp_path, name, held_out=held_out)
        assert pool.messages([0])[0][0]["content"] == asked

    def test_a_split_that_is_not_there_is_an_error(self, gsm8k, tmp_path):
        with pytest.raises(DataError, match=r"preset:gsm8k:dev: .*pool presets"):
            imported(tmp_path, "gsm8k:dev")

    def test_origins_and_sources_bear_the_name_of_the_preset(self, gsm8k, tmp_path):
        stats, pool = imported(tmp_path, "gsm8k")
        assert (pool.origin([0]), stats.sources) == (["preset:gsm8k:train:1"], {"gsm8k": 1})


class TestNames:
    def test_a_file_of_the_name_comes_first_and_the_prefix_always_means_the_preset(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "lima").mkdir()
        (tmp_path / "lima" / "a.jsonl").write_text('{"question": "a", "answer": "b"}')
        labels = [find_sources(PoolConfig(files=[name]))[0].label for name in ("lima", "preset:lima")]
        assert labels == ["lima/a.jsonl", "preset:lima:train"]

    def test_a_name_that_is_nearly_one_is_suggested(self):
        with pytest.raises(DataError, match="did you mean the preset `gsm8k`"):
            find_sources(PoolConfig(files=["gsm8"]))
        with pytest.raises(ConfigError, match=r"there is no preset gsm8 \(did you mean the preset `gsm8k`\?\)"):
            find_sources(PoolConfig(files=["preset:gsm8"]))

    def test_the_users_mapping_and_format_do_not_touch_presets(self, copies, tmp_path):
        write_repository(copies, BY_NAME["gsm8k"])
        stats, _ = imported(tmp_path, "gsm8k", map={"question": "q", "answer": "a"}, format="alpaca")
        assert stats.formats == {"question_answer": 1}

    def test_what_a_preset_is_read_from_is_part_of_the_pools_identity(self):
        (described,) = describe_sources(find_sources(PoolConfig(files=["boolq"])))
        assert described["label"] == "preset:boolq:train"
        assert (described["preset"], described["map"]["answer"]) == ("google/boolq", "answer")


class TestHubFolders:
    """`hub:` with a local folder goes through the code that reads the hub, README configs included."""

    def test_configs_and_splits_of_a_card_are_known(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
        write_repository(tmp_path, BY_NAME["arc-easy"])
        stats, pool = imported_hub(tmp_path, f"{tmp_path}/allenai/ai2_arc[ARC-Easy]:test")
        assert stats.formats == {"multiple_choice": 1}
        assert "Which one?" in pool.messages([0])[0][0]["content"]

    def test_nulls_that_parquet_fills_in_are_no_content(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
        call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
        messages = [
            {"role": "user", "content": "Add."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "1", "tool_call_id": "1"},
            {"role": "assistant", "content": "1"},
        ]
        write_rows(tmp_path / "set" / "data" / "train-00000-of-00001.parquet", [{"messages": messages}])
        write_rows(tmp_path / "lines.jsonl", [{"messages": messages}])
        _, hub = imported_hub(tmp_path, str(tmp_path / "set"))
        _, lines = imported(tmp_path, str(tmp_path / "lines.jsonl"))
        assert hub.ids.tolist() == lines.ids.tolist()

    def test_a_data_set_that_needs_code_of_its_own_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "set.py").write_text("raise SystemExit('ran')")
        with pytest.raises(DataError, match="scripts are no longer supported"):
            imported_hub(tmp_path, str(tmp_path / "set"))


def imported_hub(tmp_path: Path, name: str) -> tuple[PoolStats, Pool]:
    out = tmp_path / "pool-hub"
    out.mkdir()
    return import_pool(find_sources(PoolConfig(hub=[name])), out), Pool.open(out)


class TestTheList:
    def test_the_command_lists_every_preset_with_its_licence_and_rules(self):
        from command_line import winnow

        printed = winnow("pool", "presets")
        assert printed.code == 0
        assert all(preset.name in printed.out and preset.licence in printed.out for preset in PRESETS)
        assert [entry["name"] for entry in winnow("pool", "presets", "--json").document] == [p.name for p in PRESETS]

    @pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
    def test_what_a_model_wrote_is_not_called_allowed(self, preset):
        assert preset.allowed.split(":")[0] in ("yes", "partly", "no")
        assert ("people" in preset.written) or preset.allowed.startswith("no")

    def test_the_page_holds_the_same_table(self):
        page = (Path(__file__).resolve().parents[3] / "docs" / "pools.md").read_text(encoding="utf-8")
        rows = [line for line in page.splitlines() if line.startswith("| `")]
        missing = [
            p.name
            for p in PRESETS
            if not any(f"`{p.name}`" in row and p.licence in row and p.path in row for row in rows)
        ]
        assert missing == []


def test_presets_are_imported_through_the_command_line(copies, tmp_path):
    from command_line import winnow

    write_repository(copies, BY_NAME["boolq"])
    result = winnow("pool", "import", "boolq", "--run", tmp_path / "run", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["sources"] == {"boolq": 1}
