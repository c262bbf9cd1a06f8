"""Which files a pool is made from, and what they are called."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path

import pytest
from command_line import winnow

from al.config import Config
from al.config.pool import PoolConfig
from al.errors import ConfigError, DataError, RunStateError
from al.pool.identity import check_same_pool, describe_sources, sources_config
from al.pool.importer import import_pool
from al.pool.reading.kinds import without_suffix
from al.pool.reading.stdin import spool
from al.pool.sources import find_sources, make_sources, parse_hub
from al.preparation.stages import pool_version
from al.run.session import Session
from al.run.store import Run


def labels(*entries: object) -> list[str]:
    return [source.label for source in find_sources(PoolConfig(files=[str(entry) for entry in entries]))]


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jsonl", "a.csv", "deep/c.json.gz", "readme.md", ".hidden.jsonl", "LICENSE"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    return tmp_path / "data"


def test_a_folder_means_the_readable_files_below_it(folder):
    assert labels(folder) == ["data/a.csv", "data/b.jsonl", "deep/c.json.gz"]


def test_a_pattern_means_its_matches(folder):
    assert labels(folder / "*.csv") == ["data/a.csv"]


def test_a_file_named_twice_is_read_once(folder):
    assert labels(folder, folder / "a.csv", folder / "*.csv") == labels(folder)


def test_labels_never_hold_an_absolute_path(folder):
    assert not any(label.startswith("/") for label in labels(folder))


def test_labels_that_clash_grow_until_they_differ():
    made = make_sources(["/x/a/data/rows.jsonl", "/x/b/data/rows.jsonl"])
    assert [source.label for source in made] == ["a/data/rows.jsonl", "b/data/rows.jsonl"]


class TestImportsOneAfterTheOther:
    """Files whose labels are alike, imported one by one: each keeps the label it was imported under."""

    @pytest.fixture
    def files(self, tmp_path):
        """Two files in folders of the same names, each with a bad row; `write` changes one of them."""

        def write(top: str, text: str) -> Path:
            path = tmp_path / top / "x" / "data" / "train.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"question": text, "answer": "Yes."}) + "\n{oops\n")
            return path

        return write

    def imported(self, tmp_path, *paths: Path) -> dict[str, int]:
        """{label: bad rows} of the pool once `paths` are imported."""
        done = winnow("pool", "import", *paths, "--run", tmp_path / "run", "--json")
        assert done.code == 0, done.err
        return {file["file"]: file["quarantined"] for file in done.document["files"]}

    def test_another_file_gets_a_label_of_its_own_and_the_first_keeps_its_bad_rows(self, tmp_path, files):
        assert self.imported(tmp_path, files("a", "One?")) == {"data/train.jsonl": 1}
        assert self.imported(tmp_path, files("b", "Two?")) == {"data/train.jsonl": 1, "x/data/train.jsonl": 1}

    def test_one_that_was_corrected_keeps_its_label(self, tmp_path, files):
        first = {"data/train.jsonl": 1, "x/data/train.jsonl": 1}
        self.imported(tmp_path, files("a", "One?"))
        assert self.imported(tmp_path, files("b", "Two?")) == first
        assert self.imported(tmp_path, files("b", "Three?")) == self.imported(tmp_path, files("a", "Four?")) == first

    def test_one_that_was_moved_keeps_its_label(self, tmp_path, files):
        first = files("a", "One?")
        self.imported(tmp_path, first)
        first.unlink()
        assert self.imported(tmp_path, files("b", "Two?")) == {"data/train.jsonl": 1}

    def test_a_copy_keeps_its_label(self, tmp_path, files):
        self.imported(tmp_path, files("a", "One?"))
        assert self.imported(tmp_path, files("b", "One?")) == {"data/train.jsonl": 1}

    def test_named_together_afterwards_they_are_the_pools_files(self, tmp_path, files):
        paths = [files("a", "One?"), files("b", "Two?")]
        for path in paths:
            before = self.imported(tmp_path, path)
        assert self.imported(tmp_path, *paths) == before
        config = Config.model_validate({"pool": {"files": [str(path) for path in paths]}})
        with Run.create_or_open(tmp_path / "run") as run:
            pool_version(Session(run, config))
            files("b", "Three?")
            with pytest.raises(RunStateError, match=r"x/data/train\.jsonl changed since"):
                pool_version(Session(run, config))

    def test_a_held_out_file_is_not_called_like_one_of_the_pool(self, tmp_path, files):
        pool, test = files("a", "One?"), files("b", "Two?")
        config = Config.model_validate({"pool": {"files": [str(pool)]}, "holdout": {"test_files": [str(test)]}})
        with Run.create_or_open(tmp_path / "run") as run:
            found = pool_version(Session(run, config))[1].json("pool.json")["files"]
            assert [file["file"] for file in found] == ["data/train.jsonl", "x/data/train.jsonl"]
            assert pool_version(Session(run, config))[0] == 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("nowhere.jsonl", "there is no file or folder"),
        ("no*.jsonl", "no file matches the pattern"),
        ("", "contains no importable file"),
    ],
)
def test_a_path_that_leads_nowhere_is_an_error(tmp_path, entry, message):
    with pytest.raises(DataError, match=message):
        labels(tmp_path / entry)


class TestLinks:
    def test_a_folder_that_links_to_itself_is_gone_through_once(self, folder):
        (folder / "loop").symlink_to(folder)
        (folder / "deep" / "up").symlink_to(folder.parent)
        assert labels(folder) == ["data/a.csv", "data/b.jsonl", "deep/c.json.gz"]

    @pytest.mark.parametrize("pattern", ["**/*.jsonl", "**/b.*"])
    def test_a_pattern_across_folders_follows_no_link_for_ever(self, folder, pattern):
        for name in ("one", "two", "three"):
            (folder / name).symlink_to(folder)
        assert labels(folder / pattern) == ["data/b.jsonl"]

    def test_a_link_to_a_folder_elsewhere_is_followed(self, folder, tmp_path):
        (tmp_path / "else").mkdir()
        (tmp_path / "else" / "d.jsonl").touch()
        (folder / "more").symlink_to(tmp_path / "else")
        assert labels(folder / "**" / "*.jsonl") == ["data/b.jsonl", "more/d.jsonl"]
        assert "more/d.jsonl" in labels(folder)

    def test_two_names_of_one_file_are_one_source(self, folder):
        (folder / "z.jsonl").symlink_to(folder / "b.jsonl")
        assert labels(folder / "b.jsonl", folder / "z.jsonl", f"{folder}/../data/b.jsonl") == ["data/b.jsonl"]

    def test_hidden_folders_are_left_out(self, folder):
        (folder / ".cache").mkdir()
        (folder / ".cache" / "x.jsonl").touch()
        assert labels(folder) == ["data/a.csv", "data/b.jsonl", "deep/c.json.gz"]


class TestRoot:
    """`pool.root`: the folder that must contain every file."""

    def test_files_below_it_pass(self, folder):
        assert len(find_sources(PoolConfig(files=[str(folder)], root=str(folder)))) == 3

    @pytest.mark.parametrize("entry", ["data/b.jsonl", "data/deep/../b.jsonl", "data/*.jsonl", "data"])
    def test_a_path_out_of_it_is_an_error_that_names_both(self, folder, entry):
        root = folder / "deep"
        with pytest.raises(ConfigError, match=rf"pool\.files: .* resolves to {folder}/.*pool\.root \({root}\)"):
            find_sources(PoolConfig(files=[f"{folder.parent}/{entry}"], root=str(root)))

    def test_a_link_out_of_it_is_an_error(self, folder):
        (folder / "deep" / "link.jsonl").symlink_to(folder / "b.jsonl")
        with pytest.raises(ConfigError, match=r"link\.jsonl resolves to .*/data/b\.jsonl"):
            find_sources(PoolConfig(files=[str(folder / "deep")], root=str(folder / "deep")))

    def test_a_sibling_folder_with_a_longer_name_is_outside(self, tmp_path):
        for name in ("in", "inner"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "a.jsonl").touch()
        with pytest.raises(ConfigError, match="outside"):
            find_sources(PoolConfig(files=[str(tmp_path / "inner")], root=str(tmp_path / "in")))

    @pytest.mark.parametrize("root", [".", "deep"])
    def test_a_local_folder_read_like_a_hub_data_set_is_refused(self, folder, root):
        with pytest.raises(ConfigError, match="its README may name files anywhere"):
            find_sources(PoolConfig(hub=[str(folder)], root=str(folder / root)))


class TestStandardInput:
    def test_what_was_piped_in_is_a_file_named_by_its_bytes(self, tmp_path, good):
        content = json.dumps(good).encode()
        first, again = spool(tmp_path, io.BytesIO(content)), spool(tmp_path, io.BytesIO(content))
        assert first == again and first.read_bytes() == content
        assert spool(tmp_path, io.BytesIO(content + b"\n")) != first

    def test_it_is_called_stdin_in_all_that_is_shown(self, tmp_path, good):
        path = spool(tmp_path, io.BytesIO(json.dumps(good).encode()))
        (source,) = find_sources(PoolConfig(files=[str(path)]))
        assert (source.label, source.stem) == (path.name, "stdin")
        assert path.name.startswith("stdin-")

    def test_it_cannot_be_named_where_it_would_have_to_be_read_again(self):
        with pytest.raises(ConfigError, match="pool import -"):
            find_sources(PoolConfig(files=["-"]))

    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_the_command_imports_it(self, tmp_path, good, pack, monkeypatch):
        content = pack(json.dumps(good).encode() + b"\n{oops")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        done = winnow("pool", "import", "-", "--run", tmp_path / "run", "--json")
        assert done.code == 0, done.err
        (file,) = json.loads(done.out)["files"]
        assert (file["rows"], file["quarantined"], file["sha256"][:8]) == (2, 1, file["file"].removeprefix("stdin-"))
        assert json.loads(done.out)["sources"] == {"stdin": 1}


def test_a_file_that_vanished_since_is_an_error(folder, tmp_path):
    sources = find_sources(PoolConfig(files=[str(folder / "b.jsonl")]))
    (folder / "b.jsonl").unlink()
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"data/b\.jsonl: cannot be opened"):
        import_pool(sources, tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["a/b.jsonl", "a/b.JSON.gz", "a/b.parquet", "a/b.tsv.gz", "a/b.txt.zst", "a/b.feather", "a/b"]
)
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
        with pytest.raises(RunStateError, match=r"data/a\.csv changed since runs/x imported it\. A run keeps the pool"):
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
