"""Measuring examples: one stage for everything that scores need, in shards that survive a kill.

    rows ──response──▶ ──unprompted──▶ ──gradient──▶ ──reference──▶ statistics

Each arrow is a pass over the rows, of which only those run that somebody asked for. A pass goes in shards; a finished shard
stays in scratch, so that a kill costs one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.config import Config
from al.errors import ConfigError
from al.lineage.round_state import RoundState
from al.run.artifacts import Artifact, write_json
from al.run.integrity import sha256_file
from al.run.progress import check_stop
from al.run.rows import rows_digest
from al.run.session import Session
from al.run.shards import Arrays, finish_shards, read_shards, token_shards
from al.scoring.checkpoints import checkpoints_summed, gradient_checkpoints, gradient_source
from al.scoring.passes import RESPONSE, fp8_agreement, fp8_pass, fp8_sample, passes
from selection.registry import PICKERS
from selection.scores import TARGETED, describe, needs
from selection.strategy import aims, by_default, measures, resolve
from trainer.tokens import TokenTable


def measurements(session: Session) -> frozenset[str]:
    """What the config's scores need measured.

    Raises:
        ConfigError: a score that needs a target or a reference adapter where there is none.
    """
    config = session.config
    by_score = needs(config.score.by, *config.score.also)
    wanted = by_score | measures(config.select)
    if ((by_score & TARGETED) or aims(config.select)) and not config.target.files:
        who = (
            f"strategy {config.select.strategy} aims at"
            if aims(config.select)
            else "scores rds and less measure nearness to"
        )
        raise ConfigError(
            f"score.by, select: {who} a target, and there is none; name a file of examples of what the model is to be good at: "
            "--target FILE, or target.files in the config."
        )
    if "reference" in wanted and config.score.reference is None:
        raise ConfigError(
            "score.by: `learnability` compares with a reference adapter; set score.reference to its directory."
        )
    reference = config.score.reference
    if "reference" in wanted and not (Path(str(reference)) / "adapter_config.json").is_file():
        raise ConfigError(
            f"score.reference: expected the directory of an adapter (with adapter_config.json), found none at {reference}."
        )
    if "quality" in wanted and config.score.quality is None:
        raise ConfigError("score.by: `quality` reads a column of yours; set score.quality to its name.")
    return wanted | {"response"}


def scoring_notices(config: Config) -> list[str]:
    """Notes for the user on settings of the config's scoring that have no effect."""
    by, picker = describe(config.score.by), resolve(config.select).picker
    found = []
    looked_at = needs(config.score.by) & TARGETED or aims(config.select) or by_default(config.select)
    if config.target.files and not looked_at:
        found.append(
            f"the target is kept out of training but has no effect on the selection: strategy {config.select.strategy} does not use it and "
            f"score.by is {by}; strategies default, nearest, rds and less aim at it"
        )
    if config.score.by != "nll" and not PICKERS[picker].uses_score:
        found.append(f"score.by={by} is measured but ranks nothing: picker {picker} uses no score; --strategy top does")
    return found


def looks_for_noise(config: Config, adapter: Artifact | None) -> bool:
    """Whether responses are measured without their prompts to find noise: a base model (None) knows too little of what responses
    look like to be asked."""
    return adapter is not None and config.noise.look != "none"


def score(state: RoundState, rows: np.ndarray, label: str) -> Artifact:
    """Measure pool rows `rows` (n,) with the adapter of the round before (or the base model).

    Publishes `statistics.parquet` (row, nll_total, nll_mean, entropy_mean, top_mean, margin_mean, accuracy, targets, and as
    scores and the look for noise need nll_unprompted_mean, nll_reference_mean), `pooled.npy` (n, d) and `gradients.npy` (n, c·d; of c
    checkpoints side by side, each times the root of its share) float16 unit vectors in the order of its rows, and `score.json`.
    """
    wanted = measurements(state.session)
    if looks_for_noise(state.session.config, state.adapter):
        wanted |= {"unprompted"}
    return _stage(state, "score", state.prepared.tokens, rows, wanted, label, {}, adam=True)


def score_the_target(state: RoundState) -> Artifact:
    """Measure the round's target as `score` measures the pool, but with plain gradients, as LESS defines it."""
    wanted = (measurements(state.session) & TARGETED) | {"response"}
    target = state.prepared.target
    inputs = {"target": target.artifact}
    return _stage(state, "score_target", target.tokens, target.rows, wanted, "score target", inputs, adam=False)


