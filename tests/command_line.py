"""The command line as tests use it: inside this process, or in a real child process that can be killed. A fork server imports the
heavy libraries once, so that a child starts in milliseconds instead of ten seconds; each child is a process of its own all the same."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PRELOAD = [
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "sentence_transformers",
    "faiss",
    "sklearn.metrics",
    "pyarrow.parquet",
    "plotly.offline",
    "al.commands.rounds",
    "al.round.loop",
    "trainer.measure",
    "trainer.train",
]


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON printed on stdout."""
        return json.loads(self.out)


def winnow(*arguments: object) -> Result:
    """Run the command line in this process."""
    import cli
    from al.run import progress

    out, err, code = io.StringIO(), io.StringIO(), 0
    progress._stop_requested.clear()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


def winnow_child(*arguments: object, prepare: Callable[[], None] | None = None, **environment: str) -> Result:
    """Run the command line as a real child process, which may be killed; the code is negative then, as of `subprocess`. `prepare`, a
    function of a module, is called in the child first."""
    with tempfile.TemporaryDirectory() as folder:
        child = start([str(argument) for argument in arguments], Path(folder), environment, before=prepare)
        child.join(timeout=300)
        return ended(child, Path(folder))


def start(
    arguments: list[str],
    streams: Path,
    environment: dict[str, str] | None = None,
    method: str = "forkserver",
    before: Callable[[], object] | None = None,
) -> multiprocessing.Process:
    """Start `cli.py ARGUMENTS`; the process. Its stdout and stderr go to `streams`/out and `streams`/err.

    Args:
        method: "forkserver", or "fork" for a process whose libraries are at work already; see `multiprocessing`.
        before: called in the child first.
    """
    context, environment = multiprocessing.get_context(method), dict(environment or {})
    if method == "forkserver":
        context.set_forkserver_preload(PRELOAD)
    else:
        environment.setdefault("TOKENIZERS_PARALLELISM", "false")  # a forked child has none of its parent's threads
    child = context.Process(target=_main, args=(arguments, environment, str(streams), before))
    child.start()
    return child


def ended(child: multiprocessing.Process, streams: Path) -> Result:
    """What a process that `start` started and that has ended left behind."""
    said = [(streams / name).read_text() if (streams / name).exists() else "" for name in ("out", "err")]
    return Result(child.exitcode, *said)  # one that was killed at once has said nothing


def _main(arguments: list[str], environment: dict[str, str], streams: str, before: Callable[[], object] | None) -> None:
    import cli

    os.environ.update(environment)
    for name, stream in (("out", 1), ("err", 2)):
        handle = os.open(Path(streams) / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(handle, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False, buffering=1) for stream in (1, 2))
    if before is not None:
        before()
    cli.main(arguments)
