"""What the pages say holds: figures come from records, links lead somewhere, every trap has its test."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cli import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_two_tables_of_one_page_are_both_drawn(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import render

    page = tmp_path / "page.md"
    page.write_text("<!-- one -->\nold\n<!-- /one -->\n<!-- two -->\nold\n<!-- /two -->\n")
    tables = [("scale_cpu", page, "one", lambda record: "first"), ("scale_cpu", page, "two", lambda record: "second")]
    monkeypatch.setattr(render, "TABLES", tables)
    ((path, text),) = render.tables_of_pages()
    assert path == page and "first" in text and "second" in text and "old" not in text


def test_the_benchmark_page_is_what_the_records_say():
    done = subprocess.run([sys.executable, ROOT / "benchmarks/render.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page):
    text = page.read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:al|selection|trainer|configs|tests|docs|benchmarks)/[\w/.-]+)`", text)
    missing = [link for link in links if link and not (page.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_a_heading(page):
    links = re.findall(r"\]\(([^)\s#]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    headings = {link: anchors(page.parent / link if link else page) for link, _ in links if "://" not in link}
    assert [f"{link}#{anchor}" for link, anchor in links if link in headings and anchor not in headings[link]] == []


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "submission/README.md"], ids=lambda page: page.name)
def test_commands_shown_are_accepted(page, tmp_path, monkeypatch):
    """Each line of code that starts with `python cli.py` names a command with options that it has."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batch.csv").touch()  # an option that reads a file wants it to exist
    assert [found for line in shown_commands(page.read_text(encoding="utf-8")) if (found := refusal(line))] == []


def test_the_page_of_commands_has_every_command():
    shown = {tuple(a[:2]) if a[0] in ("pool", "config") else (a[0],) for a in shown_commands(page_of_commands())}
    groups = {name: command for name, command in cli.commands.items() if isinstance(command, click.Group)}
    known = {(name,) for name in cli.commands if name not in groups}
    known |= {(name, sub) for name, group in groups.items() for sub in group.commands}
    assert known - shown == {("config", "schema")}  # in the comment of `config show`


def page_of_commands():
    return (ROOT / "docs/commands.md").read_text(encoding="utf-8")


def shown_commands(text):
    """The arguments of each command line of a page's code."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("python cli.py "):
                yield shlex.split(line, comments=True)[2:]


def refusal(arguments):
    """Why the command line refuses these arguments; "" where it takes them."""
    try:
        parse(cli, arguments)
    except click.ClickException as error:
        return f"{' '.join(arguments)}: {error.format_message()}"
    return ""


def parse(command, arguments, parent=None):
    """Parse arguments as the command line does, without running anything. Raises click.ClickException."""
    context = command.make_context(command.name, list(arguments), parent=parent)
    if isinstance(command, click.Group):
        _, chosen, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        parse(chosen, rest, context)


def test_every_trap_has_a_test_that_names_it():
    numbers = re.findall(r"^\| (\d+) \|", (ROOT / "docs/traps.md").read_text(encoding="utf-8"), re.MULTILINE)
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(numbers) > 15
    assert [n for n in numbers if not re.search(rf"trap_{n}_|trap {n}\b", tests)] == []


def test_every_config_key_is_explained():
    from al.config import Config, walk

    assert [name for name, field in walk(Config) if not field.description] == []
