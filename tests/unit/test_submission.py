"""The challenge's config keeps to its rules, and its container has what it copies and starts."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest

import cli
from al.config import CONFIG_DIR, load
from al.pool.presets import find, resolve

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "submission" / "Dockerfile"
BASES = ("mistral", "llama-2", "falcon", "mpt", "pythia", "gpt", "open_llama", "redpajama", "bloom", "opt", "qwen")
"""Families on the list of allowed bases, as their repositories are named."""
INSTRUCTIONS = ("FROM", "RUN", "WORKDIR", "COPY", "ARG", "ENV", "EXPOSE", "CMD")


def instructions() -> list[tuple[str, str]]:
    """(instruction, its text) of the Dockerfile, with continued lines joined and comments removed."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, rest) for name, rest in found]


def command() -> list[str]:
    (text,) = [rest for name, rest in instructions() if name == "CMD"]
    return json.loads(text)


def test_the_config_takes_only_open_data_that_the_rules_allow():
    config = load(CONFIG_DIR / "efficiency-challenge.yaml", ())
    presets = [find(resolve(entry))[0] for entry in config.pool.files]
    assert len(presets) >= 10 and config.pool.hub == []
    assert [preset.name for preset in presets if not preset.allowed.startswith("yes")] == []
    assert {"databricks-dolly-15k", "oasst1", "open-platypus-people"} <= {preset.name for preset in presets}


def test_the_base_is_an_open_one_without_instruction_tuning():
    name = load(CONFIG_DIR / "efficiency-challenge.yaml", ()).model.name.lower()
    assert any(family in name for family in BASES) and not re.search("instruct|chat|sft|dpo", name)
    assert f"ARG BASE={load(CONFIG_DIR / 'efficiency-challenge.yaml', ()).model.name}" in DOCKERFILE.read_text()


def test_every_instruction_is_one_that_docker_knows_and_every_source_exists():
    found = instructions()
    assert found[0][0] == "FROM" and {name for name, _ in found} <= set(INSTRUCTIONS)
    copied = [source for name, rest in found if name == "COPY" for source in shlex.split(rest)[:-1]]
    assert [source for source in copied if not (ROOT / source).exists()] == []
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not {source.split("/")[0] for source in copied} & set(ignored)
    assert {"cli.py", "al", "trainer", "selection", "configs", "submission"} <= set(copied)


def test_the_packages_that_it_installs_are_the_locked_ones():
    (pip,) = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert "--require-hashes" in pip and "-r requirements.lock" in pip and "-r requirements-cuda.lock" in pip


def parsed(arguments: list[str]) -> click.Context:
    """What the command line makes of a command, which is not run."""
    _, found, rest = cli.cli.resolve_command(click.Context(cli.cli), arguments)
    return found.make_context(arguments[0], rest)


@pytest.mark.skipif("serve" not in cli.cli.commands, reason="this Winnow has no serve")
def test_the_container_starts_the_server_as_the_evaluator_needs_it():
    program, script, *arguments = command()
    assert (program, script) == ("python", "cli.py")
    asked = parsed(arguments).params
    assert (asked["host"], asked["port"], asked["no_token"]) == ("0.0.0.0", 80, True)
    assert f"EXPOSE {asked['port']}" in DOCKERFILE.read_text()


def test_the_run_that_it_serves_is_made_from_the_archive_that_the_readme_exports():
    (imported,) = [rest for name, rest in instructions() if name == "RUN" and "import-run" in rest]
    asked = parsed(shlex.split(imported)[2:]).params
    assert str(asked["archive"]) == "submission/run.tar"
    assert command()[command().index("--run") + 1] == shlex.split(imported)[-1]
    assert "export-run submission/run.tar" in (ROOT / "submission" / "README.md").read_text()
