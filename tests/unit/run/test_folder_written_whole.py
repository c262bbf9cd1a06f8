"""A folder is there as a whole or not at all, whatever ends the process that writes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from al.errors import EnvironmentProblem
from al.run.atomic import folder_written_whole

ROOT = Path(__file__).resolve().parents[3]
DIE = """
import os, signal, sys
from pathlib import Path
from al.run import atomic

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

place, when = Path(sys.argv[1]), sys.argv[2]
renames = 0
rename = Path.rename

def dying(self, target):
    global renames
    renames += 1
    if when == f"before rename {renames}":
        die()
    return rename(self, target)

Path.rename = dying
with atomic.folder_written_whole(place) as out:
    (out / "new.txt").write_text("new")
    if when == "while writing":
        die()
"""


def write(place: Path, text: str = "new") -> None:
    with folder_written_whole(place) as out:
        (out / "new.txt").write_text(text)


@pytest.mark.parametrize("when", ["while writing", "before rename 1", "before rename 2"])
def test_a_killed_process_leaves_the_old_folder_or_what_makes_it_again(when, tmp_path):
    place = tmp_path / "made"
    write(place, "old")
    done = subprocess.run([sys.executable, "-c", DIE, place, when], cwd=ROOT, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert not place.exists() or (place / "new.txt").read_text() == "old"
    with pytest.raises(KeyError), folder_written_whole(place):
        raise KeyError  # fails, so the folder of before stays
    assert (place / "new.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]


def test_the_new_folder_takes_the_place_of_the_old_one(tmp_path):
    place = tmp_path / "a" / "b"
    write(place, "old")
    (place / "more.txt").write_text("x")
    write(place, "new")
    assert {path.name: path.read_text() for path in place.iterdir()} == {"new.txt": "new"}
    assert list(place.parent.iterdir()) == [place]


def test_another_process_that_writes_there_is_left_alone(tmp_path):
    place = tmp_path / "made"
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    theirs = tmp_path / f".made.{other.pid}.tmp"
    theirs.mkdir()
    write(place)
    assert theirs.exists()
    other.communicate(b"\n")
    write(place)
    assert not theirs.exists()


def test_a_disk_that_cannot_be_written_is_an_error_with_the_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="file/made: cannot be written"):
        write(tmp_path / "file" / "made")
