"""What people, files and models wrote is printed without driving the terminal, and without the passwords in it."""

from __future__ import annotations

import json
import sys
import threading

import pytest
from command_line import winnow

from al.run.store import Run
from al.terminal import collecting, displayable, show, without_passwords

TITLE = "\x1b]owned\x07"
"""Sets the title of a terminal's window."""


def test_control_characters_and_reordering_marks_become_signs(capsys):
    show(f"a{TITLE}b\x9bc\u202ed")
    assert capsys.readouterr().out == "a␛]owned␇b\ufffdc\ufffdd\n"


def test_a_name_that_is_not_text_can_be_printed(capsys):
    show("caf\udce9.jsonl")
    assert capsys.readouterr().out == "caf?.jsonl\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://ann:s3cret@data.example/x.jsonl", "https://***@data.example/x.jsonl"),
        ("see postgres://ann:p%40ss@db:5432/a and ftp://token@host", "see postgres://***@db:5432/a and ftp://***@host"),
        ("https://data.example/users/@ann?to=b@c", "https://data.example/users/@ann?to=b@c"),
        ("https://data.example?to=b@c", "https://data.example?to=b@c"),
        ("ann@example.org", "ann@example.org"),
    ],
)
def test_passwords_of_urls_are_left_out(text, shown):
    assert without_passwords(text) == shown


@pytest.mark.parametrize(
    "command",
    [
        ("status", "--run", f"no{TITLE}run"),
        ("config", "show", "--set", f"train.{TITLE}=1"),
        ("config", "show", "--set", f"train.epochs={json.dumps(TITLE)}"),
        ("config", "show", "--config", f"{TITLE}.yaml"),
        ("config", f"{TITLE}"),
        ("config", "show", f"--{TITLE}"),
        ("round", "--budget", f"{TITLE}"),
        ("pool", "inspect", f"{TITLE}.jsonl"),
        ("pool", "import", "x.jsonl", "--map", f"{TITLE}=q"),
        ("compare", "--budget", "10", "--strategies", f"{TITLE}"),
        ("report", "--compare", f"{TITLE}", f"{TITLE}2"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_no_message_repeats_an_escape_sequence(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = winnow(*command)
    assert found.code in (2, 3, 5) and "owned" in found.err
    assert not set(found.err + found.out) & {"\x1b", "\x07"} and "Traceback" not in found.err


def test_an_error_is_one_line_whatever_the_name_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = winnow("pool", "inspect", "x\nround 9 done\n.jsonl")
    assert found.err.startswith("error: ") and found.err.count("\n") == 1


def test_documents_are_printed_without_escape_sequences(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = winnow("config", "show", "--set", f"report.currency={json.dumps(TITLE)}")
    assert shown.code == 0 and "␛" in shown.out and "\x1b" not in shown.out
    assert displayable({"\x1b": tmp_path / "\x1b"}) == {"␛": f"{tmp_path}/␛"}


def test_a_password_in_a_url_is_neither_printed_nor_recorded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = "https://ann:s3cret@data.example/rows.jsonl"
    for command in (
        ("pool", "import", url, "--run", "run"),
        ("pool", "inspect", url),
        ("round", "--budget", "10", "--pool", url, "--run", "run"),
        ("round", "--budget", "10", "--target", url, "--run", "run"),
        ("config", "show", "--set", f"model.name={url}"),
        ("config", "show", "--set", f"pool.files=[{url}]"),
    ):
        found = winnow(*command)
        assert found.code in (2, 3) and "data.example" in found.err and "s3cret" not in found.err + found.out, found.err
    with Run.create_or_open(tmp_path / "other") as run:
        run.event("tracker.failed", reason=f"cannot reach {url}")
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert written and not any(b"s3cret" in content for content in written)


def test_what_is_collected_is_not_printed_and_other_threads_are_not_affected(capfd):
    with collecting() as lines:
        show("a note for https://me:secret@host/x\x1b[2J")
        show("to stderr", file=sys.stderr)
        thread = threading.Thread(target=show, args=("of another thread",))
        thread.start()
        thread.join()
    show("after it")
    assert lines == ["a note for https://***@host/x␛[2J", "to stderr"]
    assert capfd.readouterr() == ("of another thread\nafter it\n", "")
