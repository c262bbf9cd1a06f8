"""Work over rows in shards that survive a kill: finished ones stay in scratch, written by the driver alone."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from al.engine.worker import Work
from al.run.atomic import replaced
from al.run.failpoints import failpoint
from al.run.rows import rows_digest, split_by_tokens
from al.run.session import Session

Arrays = dict[str, np.ndarray]
SHARD_TOKENS = {"cpu": 16_384, "cuda": 2**17}
"""Tokens of a shard that is measured, which a kill costs: half a minute to two on two cores with a model of 135M, 3 s on an H100 (20 s for
gradients). The number of workers never changes them, so it never changes a result."""


def token_shards(session: Session, rows: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """`rows` in consecutive parts of SHARD_TOKENS."""
    return split_by_tokens(rows, lengths, SHARD_TOKENS[session.engine.device(session.config)])


def finish_shards(
    session: Session,
    name: str,
    work: Work,
    shards: Sequence[np.ndarray],
    scratch: Path,
    progress: Callable[[int], None],
    point: str = "score.shard",
    units: Callable[[np.ndarray], int] = len,
) -> list[Path]:
    """Files of what `work` gives for each shard (rows (m,) to arrays by name), in the shards' order; those in `scratch` are not done again.

    `progress` is called with rows, or with `units` of the shards that are done already. Files are named by `name` and their rows: a run
    that continues on another device, with other shards, reuses none of these. The failpoint `point` comes after each shard.
    """
    paths = [scratch / f"{name}-{rows_digest(shard)}.npz" for shard in shards]
    missing = [i for i, path in enumerate(paths) if not _is_sound(path)]
    progress(sum(map(units, shards)) - sum(units(shards[i]) for i in missing))
    for number, arrays in session.map(work, [shards[i] for i in missing], progress):
        with replaced(paths[missing[number]]) as temporary, temporary.open("wb") as handle:
            np.savez(handle, **arrays)
        failpoint(point)
    return paths


def read_shards(paths: Sequence[Path]) -> Iterator[Arrays]:
    """The arrays of each file, one in memory at a time."""
    for path in paths:
        with np.load(path, allow_pickle=False) as shard:
            yield dict(shard)


def read_columns(paths: Sequence[Path]) -> Arrays:
    """Columns (n,) of all files."""
    parts = list(read_shards(paths))
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}


def _is_sound(path: Path) -> bool:
    """Whether a shard is there and whole; one that is not is done again."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False
