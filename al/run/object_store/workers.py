"""What workers on other machines need: the artifacts that their work reads, each machine with a cache of its own.

Work holds paths (al.engine.worker.Work), so it finds its files where the driver has them, if the cache of its machine is filled first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from al.config.engine import EngineConfig
from al.engine.models import Models
from al.engine.worker import Work
from al.run.artifacts import Artifact

if TYPE_CHECKING:
    from al.run.store import Run


def with_artifacts(run: Run, engine: EngineConfig, work: Work, jobs: Sequence[Any] = ()) -> Work:
    """`work` for the workers of an engine: if they may be on other machines and the run has an object store, it first fills the cache of
    the machine with the artifacts whose paths are in `work` or `jobs`."""
    if engine.kind != "ray" or run.store is None:
        return work
    root = run.path / "artifacts"
    inside = (path.relative_to(root).parts for path in _paths((work, *jobs)) if path.is_relative_to(root))
    keys = dict.fromkeys(parts[:2] for parts in inside if len(parts) > 1)  # one part: a build of this stage
    found = [run.find(*key) for key in keys]
    return partial(_after_filling, tuple(artifact for artifact in found if artifact is not None), work)


@contextmanager
def _after_filling(artifacts: tuple[Artifact, ...], work: Work, models: Models) -> Iterator[Callable[..., Any]]:
    for artifact in artifacts:
        artifact.path  # noqa: B018  the first use fills the cache
    with work(models) as do:
        yield do


def _paths(value: Any) -> Iterator[Path]:
    """Every path in work: among the arguments of partial functions, in sequences and in fields of dataclasses."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, partial):
        yield from _paths((*value.args, *value.keywords.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _paths(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _paths(getattr(value, field.name))
