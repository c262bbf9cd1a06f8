"""Where an export goes: a folder that is written whole, and that never takes the place of anything but an export."""

from __future__ import annotations

from pathlib import Path

from al.errors import ConfigError
from al.run.database import DATABASE

MARK = "winnow.json"
"""Every exported folder has this file, which says where it comes from."""


def check_folder(to: Path, force: bool) -> None:
    """Check that an export can take the place `to`: nothing, an empty folder, or, with `force`, an earlier export.

    Raises:
        ConfigError: something else is there, it is part of a run, or it is the folder in which the command runs.
    """
    place = to.resolve()
    run = next((folder for folder in (place, *place.parents) if (folder / DATABASE).exists()), None)
    if run is not None:
        raise ConfigError(f"--to {to}: is in the run {run}, whose files are not replaced. Name a folder outside of it.")
    if place == Path.cwd():
        raise ConfigError(f"--to {to}: is the current folder, which cannot be replaced. Name a folder in it.")
    if to.is_symlink() or (to.exists() and not to.is_dir()):
        raise ConfigError(f"--to {to}: expected a folder to make, found a file or link. Name another folder.")
    if not to.exists() or not any(to.iterdir()):
        return
    if not (to / MARK).is_file():
        raise ConfigError(
            f"--to {to}: expected no folder, or an earlier export ({MARK} in it), found a folder with other contents. Name another folder."
        )
    if not force:
        raise ConfigError(f"--to {to}: has an export already. Name another folder, or add --force to replace it.")
