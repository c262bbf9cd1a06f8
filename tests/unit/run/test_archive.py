"""`export-run` and `import-run`: the same run comes out, and nothing of an archive that was changed or made to attack."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile

import pytest
from command_line import winnow

from al.errors import ConfigError, DataError, EnvironmentProblem, RunStateError
from al.run import archive, rounds
from al.run.archive import HEADER, export_run, import_run
from al.run.store import Run

TAKEN_ALONG = (
    *("rounds/001/report.html", "rounds/001/demo/deep/numbers.bin", "rounds/001/review/draft.json"),
    *("labelling/a.jsonl", "events.jsonl"),
)
ADDED = (
    *("rounds/001/review/draft.json", "labelling/a.jsonl"),
    *("scratch/a-b/part.bin", "trash/old/part.bin", "artifacts/mine/notes.txt"),
)


def publish(run):
    def build(out, scratch):
        (out / "deep").mkdir()
        (out / "deep/numbers.bin").write_bytes(bytes(range(256)) * 40)
        (out / "report.html").write_text("<p>seen</p>")

    return run.stage("demo", version=1, inputs={}, params={"of": "archive"}, build=build)


@pytest.fixture
def run(tmp_path):
    """A run with one artifact, a round with links, a review's draft, and what stays behind: scratch, trash, a stranger."""
    with Run.create_or_open(tmp_path / "run") as opened:
        artifact = publish(opened)
        rounds.open_round(opened, 1, "10", {"seed": 3})
        rounds.record(opened, 1, "demo", artifact)
        rounds.link(opened.path, 1, "demo", artifact.directory)
        rounds.link(opened.path, 1, "report.html", artifact.directory / "report.html")
        rounds.finish_round(opened, 1)
    for name in ADDED:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text(name)
    (tmp_path / "run/rounds/001/outside").symlink_to("/etc")
    return tmp_path / "run"


@pytest.fixture
def exported(run, tmp_path):
    export_run(run, tmp_path / "run.tar")
    return tmp_path / "run.tar"


def test_the_imported_run_is_the_same_and_goes_on(run, exported, tmp_path):
    said = import_run(exported, tmp_path / "elsewhere/copy")
    copy = tmp_path / "elsewhere/copy"
    assert said["files"] == len([p for p in copy.rglob("*") if p.is_file() and not p.is_symlink()])
    for name in TAKEN_ALONG:
        assert (copy / name).read_bytes() == (run / name).read_bytes()
    assert (copy / "rounds/001/demo").is_symlink() and not (copy / "rounds/001/outside").exists()
    assert not [name for name in ("scratch", "trash", "artifacts/mine", "run.lock") if (copy / name).exists()]
    with Run.create_or_open(run) as before, Run.create_or_open(copy) as after:
        assert publish(after).fingerprint == publish(before).fingerprint
        assert [r.config for r in rounds.all_rounds(after)] == [{"seed": 3}]
    last = [json.loads(line)["event"] for line in (copy / "events.jsonl").read_text().splitlines()][-1]
    assert last == "stage.reused"


def test_an_archive_depends_on_the_run_alone(run, exported, tmp_path):
    export_run(run, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == exported.read_bytes()
    with tarfile.open(exported) as tar:
        names = tar.getnames()
        assert names[:2] == [HEADER, "run.db"] and all(member.isreg() and not member.mtime for member in tar)


def test_a_run_is_exported_while_another_process_writes_it(run, tmp_path):
    with Run.create_or_open(run) as writer:
        writer.stage("late", version=1, inputs={}, params={}, build=lambda out, scratch: (out / "a").touch())
        rounds.open_round(writer, 2, "10", {})  # in the write-ahead log only
        export_run(run, tmp_path / "live.tar")
    import_run(tmp_path / "live.tar", tmp_path / "copy")
    with Run.read(tmp_path / "copy") as copy:
        assert len(copy.published("late")) == 1 and [entry.number for entry in rounds.all_rounds(copy)] == [1, 2]


def damaged(run):
    return next(run.glob("artifacts/demo/*/deep/numbers.bin"))


@pytest.mark.parametrize(
    "damage",
    [lambda p: p.write_bytes(p.read_bytes()[:-1] + b"!"), lambda p: p.write_bytes(b""), lambda p: p.unlink()],
    ids=["changed", "emptied", "deleted"],
)
def test_a_damaged_run_is_not_exported(run, tmp_path, damage):
    damage(damaged(run))
    with pytest.raises(RunStateError, match="numbers.bin.*nothing was exported"):
        export_run(run, tmp_path / "run.tar")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def members(path):
    with tarfile.open(path) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]


def rewrite(path, change):
    """The archive again, with its header (a dictionary) and members [[TarInfo, content]] as `change` leaves them."""
    found = [list(pair) for pair in members(path)]
    header = json.loads(found[0][1])
    found = change(header, found) or found
    found[0][1] = json.dumps(header).encode()
    with tarfile.open(path, "w") as tar:
        for member, content in found:
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content))


