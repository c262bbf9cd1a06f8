"""The whole configuration: one section per part of Winnow, YAML files that may extend each other, `--set` on top.

Each section is a pydantic model next to the code it configures. An unknown key is an error that names the nearest known key.
"""

from __future__ import annotations

import copy
import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ModelWrapValidatorHandler, ValidationError, field_validator, model_validator

from al.cache import cache_dir
from al.config.cleaning import CleanConfig
from al.config.engine import EngineConfig
from al.config.evaluation import EvaluateConfig
from al.config.pool import FormatName, PoolConfig
from al.config.yaml_values import DEEPEST, read_yaml
from al.errors import ConfigError
from al.excerpt import cut
from al.program import PROGRAM
from al.terminal import without_passwords
from selection.config import (
    DISTILLED_THRESHOLD,
    ClusterConfig,
    DedupConfig,
    EmbedConfig,
    HoldoutConfig,
    KindsConfig,
    NoiseConfig,
    ScoreConfig,
    SelectConfig,
)
from trainer.config import GenerateConfig, LoraConfig, MeasureConfig, ModelConfig, TrainConfig
from trainer.tokens_config import TokensConfig

SHOWN = 100
"""Characters of a value in an error."""
_TYPE = re.compile(r"literal\[.*\]|constrained-\w+|bool|int|float|str|none|(list|dict|tuple)\[.*\]")
"""How pydantic names one of several types of a key."""
CONFIG_DIR = Path(__file__).resolve().parents[2] / "configs"


class ReportConfig(BaseModel, extra="forbid", frozen=True):
    """Options of the report that are not measured."""

    price_per_hour: float | None = Field(
        None,
        ge=0,
        description="Price of an hour on this machine; the report then shows the cost of each part of the round. null: time only.",
    )
    currency: str = Field("", max_length=12, description="Written after amounts of money, for example EUR.")


TrackerName = Literal["wandb", "tensorboard", "trackio", "mlflow"]


class TargetConfig(BaseModel, extra="forbid", frozen=True):
    """Examples of the task to be good at. They direct the selection and are never trained on."""

    files: list[str] = Field(
        default=[],
        description="Files, folders, glob patterns or names of presets, read like pool.files. A preset means its test split "
        "unless another is named (gsm8k:train). --target FILE sets this key.",
    )
    format: FormatName = Field(default="auto", description="Row format of these files, as pool.format.")
    map: dict[str, str] = Field(default={}, description="Fields of these files, as pool.map.")
    text_template: str | None = Field(
        default=None, description="Template of plain text in these files, as pool.text_template."
    )
    measured: int = Field(
        50_000,
        ge=1,
        description="Strategy rds_centered, the default with a target: examples of the pool whose hidden states are measured, once for all "
        "rounds. Of a larger pool, those nearest to the target by embeddings.",
    )


class LabelConfig(BaseModel, extra="forbid", frozen=True):
    """The unlabelled prompts that the `label` command measures."""

    candidates: float = Field(
        4.0,
        ge=1,
        description="Prompts that the model answers and measures for each one requested, spread evenly over clusters. "
        "More finds prompts of higher uncertainty; time grows in proportion.",
    )


class ReviewConfig(BaseModel, extra="forbid", frozen=True):
    """Permanent decisions of earlier reviews."""

    forget: list[str] = Field(
        default=[],
        description="Ids or source names that a review dropped or banned and that may be picked again; `*` means all.",
    )


