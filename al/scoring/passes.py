"""The passes over examples that measuring consists of: which ones somebody asked for, and what each one does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from al.engine.models import Models
from al.engine.worker import Work
from al.run.shards import Arrays
from al.scoring.checkpoints import GradientCheckpoint
from trainer.tokens import TokenTable

FP8_SAMPLE = 256
"""Examples on which 8-bit scores are compared with exact ones."""
RESPONSE = ("nll_total", "nll_mean", "entropy_mean", "top_mean", "margin_mean", "accuracy", "targets")
"""Statistics of a response that are kept of every measured example; see trainer.measure.Statistics."""

Measure = Callable[[np.ndarray, Callable[[int], None]], Arrays]


@dataclass(frozen=True)
class Pass:
    """One pass over rows: `work` gives, with models, a function from rows (m,) to arrays (m, …) by name. `place`: that of its vectors among
    those of several passes, which stand side by side, and how many these are."""

    name: str
    work: Work
    place: tuple[int, int] = (0, 1)


def passes(
    tokens: Path,
    adapter: Path | None,
    reference: Path,
    wanted: frozenset[str],
    checkpoints: Sequence[GradientCheckpoint],
) -> list[Pass]:
    """The passes over rows of the token table at `tokens` that measure what is `wanted`, with the adapter at a path (None: the base model),
    gradients with each of `checkpoints`, and losses of the adapter at `reference`."""
    found = [Pass("response", partial(_response, tokens, adapter, "pooled" in wanted))]
    if "unprompted" in wanted:
        found.append(Pass("unprompted", partial(_unprompted, tokens, adapter)))
    for number, checkpoint in enumerate(checkpoints if "gradient" in wanted else ()):
        name = "gradient" if len(checkpoints) == 1 else f"gradient-{number + 1}"
        found.append(Pass(name, partial(_gradient, tokens, checkpoint), (number, len(checkpoints))))
    if "reference" in wanted:
        found.append(Pass("reference", partial(_reference, tokens, reference)))
    return found


@contextmanager
def _response(tokens: Path, adapter: Path | None, pooled: bool, models: Models) -> Iterator[Measure]:
    from trainer.activation import measuring
    from trainer.measure import Wanted, measure

    config, table = models.config.measure, TokenTable.open(tokens)
    with models.adapter(adapter) as model, measuring(model, config.weights, config.batch_tokens):

        def run(rows: np.ndarray, progress: Callable[[int], None]) -> Arrays:
            """Loss, uncertainty and, where wanted, hidden states of `rows`."""
            wanted = Wanted(pooled=pooled)
            found = measure(model, table, rows, batch_tokens=config.batch_tokens, wanted=wanted, progress=progress)
            arrays = {name: np.asarray(getattr(found, name), dtype=np.float64) for name in RESPONSE}
            return arrays | ({"pooled": found.pooled} if pooled else {})

        yield run


def fp8_sample(tokens: Path) -> np.ndarray:
    """Rows on which 8-bit scores are compared with exact ones."""
    rows = np.flatnonzero(np.asarray(TokenTable.open(tokens).target_counts))
    return np.random.default_rng(0).choice(rows, min(FP8_SAMPLE, len(rows)), replace=False)


def fp8_pass(tokens: Path, adapter: Path | None) -> Pass:
    """Measures `fp8_sample` with exact weights and with 8-bit ones."""
    return Pass("fp8", partial(_both_precisions, tokens, adapter))


@contextmanager
def _both_precisions(tokens: Path, adapter: Path | None, models: Models) -> Iterator[Measure]:
    from trainer.activation import measuring
    from trainer.forward import compute_dtype
    from trainer.measure import measure

    batch_tokens, table = models.config.measure.batch_tokens, TokenTable.open(tokens)
    with models.adapter(adapter) as model:

        def run(rows: np.ndarray, progress: Callable[[int], None]) -> Arrays:
            """NLL of `rows` with exact weights and with 8-bit ones, and the name of the exact dtype."""
            exact = measure(model, table, rows, batch_tokens=batch_tokens).nll_mean
            with measuring(model, "fp8", batch_tokens):
                fp8 = measure(model, table, rows, batch_tokens=batch_tokens).nll_mean
            return {"exact": exact, "fp8": fp8, "dtype": np.array(str(compute_dtype(model)).removeprefix("torch."))}

        yield run


def fp8_agreement(found: Arrays) -> dict[str, Any]:
    """How 8-bit scores rank the sample compared with exact ones, for `score.json`."""
    from scipy.stats import spearmanr

    correlation = float(spearmanr(found["exact"], found["fp8"]).statistic) if len(found["exact"]) > 2 else math.nan
    known = None if math.isnan(correlation) else correlation
    return {"fp8_rank_correlation": known, "exact_dtype": str(found["dtype"])}


@contextmanager
def _unprompted(tokens: Path, adapter: Path | None, models: Models) -> Iterator[Measure]:
    from trainer.activation import measuring
    from trainer.measure import measure
    from trainer.unprompted import Unprompted, response_frame

    config, frame, table = models.config.measure, response_frame(models.template), TokenTable.open(tokens)

    def run(rows: np.ndarray, progress: Callable[[int], None]) -> Arrays:
        """NLL of the responses of `rows` without their prompts."""
        alone = Unprompted(table, rows, frame)
        found = measure(model, alone, np.arange(len(alone)), batch_tokens=config.batch_tokens)
        progress(len(rows))
        sums = (
            np.bincount(alone.owner, weights=values, minlength=len(rows)) for values in (found.nll_total, found.targets)
        )
        nll, count = sums
        with np.errstate(invalid="ignore"):
            return {"nll_unprompted_mean": nll / count}

    with models.adapter(adapter) as model, measuring(model, config.weights, config.batch_tokens):
        yield run


@contextmanager
def _gradient(tokens: Path, checkpoint: GradientCheckpoint, models: Models) -> Iterator[Measure]:
    from trainer.gradients import Moments, project_gradients

    config, base, table = models.config, models.base, TokenTable.open(tokens)
    worn = (
        base.new_adapter(config.lora, config.seed)
        if checkpoint.adapter is None
        else base.adapter(checkpoint.adapter, trainable=True)
    )
    with worn as model:
        moments = None if checkpoint.moments is None else Moments.open(checkpoint.moments, base.device)

        def run(rows: np.ndarray, progress: Callable[[int], None]) -> Arrays:
            """Projected gradients of `rows`. Scaled by the root of the checkpoint's share, so that products of vectors of all checkpoints
            side by side are the weighted sum of cosines."""
            vectors = project_gradients(
                model,
                table,
                rows,
                dimension=config.score.gradient_dimension,
                batch_tokens=config.measure.gradient_tokens,
                seed=config.seed,
                moments=moments,
                form=config.score.preconditioner,
                progress=progress,
            )
            return {"gradients": vectors if checkpoint.share == 1 else _scaled(vectors, math.sqrt(checkpoint.share))}

        yield run


def _scaled(vectors: np.ndarray, factor: float) -> np.ndarray:
    return (vectors.astype(np.float32) * factor).astype(vectors.dtype)


@contextmanager
def _reference(tokens: Path, path: Path, models: Models) -> Iterator[Measure]:
    from trainer.activation import measuring
    from trainer.measure import measure

    config, table = models.config.measure, TokenTable.open(tokens)
    with models.adapter(path) as model, measuring(model, config.weights, config.batch_tokens):

        def run(rows: np.ndarray, progress: Callable[[int], None]) -> Arrays:
            """NLL of `rows` under the reference adapter."""
            found = measure(model, table, rows, batch_tokens=config.batch_tokens, progress=progress)
            return {"nll_reference_mean": found.nll_mean}

        yield run
