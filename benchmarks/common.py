"""Shared parts of the benchmark scripts: the provenance of figures, and Markdown tables."""

from __future__ import annotations

import datetime
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "triton", "transformers", "peft", "bitsandbytes")


def versions(*more: str) -> dict[str, str]:
    """Versions of the packages that a figure depends on, if installed."""
    found = {}
    for name in (*PACKAGES, *more):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def ending_with_this(command: Sequence[str]) -> list[str]:
    """The command for a child that is asked to end when the process that starts it does, even by SIGKILL. What the child starts is not.

    That takes util-linux' setpriv; without it a SIGKILL of this process leaves the child at work.
    """
    return [*(("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()), *command]


def child(command: Sequence[str], **given: Any) -> subprocess.Popen[bytes]:
    """A child in a session of its own that ends with this process (`ending_with_this`). `given`: of subprocess.Popen."""
    return subprocess.Popen(ending_with_this(command), start_new_session=True, **given)


def device_name() -> str:
    """Name of the GPU, or of the processor with its number of threads."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    with open("/proc/cpuinfo") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return f"{names[0] if names else 'cpu'}, {torch.get_num_threads()} threads"


def now() -> str:
    """Date and time in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def table(header: list[str], rows: list[list[str]]) -> str:
    """The rows as a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def filled(page: Path, blocks: dict[str, str]) -> str:
    """A page with each block between its marks, `<!-- name -->` and `<!-- /name -->`."""
    text = page.read_text(encoding="utf-8")
    for name, block in blocks.items():
        before, rest = text.split(f"<!-- {name} -->")
        after = rest.split(f"<!-- /{name} -->")[1]
        text = f"{before}<!-- {name} -->\n{block}\n<!-- /{name} -->{after}"
    return text


def provenance(record: dict[str, Any], device: str, versions: dict[str, str]) -> str:
    """One line on where a record comes from: device, versions, date, command."""
    shown = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "peft", "bitsandbytes"))
    return f"{device}; {shown}; {record['date'][:10]}; `{record['command']}`"
