"""Whatever happens to the bytes of run.db: an answer, or exit code 5 and a line, and nothing is written."""

from __future__ import annotations

import random
import shutil

import pytest
from command_line import winnow


@pytest.fixture(scope="module")
def whole(two_rounds, tmp_path_factory):
    """A copy of a run without its report pages, which `status` does not read."""
    copy = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(two_rounds[0], copy, symlinks=True)
    return copy


def damaged(content: bytes, how: str, rng: random.Random) -> bytes:
    spoilt = bytearray(content)
    place = rng.randrange(len(spoilt))
    if how == "bit":
        spoilt[place] ^= 1 << rng.randrange(8)
    elif how == "page":
        page = place // 4096 * 4096
        spoilt[page : page + 4096] = rng.randbytes(len(spoilt[page : page + 4096]))
    elif how == "zeros":
        spoilt[place : place + 300] = bytes(len(spoilt[place : place + 300]))
    else:
        del spoilt[place:]
    return bytes(spoilt)


@pytest.mark.parametrize("how", ["bit", "page", "zeros", "cut"])
def test_no_damage_to_the_database_is_a_traceback_and_nothing_is_written(whole, how):
    path = whole / "run.db"
    content = path.read_bytes()
    assert winnow("status", "--run", whole).code == 0
    rng, refused = random.Random(f"run.db {how}"), 0
    try:
        for _ in range(25):
            spoilt = damaged(content, how, rng)
            path.write_bytes(spoilt)
            for command in (("status", "--json"), ("doctor",)):
                found = winnow(*command, "--run", whole)
                assert found.code in (0, 5), found.err
                assert found.code == 0 or found.err.startswith("error: ") or command == ("doctor",)
                refused += found.code == 5
            assert path.read_bytes() == spoilt
    finally:
        path.write_bytes(content)
    assert refused or how == "bit", "no damage was found at all"
