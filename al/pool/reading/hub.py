"""Rows of Hugging Face datasets, streamed. `hub:owner/name@revision[config]:split`; the name may be a local folder.

A preset is read the same way: from the user's local copy of its repository if it exists, else from the hub.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from al.errors import DataError, EnvironmentProblem
from al.pool.presets import find, local_copy
from al.pool.reading.rows import RawRow
from al.pool.sources import Source, parse_hub

_BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv"}


def read_hub_rows(source: Source) -> Iterator[RawRow]:
    """(row number from 1, row, row) for every row of the dataset.

    Raises:
        DataError: no such dataset, config or split, a gated one without access, or one that needs its own loading code.
        EnvironmentProblem: the hub cannot be reached, disconnects, is overloaded, or limits requests.
    """
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError

    advice = "Check the name: owner/name[config]:split (`pool.hub`), or a preset of `pool presets`."
    try:
        for number, row in enumerate(_open(source), 1):
            if _wanted(source, row):
                yield number, row, row
    except (DatasetsError, FileNotFoundError, ConnectionError, TimeoutError, HTTPError) as error:
        if _gave_no_answer(error):
            raise EnvironmentProblem(
                f"{source.label}: the hub cannot be reached ({_first_line(error)}). Try again later, import local files "
                "(`pool import FILE…`), or for a preset put a copy of its repository under $WINNOW_PRESETS_DIR/owner/name."
            ) from None
        if "gated" in str(error).lower():
            advice = "Accept its terms on the hub, then log in with `hf auth login`."
        raise DataError(f"{source.label}: {_first_line(error)} {advice}") from None
    except (ValueError, RuntimeError) as error:
        if type(error).__module__.startswith("al."):
            raise
        raise DataError(f"{source.label}: {_first_line(error)} {advice}") from error


def hub_rows_counted(source: Source) -> int | None:
    """Number of rows that the hub states for a data set; None for a preset, and where it states none or cannot be reached."""
    if source.is_preset:
        return None
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError

    hub = parse_hub(source.path)
    try:
        splits = load_dataset_builder(hub.name, hub.subset, revision=hub.revision).info.splits or {}
    except (DatasetsError, HTTPError, OSError, ValueError, RuntimeError):
        return None
    return splits[hub.split].num_examples if hub.split in splits else None


def _wanted(source: Source, row: dict[str, Any]) -> bool:
    """Whether a row belongs to the part of a set that a preset means."""
    only = find(source.path)[0].only if source.is_preset else None
    return only is None or row.get(only[0]) in only[1]


def _gave_no_answer(error: Exception) -> bool:
    """Whether the network or the hub failed, as opposed to a wrong name."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return isinstance(error, (ConnectionError, TimeoutError, HTTPError))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _open(source: Source) -> Iterable[dict[str, Any]]:
    from datasets import load_dataset

    if not source.is_preset:
        hub = parse_hub(source.path)
        return load_dataset(hub.name, hub.subset, split=hub.split, revision=hub.revision, streaming=True)
    preset, split = find(source.path)
    copy = local_copy(preset)
    name = str(copy) if copy is not None else preset.path
    if preset.files is None:
        revision = preset.revision if copy is None else None
        return load_dataset(name, preset.config, split=split, revision=revision, streaming=True)
    # Named files need no loading code of the repository, which `datasets` no longer runs.
    files = preset.files.format(split=split)
    revision = f"@{preset.revision}" if preset.revision else ""
    root = name if copy is not None else f"hf://datasets/{name}{revision}"
    builder = _BUILDERS.get(PurePosixPath(files).suffix, "parquet")
    return load_dataset(builder, data_files={split: f"{root}/{files}"}, split=split, streaming=True)