def named(name, kind=tarfile.REGTYPE, link=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def listed(name):
    """An attack that the header lists too."""

    def change(header, found):
        header["files"].append(
            {"name": name, "bytes": 4, "sha256": "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589"}
        )
        found.append([named(name), b"abcd"])

    return change


def empty(kind):
    """In the place of an empty file, whose size and content it has."""

    def change(header, found):
        header["files"].append({"name": "labelling/empty", "bytes": 0, "sha256": hashlib.sha256().hexdigest()})
        found.append([named("labelling/empty", kind, "run.db"), b""])

    return change


def replaced_by(kind, link):
    def change(header, found):
        found[-1] = [named(header["files"][-1]["name"], kind, link), b""]

    return change


def linked(link, target):
    return lambda header, found: header["links"].update({link: target})


def content_changed(header, found):
    place = next(i for i, (member, _) in enumerate(found) if member.name.endswith("numbers.bin"))
    found[place][1] = b"?" + found[place][1][1:]


def history_changed(header, found):
    place = next(i for i, (member, _) in enumerate(found) if member.name == "events.jsonl")
    found[place][1] = b"?" + found[place][1][1:]


def content_and_header_changed(header, found):
    """What somebody who knows the format would change: only the manifest shows it."""
    content_changed(header, found)
    for entry, (_, content) in zip(header["files"], found[1:], strict=True):
        entry["sha256"] = hashlib.sha256(content).hexdigest()


ATTACKS = {
    "absolute name": listed("/tmp/winnow-torture-planted"),
    "parent": listed("artifacts/../../planted"),
    "top-level file": listed("planted.py"),
    "hidden parent": listed("rounds/./planted"),
    "control characters": listed("rounds/001/\x1b[2J"),
    "backslash": listed("rounds\\..\\planted"),
    "file in no manifest": listed("artifacts/demo/planted.bin"),
    "not in the header": lambda header, found: found.append([named("rounds/001/planted"), b"abcd"]),
    "symbolic link": replaced_by(tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": replaced_by(tarfile.LNKTYPE, "run.db"),
    "device": replaced_by(tarfile.CHRTYPE, ""),
    "fifo": replaced_by(tarfile.FIFOTYPE, ""),
    "fifo for an empty file": empty(tarfile.FIFOTYPE),
    "directory for an empty file": empty(tarfile.DIRTYPE),
    "link for an empty file": empty(tarfile.SYMTYPE),
    "changed history": history_changed,
    "link out of the run": linked("rounds/001/planted", "artifacts/../../planted"),
    "link in the place of a file": linked("artifacts/demo/planted", "artifacts/demo"),
    "same name twice": lambda header, found: (header["files"].append(header["files"][-1]), found.append(found[-1]))[2:],
    "other order": lambda header, found: [found[0], *reversed(found[1:])],
    "changed content": content_changed,
    "changed content and header": content_and_header_changed,
    "another run's id": lambda header, found: header.update(run="another"),
    "another format": lambda header, found: header.update(format=99),
    "no run.db": lambda header, found: (header["files"].pop(0), found.pop(1))[2:],
    "size below zero": lambda header, found: header["files"][-1].update(bytes=-1),
    "header of another type": lambda header, found: header.update(files={"a": 1}),
    "file missing at the end": lambda header, found: found[:-1],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_archive_that_was_changed_or_attacks_is_refused_and_leaves_nothing(exported, tmp_path, attack):
    rewrite(exported, ATTACKS[attack])
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(DataError, match="not imported"):
        import_run(exported, tmp_path / "copy")
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert not os.path.exists("/tmp/winnow-torture-planted")


@pytest.mark.parametrize("keep", [0, 100, 600, 5000, 20_000])
def test_an_archive_that_was_cut_is_refused_and_leaves_nothing(exported, tmp_path, keep):
    exported.write_bytes(exported.read_bytes()[:keep])
    with pytest.raises(DataError, match="not imported"):
        import_run(exported, tmp_path / "copy")
    assert not (tmp_path / "copy").exists() and sorted(p.name for p in tmp_path.iterdir()) == ["run", "run.tar"]


def test_a_header_of_gigabytes_is_not_read(tmp_path):
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, 1 << 40
    (tmp_path / "bomb.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(DataError, match="not imported"):
        import_run(tmp_path / "bomb.tar", tmp_path / "copy")


def test_what_is_there_already_is_never_replaced(run, exported, tmp_path):
    with pytest.raises(ConfigError, match="exists already"):
        export_run(run, exported)
    for target in (run, exported):
        with pytest.raises(RunStateError, match="nothing is yet"):
            import_run(exported, target)
    with pytest.raises(DataError, match="found none"):
        import_run(tmp_path / "absent.tar", tmp_path / "copy")


def test_too_small_a_disk_is_found_before_anything_is_written(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(EnvironmentProblem, match="are free"):
        import_run(exported, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_the_commands_say_what_they_did_and_what_is_next(run, tmp_path):
    done = winnow("export-run", tmp_path / "a.tar", "--run", run)
    assert done.code == 0 and f"import-run {tmp_path / 'a.tar'}" in done.out
    done = winnow("import-run", tmp_path / "a.tar", "--run", tmp_path / "b", "--json")
    assert done.code == 0 and done.document["run"] == str(tmp_path / "b")
    assert winnow("import-run", tmp_path / "a.tar").code == 2
