"""Winnow as a package: a wheel, installed in an environment of its own and used in an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from command_line import ROOT

PARTS = ("al", "configs", "selection", "trainer", "cli.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """The bin folder of an environment with the wheel in it, which takes all other packages from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("installed")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / "source" / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / "source" / part)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    own = ["--no-deps", "--no-index", "--no-cache-dir"]
    build = [*pip, "wheel", *own, "--no-build-isolation", "--wheel-dir", folder, folder / "source"]
    subprocess.run(build, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    inside = next((folder / "env").glob("lib/python*/site-packages"))
    (inside / "others.pth").write_text(sysconfig.get_path("purelib"))
    (wheel,) = folder.glob("*.whl")
    python = folder / "env/bin/python"
    subprocess.run([*pip[:3], "--python", python, *pip[3:], "install", *own, "--no-compile", wheel], check=True)
    shutil.rmtree(folder / "source")
    return folder / "env/bin"


def run(folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, without the paths of the tests."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([str(word) for word in command], cwd=folder, env=clean, capture_output=True, text=True)


def test_a_round_runs_from_an_empty_folder_and_names_the_command_that_was_typed(environment, world, tmp_path):
    where = run(
        tmp_path, environment / "python", "-c", "import al, cli; print(al.__file__, cli.__file__)"
    ).stdout.split()
    assert all(Path(file).is_relative_to(environment.parent) for file in where)
    done = run(tmp_path, environment / "winnow", "round", "--config", world, "--run", "here", "--budget", 8)
    assert done.returncode == 0, done.stderr
    assert "winnow generate --run here" in done.stdout and "cli.py" not in done.stdout + done.stderr
    assert os.listdir(tmp_path) == ["here"] and (tmp_path / "here/rounds/001/report.html").is_file()
    library = "import al, pathlib; print(al.load_round('here').number, (pathlib.Path(al.__file__).parent / 'py.typed').is_file())"
    assert run(tmp_path, environment / "python", "-c", library).stdout.split() == ["1", "True"]
    again = run(tmp_path, environment / "winnow", "resume", "--run", "here")
    assert again.returncode and "`winnow round --run here --budget N`" in again.stderr and "cli.py" not in again.stderr


def test_the_configs_are_installed_with_it(environment, tmp_path):
    shown = run(tmp_path, environment / "winnow", "config", "show")
    assert shown.returncode == 0 and "mistralai/Mistral-7B-v0.1" in shown.stdout
    demo = run(tmp_path, environment / "winnow", "config", "show", "--config", "demo")
    assert demo.returncode == 0 and "smollm2-135m" in demo.stdout
    usage = run(tmp_path, environment / "winnow", "round")
    assert usage.returncode == 2 and usage.stderr.startswith("Usage: winnow round")


def test_a_python_without_the_packages_gets_a_sentence(tmp_path):
    done = run(tmp_path, sys.executable, "-S", ROOT / "cli.py", "round", "--budget", 5)
    assert done.returncode == 1 and "has no package click" in done.stderr and "make demo" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_message_names_a_way_to_start_that_may_be_another():
    written = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in (ROOT / "al").rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if "python cli.py" in line and path.name != "program.py"
    ]
    assert not written, "use al.program.PROGRAM"


def test_nothing_but_winnow_speaks_before_a_round(world, tmp_path):
    done = run(
        tmp_path, sys.executable, ROOT / "cli.py", "doctor", "--config", world, "--set", "model.quantization=nf4"
    )
    assert "kernels" not in done.stderr


def test_a_table_is_planned_for_a_card_from_an_empty_folder(environment, tmp_path, monkeypatch):
    """What the README's first line about one's own data does, on a machine without GPU and hub, with the default config."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = [f"Name the number after {n},It is {n + 1}" for n in range(6_000)]
    (tmp_path / "my.csv").write_text("question,answer\n" + "\n".join(rows) + "\n")
    planned = run(tmp_path, environment / "winnow", "plan", "--budget", "5k", "--pool", "my.csv", "--gpu", "24GB")
    assert planned.returncode == 0, planned.stderr
    assert "pool      about 6,000 examples" in planned.stdout and "round     5,000 examples" in planned.stdout
    assert "fits      as configured" in planned.stdout and "expect ±35%" in planned.stdout and not planned.stderr
    assert os.listdir(tmp_path) == ["my.csv"]