def _stage(
    state: RoundState,
    name: str,
    tokens: Artifact,
    rows: np.ndarray,
    wanted: frozenset[str],
    label: str,
    inputs: Mapping[str, Artifact],
    adam: bool,
) -> Artifact:
    session, adapter = state.session, state.adapter
    reference = Path(str(session.config.score.reference))
    source = gradient_source(state) if "gradient" in wanted else None
    checkpoints = gradient_checkpoints(source, checkpoints_summed(session.config), adam)
    params = {
        "model": session.model_params(),
        "round": state.number,
        "rows": rows_digest(rows),
        "measured": _identity(session, wanted, source, len(checkpoints)),
    }

    def build(out: Path, scratch: Path) -> None:
        """Run the passes shard by shard and write the statistics."""
        steps = passes(tokens.path, session.adapter_path(adapter), reference, wanted, checkpoints)
        lengths = np.asarray(TokenTable.open(tokens.path).lengths)
        shards = token_shards(session, rows, lengths)
        arrays: Arrays = {}
        facts: dict[str, Any] = {}
        with session.progress(label, len(rows) * len(steps), "examples") as progress:
            if not len(rows):
                arrays = {name: np.empty(0) for name in RESPONSE}
            for step in steps if len(rows) else []:
                paths = finish_shards(session, step.name, step.work, shards, scratch, progress)
                arrays |= gather(paths, len(rows), out, *step.place)
            if session.config.measure.weights == "fp8" and len(rows):
                facts = _fp8_facts(session, tokens, adapter, scratch)
            if facts.get("fp8_rank_correlation") is not None:
                progress.note = f", fp8 ranks them like {facts['exact_dtype']}: {facts['fp8_rank_correlation']:.4f}"
            moments = all(checkpoint.moments is not None for checkpoint in checkpoints)
            if adam and source is not None and not moments:
                progress.note += ", gradients without Adam: the round before was trained without score less"
        pq.write_table(pa.table({"row": rows.astype(np.int64), **arrays}), out / "statistics.parquet")
        document = {"examples": len(rows), "tokens": int(lengths[rows].sum()), "measured": sorted(wanted)}
        if "gradient" in wanted:
            document["checkpoint_shares"] = [checkpoint.share for checkpoint in checkpoints]
        if "gradient" in wanted and adam:
            document["adam_moments"] = moments
        write_json(out / "score.json", document | facts)

    return session.run.stage(
        name,
        version=2,
        params=params,
        build=build,
        label=label,
        inputs={
            "tokens": tokens,
            "adapter": adapter,
            **inputs,
            **({"warmup": source} if source is not adapter and source is not None else {}),
        },
    )


def _identity(
    session: Session, wanted: frozenset[str], source: Artifact | None, checkpoints: int = 1
) -> dict[str, Any]:
    """What measurements depend on besides model, adapter and rows; gradients come from so many `checkpoints` of `source`."""
    config = session.config
    found: dict[str, Any] = {"what": sorted(wanted - {"tokens", "history", "quality"})}
    if config.measure.weights == "fp8":
        found["weights"] = "fp8"
    if "unprompted" in wanted:
        found["template"] = session.template.hash
    if "gradient" in wanted:
        found |= {
            "dimension": config.score.gradient_dimension,
            "seed": config.seed,
            "preconditioner": config.score.preconditioner,
        }
        if checkpoints > 1:
            found["checkpoints"] = checkpoints
        if source is None:
            found["lora"] = config.lora.model_dump(mode="json")
    if "reference" in wanted:
        files = sorted(
            p for p in Path(str(config.score.reference)).iterdir() if p.is_file() and not p.name.startswith(".")
        )
        found["reference"] = {p.name: sha256_file(p) for p in files}
    return found


def _fp8_facts(session: Session, tokens: Artifact, adapter: Artifact | None, scratch: Path) -> dict[str, Any]:
    step, sample = fp8_pass(tokens.path, session.adapter_path(adapter)), fp8_sample(tokens.path)
    (path,) = finish_shards(session, step.name, step.work, [sample], scratch, lambda rows: check_stop())
    return fp8_agreement(next(read_shards([path])))


def gather(paths: list[Path], n: int, out: Path, place: int, places: int) -> Arrays:
    """Columns (n,) of all shards in memory; vectors (n, d) into columns `place` · d … of `out`/NAME.npy (n, `places` · d), one shard in
    memory at a time."""
    columns: dict[str, list[np.ndarray]] = {}
    files: dict[str, np.ndarray] = {}
    start = 0
    for shard in read_shards(paths):
        for name, values in shard.items():
            if values.ndim == 1:
                columns.setdefault(name, []).append(values)
                continue
            if name not in files:
                shape, mode = (n, places * values.shape[1]), "r+" if place else "w+"
                files[name] = np.lib.format.open_memmap(out / f"{name}.npy", mode, values.dtype, shape)
            across = slice(place * values.shape[1], (place + 1) * values.shape[1])
            files[name][start : start + len(values), across] = values
        start += len(values)
    for file in files.values():
        file.flush()
    return {name: np.concatenate(parts) for name, parts in columns.items()}
