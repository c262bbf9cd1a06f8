"""A run that keeps its artifacts on a store: the first upload of what it has, and the deletion of what `gc` has listed."""

from __future__ import annotations

from collections.abc import Iterable

from al.errors import ConfigError
from al.run import database
from al.run.object_store.objects import ObjectStore, folder_name
from al.run.object_store.uploads import DELETED, PUBLISHED, UPLOAD, USED
from al.run.store import Run


def use_store(run: Run, url: str | None) -> None:
    """Let a run that is open for writing keep its artifacts at `url`, the config's `artifacts`; None: where it has them already. What is in
    its folder is uploaded first.

    Raises:
        ConfigError: it keeps them elsewhere. EnvironmentProblem: the store cannot be read and written. RunStateError: what is to be
            uploaded is damaged.
    """
    used = run.store
    if used is not None:
        place = used.url.rpartition("/")[0]
        if url not in (None, place):
            raise ConfigError(
                f"artifacts: expected {place}, where {run.path} keeps its artifacts, or null, found {url}. To move them, export-run and "
                f"import-run make a copy of the run that has them in its folder, and that copy takes any `artifacts`."
            )
        used.require()
    elif url is not None:
        store = ObjectStore(f"{url}/{database.meta(run.db, 'run')}")
        store.begin()
        _upload_all(run, store)
        run.event(USED, url=store.url)
        with run.change() as db:
            database.keep_artifacts_at(db, store.url)


def _upload_all(run: Run, store: ObjectStore) -> None:
    """Upload what the run has in its folder. What an attempt before has uploaded whole is not sent again."""
    there = set(store.whole_folders())
    for row in run.rows():
        folder, artifact = folder_name(*row), run.find(*row[:2])
        if folder not in there:
            run.event(UPLOAD, folder=folder)
            store.upload(folder, artifact.path)
        run.event(PUBLISHED, folder=folder)


def delete_left_over(run: Run, folders: Iterable[str]) -> None:
    """Delete folders of `left_over`."""
    for folder in folders:
        run.store.delete(folder)
        run.event(DELETED, folder=folder)
