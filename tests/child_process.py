"""The command line in a real child process that can be killed. A fork server imports the heavy libraries once, so that a child
starts in milliseconds instead of ten seconds; each child is a process of its own all the same."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

PRELOAD = ["torch", "transformers", "peft", "bitsandbytes", "sentence_transformers", "faiss", "sklearn.metrics", "pyarrow.parquet", "plotly", "jinja2",
           "al.loop", "al.report.html", "trainer.train"]


def start(arguments: list[str], environment: dict[str, str], out: Path, err: Path) -> multiprocessing.Process:
    """Start `cli.py ARGUMENTS` with stdout and stderr in files; the process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    child = context.Process(target=_main, args=(arguments, environment, str(out), str(err)))
    child.start()
    return child


def _main(arguments: list[str], environment: dict[str, str], out: str, err: str) -> None:
    import cli

    os.environ.update(environment)
    for path, stream in ((out, 1), (err, 2)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False, buffering=1) for stream in (1, 2))
    cli.main(arguments)