class Config(BaseModel, extra="forbid", frozen=True):
    """Everything a round depends on except the pool's content and the budget."""

    seed: int = Field(
        0, ge=0, description="Seed of every random draw: clustering, sampling, picks, order, dropout, noise."
    )
    goal: Literal["tasks", "pool"] = Field(
        "tasks",
        description="What the adapter should be good at. tasks: every task alike, however few examples it has; macro means decide, and the "
        "default spreads the budget evenly. pool: what the pool holds, in its own mix; micro means decide, and the default picks in "
        "proportion.",
    )
    control: bool | Literal["auto"] = Field(
        "auto",
        description="Also train a second adapter on random picks of the same budget. It doubles the training time and shows whether "
        "selection pays. auto: as long as it can show more than its training costs (docs/strategies.md). Where selecting loses to random "
        "twice, the default picks at random.",
    )
    artifacts: str | None = Field(
        None,
        description="Where a run keeps its artifacts: a URL of fsspec, such as s3://bucket/winnow, gs://bucket/winnow or "
        "file:///mnt/winnow, or an absolute path. Runs can share it. The run's folder then has run.db, the lock, scratch and a cache of "
        "artifacts, which may be deleted (docs/scale.md). null: the run's folder, or where the run keeps them already.",
    )
    track: list[TrackerName] = Field(
        [],
        description="Trackers that receive the metrics of training and the results of each round: wandb, tensorboard, trackio, mlflow; "
        "each is an extra to install. Only numbers, the config and its source names leave the run; a failing tracker is dropped.",
    )
    pool: PoolConfig = PoolConfig()
    clean: CleanConfig = CleanConfig()
    target: TargetConfig = TargetConfig()
    tokens: TokensConfig = TokensConfig()
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    embed: EmbedConfig = EmbedConfig()
    dedup: DedupConfig = DedupConfig()
    holdout: HoldoutConfig = HoldoutConfig()
    cluster: ClusterConfig = ClusterConfig()
    kinds: KindsConfig = KindsConfig()
    score: ScoreConfig = ScoreConfig()
    noise: NoiseConfig = NoiseConfig()
    select: SelectConfig = SelectConfig()
    train: TrainConfig = TrainConfig()
    measure: MeasureConfig = MeasureConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
    generate: GenerateConfig = GenerateConfig()
    label: LabelConfig = LabelConfig()
    review: ReviewConfig = ReviewConfig()
    engine: EngineConfig = EngineConfig()

    @model_validator(mode="wrap")
    @classmethod
    def _near_by_a_distilled_embedder(cls, data: Any, handler: ModelWrapValidatorHandler[Config]) -> Config:
        """Its cosines are higher, because it does not see the order of words."""
        config = handler(data)
        if not config.embed.distill or "threshold" in config.dedup.model_fields_set:
            return config
        dedup = config.dedup.model_copy(update={"threshold": DISTILLED_THRESHOLD})
        return handler({**dict(data), "dedup": dedup})

    @field_validator("artifacts")
    @classmethod
    def _is_a_place(cls, value: str | None) -> str | None:
        if value is None:
            return None
        place = value.rstrip("/")
        protocol, _, rest = place.rpartition("://")
        if not rest or not (protocol or rest.startswith("/")) or (protocol == "file" and not rest.startswith("/")):
            raise ValueError("expected a URL such as s3://bucket/folder or file:///folder, or an absolute path")
        if protocol == "memory":
            raise ValueError("expected a place that other processes see, such as s3://bucket/folder")
        return place


def same_question(earlier: Config, now: Config) -> bool:
    """Whether selecting against random is the same question under two configs: the same strategy, base, goal and target."""
    return all(getattr(earlier, part) == getattr(now, part) for part in ("select", "model", "goal", "target"))


