"""What a config needs of this machine and of the hub, checked without loading weights: by `doctor`, and by commands before they start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from al.config import Config
from al.engine.engine import Engine
from al.errors import EnvironmentProblem, UserError
from al.planning.cost import Machine
from al.planning.downloads import BYTES_PER_WEIGHT, is_cached
from al.planning.limits import settings_that_fit
from al.planning.machine import probe_machine
from al.planning.model_shape import model_shape
from al.planning.plan import bytes_written
from al.program import PROGRAM
from al.run.disk import nearest_folder
from selection.errors import SelectionError
from trainer.decoder.retention import RESERVE
from trainer.errors import MachineError, TrainerError
from trainer.gate import limits
from trainer.template import ChatTemplate
from trainer.tokenizer import load_config, load_tokenizer, not_read

WEIGHTS = ("*.safetensors", "*.gguf")
PROBE_SECONDS = 5.0
LEAST_BYTES = 2**28
"""A round that writes less is not checked: the stage that finds the disk full says so itself."""
Problem = UserError | TrainerError | SelectionError


def require(config: Config, run: Path | None = None, embedder: bool = True) -> None:
    """Fail now, before any stage runs, if the machine lacks something that `config` needs: the same checks as those of `doctor`.

    Args:
        run: the directory of the run, if it is going to train: then the GPU's memory and the disk are checked too.
        embedder: whether texts are embedded.

    Raises:
        UserError, TrainerError or SelectionError: the first thing that is lacking.
    """
    problems = unmet(config, run, embedder)
    if len(problems) > 1:
        problems[0].args = (f"{problems[0]}. `{PROGRAM} doctor` lists what else is missing ({len(problems) - 1} more)",)
    if problems:
        raise problems[0]


def _engine(config: Config) -> Iterator[Problem]:
    if config.engine.kind != "ray":
        Engine().size(config)
    elif find_spec("ray") is None:
        yield EnvironmentProblem("engine.kind: ray needs the package ray: pip install 'winnow-al[ray]'")


def unmet(config: Config, run: Path | None = None, embedder: bool = True) -> list[Problem]:
    """What a round with `config` would lack here: workers, device, model (folder or access to it, tokenizer, template, weights, context
    length), embedder, memory of a GPU, disk. Takes a second or two; asks the hub for files of a few kilobytes."""
    problems: dict[str, Problem] = {}
    checks = [_engine, _device, _tokenizer, _model, *([_embedder] if embedder else [])]
    with cache_if_hub_is_silent(config):
        for check in checks:
            try:
                for problem in check(config):
                    problems.setdefault(str(problem), problem)
            except (UserError, TrainerError, SelectionError) as error:
                problems.setdefault(str(error), error)
        if run is not None and not problems:
            problems |= {str(problem): problem for problem in (*_memory(config), *_disk(config, run))}
    return list(problems.values())


def check_device(config: Config) -> None:
    """Raises EnvironmentProblem, with a way out, if the config's device is not here."""
    from trainer.model import resolve_device

    if config.engine.kind == "ray":  # the workers' devices count, which only the cluster knows
        return
    try:
        device = resolve_device(config.model)
    except MachineError as error:
        raise EnvironmentProblem(
            f"{error}. `{PROGRAM} plan --gpu 24GB` plans for a card that is elsewhere, and `--config demo` runs on a CPU"
        ) from error
    if config.measure.weights == "fp8":
        from trainer.activation import check_fp8

        check_fp8(device)


@contextmanager
def cache_if_hub_is_silent(config: Config) -> Iterator[None]:
    """In the block, use what is cached if the config names models of the hub and the hub does not answer: every request would be repeated
    for half a minute, with a line for each."""
    if all(Path(name).is_dir() for name in (config.model.name, config.embed.model)):
        yield
        return
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _hub_answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _hub_answers() -> bool:
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import HTTPError

    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
    except (HTTPError, OSError):
        return False
    return True


def _device(config: Config) -> Iterator[Problem]:
    check_device(config)
    yield from ()


def _tokenizer(config: Config) -> Iterator[Problem]:
    ChatTemplate.resolve(load_tokenizer(config.model), config.model.chat_template)
    yield from ()


def _model(config: Config) -> Iterator[Problem]:
    folder = Path(config.model.name)
    limits.check(load_config(config.model), config.tokens.max_length, "tokens.max_length")
    if folder.is_dir():
        yield from _missing_weights(folder, "model.name")


def _memory(config: Config) -> Iterator[Problem]:
    """Room on the GPU for training. Batches are made smaller without being asked; a problem is only what needs another setting."""
    machine = _gpu(config)
    if machine is None:
        return
    whole = replace(machine, memory_gib=machine.memory_gib / (1 - RESERVE))  # the estimate may err by the reserve
    settings = settings_that_fit(config, model_shape(config.model, config.lora, machine.bytes_per_value), whole)
    if settings is None:
        yield EnvironmentProblem(
            f"model.name: {config.model.name} does not fit this GPU ({machine.memory_gib:.1f} GiB) with any rank or pack length; choose a "
            "smaller model or a larger GPU"
        )
    elif any(not setting.startswith("train.packs_per_batch=") for setting in settings):
        yield EnvironmentProblem(
            f"this GPU ({machine.memory_gib:.1f} GiB) is too small for the training as configured; it fits with "
            + " ".join(f"--set {setting}" for setting in settings)
        )


def _gpu(config: Config) -> Machine | None:
    from trainer.model import resolve_device

    return probe_machine(config) if resolve_device(config.model).type == "cuda" else None


def _missing_weights(folder: Path, key: str) -> Iterator[Problem]:
    names = {path.name for pattern in WEIGHTS for path in folder.rglob(pattern)}
    if not names:
        yield EnvironmentProblem(f"{key}: {folder} holds no weights ({', '.join(WEIGHTS)}); download the whole model")
    for index in folder.glob("*.safetensors.index.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        if missing := sorted(shards - names):
            yield EnvironmentProblem(
                f"{key}: {folder} lacks {missing[0]} and {len(missing) - 1} more of its {len(shards)} files of weights"
            )


def _embedder(config: Config) -> Iterator[Problem]:
    folder = Path(config.embed.model)
    if folder.is_dir():
        yield from _missing_weights(folder, "embed.model")
        return
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(config.embed.model, "config.json", revision=config.embed.revision)
    except (OSError, ValueError) as error:
        yield EnvironmentProblem(f"embed.model: {not_read(config.embed.model, error)}")


def _disk(config: Config, run: Path) -> Iterator[Problem]:
    """Room for the adapters and checkpoints of a round, and for the download of the model's weights."""
    shape = model_shape(config.model, config.lora)
    places = {nearest_folder(run): bytes_written(config, shape)}
    if not Path(config.model.name).is_dir() and not is_cached(config.model.name, config.model.revision):
        from huggingface_hub import constants

        cache_folder = nearest_folder(Path(constants.HF_HUB_CACHE))
        places[cache_folder] = places.get(cache_folder, 0.0) + BYTES_PER_WEIGHT * (shape.linear + shape.other)
    for folder, needed in places.items():
        free = shutil.disk_usage(folder).free
        if free < needed and needed > LEAST_BYTES:
            yield EnvironmentProblem(
                f"{folder}: expected {needed / 2**30:.1f} GiB of free disk for a round, found {free / 2**30:.1f}. Free some, or choose "
                "another disk (--run, $HF_HOME)"
            )
