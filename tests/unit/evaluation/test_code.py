"""Programs are right if they run through their tests, and a bad one ends inside its limits."""

from __future__ import annotations

import time

import pytest

from al.evaluation.code import find_tests, has_network, passes_tests, program_of

GIVEN = 'def double(x):\n    """Twice x."""\n'
DOUBLE = find_tests(
    GIVEN, {"test": "def check(f):\n    assert f(2) == 4\n    assert f(-3) == -6\n", "entry_point": "double"}
)
TRIPLE = find_tests("Write triple.", {"test_list": ["assert triple(2) == 6"], "test_imports": ["import math"]})


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("    return 2 * x\n", True),
        ("Here it is:\n```python\ndef double(x):\n    return x + x\n```\nIt adds.", True),
        ("```\ndef double(x):\n    return x + 2\n```", False),
        ("def double(x: return 4", False),
        ("    return 2 *", False),
        ("", False),
    ],
)
def test_a_program_is_right_if_its_tests_pass(written, right):
    assert passes_tests(written, DOUBLE) is right


def test_tests_in_the_style_of_mbpp():
    assert passes_tests("def triple(x):\n    return math.prod([3, x])", TRIPLE) is True
    assert passes_tests("def triple(x):\n    return x", TRIPLE) is False


def test_only_metadata_with_tests_has_tests():
    assert find_tests("x", {"test_list": []}) is find_tests("x", {"test": "assert True"}) is find_tests("x", {}) is None


def test_a_continuation_is_put_after_what_was_given():
    assert program_of("    return 2 * x\n", DOUBLE) == GIVEN + "    return 2 * x\n"
    assert program_of("def double(x): return 4", DOUBLE) == "def double(x): return 4"


@pytest.mark.parametrize("ending", ["import os; os._exit(0)", "raise SystemExit(0)", "import sys; sys.exit()"])
def test_a_program_that_ends_before_its_tests_has_not_passed(ending):
    assert passes_tests(f"{ending}\ndef double(x): return 2 * x", DOUBLE) is False


def test_a_program_that_does_not_end_is_stopped():
    started = time.monotonic()
    assert passes_tests("def double(x):\n    while True: pass", DOUBLE, seconds=1) is False
    assert time.monotonic() - started < 5


def test_what_a_program_started_ends_with_it(tmp_path):
    sign = tmp_path / "alive"
    child = f"import os, time\nif os.fork() == 0:\n    time.sleep(1.5)\n    open({str(sign)!r}, 'w').close()\n    os._exit(0)\n"
    assert passes_tests(child + "def double(x): return 2 * x", DOUBLE) is True
    time.sleep(2)
    assert not sign.exists()


@pytest.mark.parametrize("greedy", ["x = 'a' * 10**10", "print('a' * 10**8)", "open('big', 'w').write('a' * 10**8)"])
def test_memory_and_files_are_limited(greedy):
    assert passes_tests(f"{greedy}\ndef double(x): return 2 * x", DOUBLE) is False


def test_the_callers_environment_is_out_of_reach(monkeypatch):
    monkeypatch.setenv("A_SECRET", "1")
    assert passes_tests("import os\nassert 'A_SECRET' not in os.environ\ndef double(x): return 2 * x", DOUBLE) is True


def test_there_is_no_network():
    if has_network():
        pytest.skip("this system forbids unshare, so programs keep the network (al/evaluation/code.py says so)")
    reach = (
        "import socket\ntry:\n    socket.create_connection(('127.0.0.1', 9), 1)\n"
        "except ConnectionRefusedError:\n    raise SystemExit\nexcept OSError:\n    pass\n"
    )
    assert passes_tests(f"{reach}def double(x): return 2 * x", DOUBLE) is True
