"""What the benchmark scripts share: the facts that go with every figure, and how a table is written."""

from __future__ import annotations

import datetime
from importlib import metadata

PACKAGES = ("torch", "triton", "transformers", "peft", "bitsandbytes")


def versions(*more: str) -> dict[str, str]:
    """Versions of the packages a figure depends on, as far as they are installed."""
    found = {}
    for name in (*PACKAGES, *more):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def device_name() -> str:
    """The GPU, or the processor."""
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
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
