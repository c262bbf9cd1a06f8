"""Named points at which a test may kill this process, to prove that a round survives it.

`WINNOW_FAILPOINT=name` sends SIGKILL the first time the point `name` is passed, `name:3` the third time. Without the variable a
point costs one dictionary look-up. The names: `<stage>.start`, `<stage>.files`, `<stage>.manifest`, `<stage>.renamed`,
`<stage>.committed`, `tokenize.shard`, `score.shard`, `evaluate.shard`, `answers.shard`, `label.shard`,
`train.step`, `train.checkpoint.before_rename`.
"""

from __future__ import annotations

import os
import signal

_passed: dict[str, int] = {}


def failpoint(name: str) -> None:
    """Kill the process here if the environment asks for it; otherwise do nothing."""
    wanted = os.environ.get("WINNOW_FAILPOINT")
    if not wanted:
        return
    target, _, count = wanted.partition(":")
    if name == target:
        _passed[name] = _passed.get(name, 0) + 1
        if _passed[name] >= int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
