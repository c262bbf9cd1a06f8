"""The column of the user's own files that the score `quality` ranks by."""

from __future__ import annotations

import numpy as np

from al.errors import ConfigError
from al.lineage.outcomes import PoolState
from al.preparation.stages import Prepared


def quality_column(name: str, prepared: Prepared, state: PoolState) -> np.ndarray:
    """(n,) the numbers of column `name`, NaN where an example has none. Reads the metadata of every example that may be picked.

    Raises:
        ConfigError: no example that may be picked has it, or one has something else than a number there.
    """
    pool = prepared.open_pool()
    result = np.full(len(state.keys), np.nan)
    for rows in np.split(state.rows, range(10_000, len(state.rows), 10_000)):
        for row, metadata in zip(rows.tolist(), pool.metadata(rows), strict=True):
            value = metadata.get(name)
            try:
                result[row] = np.nan if value is None else float(value)
            except (TypeError, ValueError):
                raise ConfigError(
                    f"score.quality: expected numbers in column `{name}`, found {value!r} in example {pool.ids[row]} "
                    f"({pool.origin([row])[0]}); name a numeric column, or correct the file."
                ) from None
    if not np.isfinite(result).any():
        raise ConfigError(
            f"score.quality: no example that may be picked has a number in column `{name}`; set score.quality to a column of "
            "your files."
        )
    result[~np.isfinite(result)] = np.nan
    return result
