"""Which files a pool is made from, and what they are called."""

from __future__ import annotations

import json

import pytest

from al.errors import ConfigError, DataError, RunStateError
from al.pool.config import PoolConfig
from al.pool.identity import check_same_pool, describe_sources, sources_config
from al.pool.importer import import_pool
from al.pool.sources import find_sources, make_sources, parse_hub, without_suffix


def labels(*entries: object) -> list[str]:
    return [source.label for source in find_sources(PoolConfig(files=[str(entry) for entry in entries]))]


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jsonl", "a.csv", "deep/c.json.gz", "readme.md", ".hidden.jsonl", "LICENSE"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    return tmp_path / "data"


def test_a_folder_stands_for_the_readable_files_below_it(folder):
    assert labels(folder) == ["data/a.csv", "data/b.jsonl", "deep/c.json.gz"]


def test_a_pattern_stands_for_what_it_matches(folder):
    assert labels(folder / "*.csv") == ["data/a.csv"]


def test_a_file_named_twice_is_read_once(folder):
    assert labels(folder, folder / "a.csv", folder / "*.csv") == labels(folder)


def test_labels_never_hold_an_absolute_path(folder):
    assert not any(label.startswith("/") for label in labels(folder))


def test_labels_that_clash_grow_until_they_differ():
    made = make_sources(["/x/a/data/rows.jsonl", "/x/b/data/rows.jsonl"])
    assert [source.label for source in made] == ["a/data/rows.jsonl", "b/data/rows.jsonl"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("nowhere.jsonl", "there is no file or folder"),
        ("no*.jsonl", "no file matches the pattern"),
        ("", "holds no file that can be"),
    ],
)
def test_a_path_that_leads_nowhere_is_an_error(tmp_path, entry, message):
    with pytest.raises(DataError, match=message):
        labels(tmp_path / entry)


def test_a_file_that_vanished_since_is_an_error(folder, tmp_path):
    sources = find_sources(PoolConfig(files=[str(folder / "b.jsonl")]))
    (folder / "b.jsonl").unlink()
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"data/b\.jsonl: cannot be opened"):
        import_pool(sources, tmp_path / "out")


@pytest.mark.parametrize("name", ["a/b.jsonl", "a/b.JSON.gz", "a/b.parquet", "a/b.tsv.gz", "a/b"])
def test_the_stem_is_the_name_without_what_says_how_to_read_it(name):
    assert without_suffix(name) == "a/b"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("owner/name", ("owner/name", None, None, "train")),
        ("hub:owner/name@v1[easy]:test", ("owner/name", "v1", "easy", "test")),
        ("owner/name:validation", ("owner/name", None, None, "validation")),
    ],
)
def test_a_hub_name_is_taken_apart(text, parts):
    found = parse_hub(text)
    assert (found.name, found.revision, found.subset, found.split) == parts


def test_a_hub_name_of_another_form_is_an_error():
    with pytest.raises(ConfigError, match="owner/name@revision"):
        parse_hub("owner/name[[x]")


def test_a_local_folder_is_read_like_a_hub_data_set(tmp_path, good):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text(json.dumps(good) + "\n")
    (tmp_path / "out").mkdir()
    stats = import_pool(find_sources(PoolConfig(hub=[str(tmp_path / "set")])), tmp_path / "out")
    assert (stats.examples, stats.formats) == (1, {"question_answer": 1})


class TestARunNoticesAnotherPool:
    @pytest.fixture
    def sources(self, folder):
        return find_sources(PoolConfig(files=[str(folder)]))

    def test_the_same_files_pass(self, sources):
        check_same_pool(describe_sources(sources), sources, "runs/x")

    def test_a_file_that_changed_is_an_error(self, sources, folder):
        recorded = describe_sources(sources)
        (folder / "a.csv").write_text("question,answer")
        with pytest.raises(RunStateError, match=r"data/a\.csv changed since runs/x imported it"):
            check_same_pool(recorded, sources, "runs/x")

    def test_a_file_that_is_new_is_an_error_that_says_how_to_add_it(self, sources):
        with pytest.raises(
            RunStateError, match=r"deep/c\.json\.gz is not part of .* pool import deep/c\.json\.gz --run runs/x"
        ):
            check_same_pool(describe_sources(sources[:2]), sources, "runs/x")


def test_names_on_the_command_line_take_the_place_of_the_configured_sources():
    config = PoolConfig(files=["old.jsonl"], hub=["old/set"], source_field="kind")
    changed = sources_config(config, ["new.jsonl", "hub:new/set"], "evals", strict=True)
    assert (changed.files, changed.hub) == (["new.jsonl"], ["hub:new/set"])
    assert (changed.format, changed.strict, changed.source_field) == ("evals", True, "kind")