def load(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML config, follow its `extends:`, apply `key.sub=value` overrides, and check every key and value.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (the message names the nearest known one), or a value out of range.
    """
    return change(_read_yaml(path, seen=()), overrides, str(path))


def change(values: Mapping[str, Any], overrides: Iterable[str], where: str) -> Config:
    """As `load`, for values in memory. Raises ConfigError."""
    changed = copy.deepcopy(dict(values))
    for text in overrides:
        _apply_override(changed, text)
    return parse(changed, where)


def parse(values: Mapping[str, Any], where: str) -> Config:
    """Check a nested dict of values; `where` names it in errors. `{cache}` in any string becomes the cache directory."""
    refuse_passwords(values, where)
    try:
        return Config.model_validate(_expand(values))
    except ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(map(_explain, _by_key(error.errors())))) from None


def refuse_passwords(values: Any, where: str, key: str = "") -> None:
    """Raise ConfigError if a text of `values` is a URL with a user or password: the run would record it, and reports repeat it."""
    if isinstance(values, Mapping):
        for name, item in values.items():
            refuse_passwords(item, where, f"{key}.{name}".lstrip("."))
    elif isinstance(values, (list, tuple)):
        for item in values:
            refuse_passwords(item, where, key)
    elif isinstance(values, str) and without_passwords(values) != values:
        raise ConfigError(
            f"{where}: `{key}`: the URL {values} has a user or password, which the run would record. Remove it, and log in with the "
            f"service's own tool (`hf auth login`, ~/.netrc)."
        )


def _read_yaml(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = (
        path
        if path.exists() or path.is_absolute()
        else next((p for p in (CONFIG_DIR / path.name, CONFIG_DIR / f"{path.name}.yaml") if p.is_file()), path)
    )
    if path.resolve() in seen:
        raise ConfigError(f"{path}: `extends:` is circular ({' → '.join(p.name for p in seen)} → {path.name}).")
    try:
        if not path.is_file() and path.exists():
            raise ConfigError(f"{path}: expected a YAML file, found a folder or device.")
        values = read_yaml(path.read_text(encoding="utf-8"), str(path)) or {}
    except FileNotFoundError:
        known = ", ".join(sorted(p.name for p in CONFIG_DIR.glob("*.yaml")))
        raise ConfigError(f"{path}: no such config file. Shipped with Winnow: {known}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid YAML: byte {error.start + 1} is not UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, found {type(values).__name__}.")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str) or "\0" in parent:
        raise ConfigError(f"{path}: `extends`: expected the path of a config, found {_found(parent)}.")
    base = _read_yaml(path.parent / parent, (*seen, path.resolve()))
    return _merged(base, values)


def _merged(base: dict[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in top.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    return result


def _apply_override(values: dict[str, Any], text: str) -> None:
    path, equals, raw = text.partition("=")
    if not equals or not path.strip() or path.count(".") > DEEPEST:
        raise ConfigError(f"--set {cut(text, SHOWN)}: expected KEY=VALUE, for example --set train.learning_rate=1e-4.")
    *sections, leaf = path.strip().split(".")
    node = values
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {cut(text, SHOWN)}: {section} is a value, not a section.")
    node[leaf] = read_yaml(raw, f"--set {cut(text, SHOWN)}")


def _expand(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("{cache}", str(cache_dir()))
    if isinstance(value, Mapping):
        return {key: _expand(item) for key, item in value.items()}
    return [_expand(item) for item in value] if isinstance(value, list) else value


def _by_key(errors: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One error for each key. pydantic gives one for each type that a key may have, named at the end of its location."""
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for entry in errors:
        location = entry["loc"]
        of_a_type = entry["type"] != "extra_forbidden" and _TYPE.fullmatch(str(location[-1]))
        found.setdefault(location[:-1] if of_a_type else location, []).append(entry)
    joined = []
    for location, entries in found.items():
        first, *others = (entry["msg"] if len(entries) == 1 else entry["msg"].split(", unable")[0] for entry in entries)
        message = " or ".join([first, *(text.removeprefix("Input should be ") for text in others)])
        joined.append({**entries[0], "loc": location if others else entries[0]["loc"], "msg": message})
    return joined


def _explain(entry: Mapping[str, Any]) -> str:
    location = [str(part) for part in entry["loc"]]
    key = ".".join(location)
    if entry["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, [name for name, _ in walk(Config)], n=1, cutoff=0.5)
        siblings = difflib.get_close_matches(location[-1], _names_at(location[:-1]), n=1, cutoff=0.5)
        hint = ".".join([*location[:-1], siblings[0]]) if siblings else (near[0] if near else None)
        return f"unknown key `{key}`" + (
            f"; did you mean `{hint}`?" if hint else f"; `{PROGRAM} config schema` lists all keys."
        )
    return f"`{key}`: {entry['msg']}, found {_found(entry['input'])}"


def _found(value: Any) -> str:
    return cut(repr(value), SHOWN)


def _section(field: Any) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _names_at(location: list[str]) -> list[str]:
    model: type[BaseModel] | None = Config
    for part in location:
        model = _section(model.model_fields[part]) if model and part in model.model_fields else None
    return list(model.model_fields) if model else []


def walk(model: type[BaseModel], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Every leaf key of a config model as (dotted name, pydantic field), in order of definition."""
    for name, field in model.model_fields.items():
        section = _section(field)
        if section is not None:
            yield from walk(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def schema_text() -> str:
    """All keys with type, default and meaning as text, for `config schema`."""
    lines = []
    for name, field in walk(Config):
        kind = (
            field.annotation.__name__
            if isinstance(field.annotation, type) and not typing.get_args(field.annotation)
            else str(field.annotation)
        )
        default = field.get_default(call_default_factory=True)
        lines.append(f"{name}: {kind.replace('typing.', '')} = {default!r}\n    {field.description or ''}")
    return "\n".join(lines)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config dict as {dotted key: value}."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    """{dotted key: [before, after]} for every key whose value differs."""
    old, new = flat(before), flat(after)
    return {
        key: [old.get(key), new.get(key)] for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)
    }
