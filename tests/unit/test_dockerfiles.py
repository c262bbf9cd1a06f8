"""The Dockerfiles: hadolint has nothing to say, what they copy exists, and what they start is a command of ours."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

import cli
from al.config import CONFIG_DIR

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = ("Dockerfile", "submission/Dockerfile")
HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))


def stages():
    """{target: [(instruction, its text)]} of the Dockerfile, each with those of the stage that it continues."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = {}
    for line in filter(str.strip, text.replace("\\\n", " ").splitlines()):
        name, rest = line.split(maxsplit=1)
        if name == "FROM":
            before, _, target = rest.partition(" AS ")
            found[target] = [*found.get(before, ()), (name, rest)]
        else:
            found[target].append((name, rest))
    return found


def of(target, wanted):
    return [rest for name, rest in stages()[target] if name == wanted]


@pytest.mark.skipif(HADOLINT is None, reason="requirements-dev.lock has hadolint")
@pytest.mark.parametrize("file", DOCKERFILES)
def test_hadolint_finds_nothing(file):
    done = subprocess.run([HADOLINT, "--no-color", ROOT / file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_target_has_the_code_its_packages_and_no_root(target):
    copied = [source for rest in of(target, "COPY") for source in shlex.split(rest)[:-1]]
    assert [source for source in copied if not (ROOT / source).exists()] == []
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert not {source.split("/")[0] for source in copied} & set(ignored)
    assert {
        "cli.py",
        "pyproject.toml",
        "al",
        "selection",
        "trainer",
        "configs",
        "Makefile",
        "requirements.lock",
    } <= set(copied)
    assert any("make .venv/.installed" in rest for rest in of(target, "RUN")) and of(target, "USER")[-1] != "root"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_it_starts_a_command_of_the_command_line(target):
    assert json.loads(of(target, "ENTRYPOINT")[-1]) == ["python", "cli.py"]
    arguments = json.loads(of(target, "CMD")[-1])
    if arguments == ["--help"]:
        return
    _, command, rest = cli.cli.resolve_command(click.Context(cli.cli), arguments)
    asked = command.make_context(arguments[0], rest).params
    assert asked["budget"] == "100" and (CONFIG_DIR / f"{asked['config_path']}.yaml").is_file()


def test_what_make_is_asked_for_are_its_targets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(VENV)", ".venv")
    asked = {
        goal for target in stages() for rest in of(target, "RUN") for goal in re.findall(r"\bmake ([./\w-]+)", rest)
    }
    assert asked == {".venv/.installed", "assets"}
    assert all(re.search(rf"^{re.escape(goal)}:", makefile, re.MULTILINE) for goal in asked)
