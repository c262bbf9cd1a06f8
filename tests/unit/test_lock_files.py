"""`make` installs exactly what the lock files name: every requirement at the pinned version, every entry with hashes, no other host."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
DOCS = "requirements-docs.lock"
"""Installed apart from the others."""
LOCKS = ("requirements.lock", "requirements-cuda.lock", "requirements-dev.lock")


def entries(lock):
    """The entries of a lock file, each a requirement and its hashes."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    found = []
    for entry in re.findall(r"^[^\s#-].*(?:\n    .*)*", text, re.MULTILINE):
        first, *rest = entry.replace(" \\", "").split("\n")
        found.append((Requirement(first), [line.strip() for line in rest]))
    return found


def pins(*locks):
    """{name: pinned versions} of lock files."""
    found = {}
    for lock in locks:
        for requirement, _ in entries(lock):
            found.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier))
    return found


def direct(file):
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]


@pytest.mark.parametrize("lock", [*LOCKS, DOCS])
def test_every_entry_is_one_version_with_hashes(lock):
    every = entries(lock)
    assert len(every) > 10
    for requirement, hashes in every:
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in hashes), requirement


@pytest.mark.parametrize(
    "file, locks", [("requirements.txt", LOCKS[:1]), ("requirements-dev.txt", LOCKS), ("requirements-docs.txt", [DOCS])]
)
def test_the_lock_has_every_requirement_in_a_version_that_it_allows(file, locks):
    found = pins(*locks)
    wanted = direct(file)
    assert len(wanted) > 1
    for requirement in wanted:
        (version,) = found.get(canonicalize_name(requirement.name), {None})
        assert version is not None and requirement.specifier.contains(version.removeprefix("==")), (
            requirement,
            version,
        )


def test_a_package_has_the_same_version_in_every_lock_unless_the_python_differs():
    found = pins(*LOCKS)
    several = {name for name, versions in found.items() if len(versions) > 1}
    forked = {
        canonicalize_name(r.name)
        for lock in LOCKS
        for r, _ in entries(lock)
        if "python_full_version <" in str(r.marker)
    }
    assert several <= forked


def test_lock_files_name_no_place_to_download_from():
    for lock in (*LOCKS, DOCS):
        assert not re.search(r"://|--index|--find-links|--trusted", (ROOT / lock).read_text(encoding="utf-8"))


def test_make_installs_from_the_lock_files_alone():
    installs = [line for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines() if "pip install" in line]
    assert len(installs) == 1 and "--require-hashes --no-deps" in installs[0]


def test_torch_is_installed_from_a_file_that_its_lock_entry_allows():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "$(LOCKED) --no-index --find-links $(VENV)/torch -r $(VENV)/torch.lock" in text
    awk = re.search(r"awk '(/.*?)' requirements.lock > \$\(VENV\)/torch.lock", text)[1]
    done = subprocess.run(["awk", awk, ROOT / "requirements.lock"], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"torch==\S+ \\\n(    --hash=sha256:[0-9a-f]{64} \\\n)+    --hash=sha256:[0-9a-f]{64}\n", done)
