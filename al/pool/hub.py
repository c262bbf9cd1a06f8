"""Rows of Hugging Face datasets, streamed. `hub:owner/name@revision[config]:split`; the name may be a local folder."""

from __future__ import annotations

from collections.abc import Iterator

from al.errors import DataError, EnvironmentProblem
from al.pool.reader import RawRow
from al.pool.sources import Source, parse_hub


def read_hub_rows(source: Source) -> Iterator[RawRow]:
    """(row number from 1, row, row) for every row of the dataset.

    Raises:
        DataError: no such dataset, config or split, or a dataset that needs code of its own to load.
        EnvironmentProblem: the hub cannot be reached.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    hub = parse_hub(source.path)
    advice = "Check `pool.hub`: owner/name[config]:split."
    try:
        rows = load_dataset(hub.name, hub.subset, split=hub.split, revision=hub.revision, streaming=True)
        for number, row in enumerate(rows, 1):
            yield number, row, row
    except ConnectionError as error:
        raise EnvironmentProblem(
            f"{source.label}: the hub cannot be reached ({error}). Use local files or `HF_HUB_OFFLINE`."
        ) from None
    except (DatasetsError, FileNotFoundError, HfHubHTTPError) as error:
        raise DataError(f"{source.label}: {str(error).splitlines()[0]} {advice}") from None
    except (ValueError, RuntimeError) as error:
        if type(error).__module__.startswith("al."):
            raise
        raise DataError(f"{source.label}: {str(error).splitlines()[0]} {advice}") from error
