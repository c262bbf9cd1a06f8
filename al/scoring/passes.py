"""The passes over examples that measuring consists of: which ones somebody asked for, and what each one does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from al.run.artifacts import Artifact, write_json
from al.run.session import Session
from al.scoring.checkpoints import GradientCheckpoint

FP8_SAMPLE = 256
"""Examples on which 8-bit scores are compared with exact ones."""
RESPONSE = ("nll_total", "nll_mean", "entropy_mean", "top_mean", "margin_mean", "accuracy", "targets")
"""Statistics of a response that are kept of every measured example; see trainer.measure.Statistics."""

Arrays = dict[str, np.ndarray]
Measure = Callable[[np.ndarray, Callable[[int], None]], Arrays]


@dataclass(frozen=True)
class Pass:
    """One pass over rows: `open` loads the adapter it needs and gives a function from rows (m,) to arrays (m, …) by name. `place`: that
    of its vectors among those of several passes, which stand side by side, and how many these are."""

    name: str
    open: Callable[[Path], AbstractContextManager[Measure]]
    place: tuple[int, int] = (0, 1)


def passes(
    session: Session,
    table: Any,
    adapter: Artifact | None,
    wanted: frozenset[str],
    checkpoints: Sequence[GradientCheckpoint],
) -> list[Pass]:
    """The passes over rows of a token `table` that measure what is `wanted`, with an adapter (None: the base model), and gradients
    with each of `checkpoints`."""
    found = [Pass("response", partial(_response, session, table, adapter, "pooled" in wanted))]
    if "unprompted" in wanted:
        found.append(Pass("unprompted", partial(_unprompted, session, table, adapter)))
    for number, checkpoint in enumerate(checkpoints if "gradient" in wanted else ()):
        name = "gradient" if len(checkpoints) == 1 else f"gradient-{number + 1}"
        found.append(Pass(name, partial(_gradient, session, table, checkpoint), (number, len(checkpoints))))
    if "reference" in wanted:
        found.append(Pass("reference", partial(_reference, session, table, Path(str(session.config.score.reference)))))
    return found


@contextmanager
def _response(session: Session, table: Any, adapter: Artifact | None, pooled: bool, scratch: Path) -> Iterator[Measure]:
    from trainer.activation import measuring
    from trainer.measure import Wanted, measure

    config = session.config.measure
    with session.adapter(adapter) as model:

        def run(rows: np.ndarray, progress: Callable[[int], None]) -> Arrays:
            """Loss, uncertainty and, where wanted, hidden states of `rows`."""
            wanted = Wanted(pooled=pooled)
            found = measure(model, table, rows, batch_tokens=config.batch_tokens, wanted=wanted, progress=progress)
            arrays = {name: np.asarray(getattr(found, name), dtype=np.float64) for name in RESPONSE}
            return arrays | ({"pooled": found.pooled} if pooled else {})

        exact = _Exact(table, model, config.batch_tokens) if config.weights == "fp8" else None
        with measuring(model, config.weights, config.batch_tokens):
            if exact is not None:
                exact.compare(scratch)
            yield run


class _Exact:
    """Scores of a few examples before weights become 8-bit, to measure how little their ranks change."""

    def __init__(self, table: Any, model: Any, batch_tokens: int):
        targets = np.asarray(table.target_counts)
        rows = np.flatnonzero(targets)
        self.rows = np.random.default_rng(0).choice(rows, min(FP8_SAMPLE, len(rows)), replace=False)
        self.arguments = (model, table, self.rows)
        self.batch_tokens = batch_tokens
        self.nll = self._measure()

    def _measure(self) -> np.ndarray:
        from trainer.measure import measure

        return measure(*self.arguments, batch_tokens=self.batch_tokens).nll_mean

    def compare(self, scratch: Path) -> None:
        """Measure them again and write down the rank correlation, for `score.json`."""
        from scipy.stats import spearmanr

        from trainer.forward import compute_dtype

        found = float(spearmanr(self.nll, self._measure()).statistic) if len(self.rows) > 2 else None
        known = None if found is None or found != found else found
        dtype = str(compute_dtype(self.arguments[0])).removeprefix("torch.")
        write_json(scratch / "fp8.json", {"fp8_rank_correlation": known, "exact_dtype": dtype})


def read_fp8(scratch: Path) -> dict[str, Any]:
    """What `compare` wrote down."""
    import json

    return json.loads((scratch / "fp8.json").read_text(encoding="utf-8"))


@contextmanager
def _unprompted(session: Session, table: Any, adapter: Artifact | None, scratch: Path) -> Iterator[Measure]:
    from trainer.activation import measuring
    from trainer.measure import measure
    from trainer.unprompted import Unprompted, response_frame

    config, frame = session.config.measure, response_frame(session.template)

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

    with session.adapter(adapter) as model, measuring(model, config.weights, config.batch_tokens):
        yield run


@contextmanager
def _gradient(session: Session, table: Any, checkpoint: GradientCheckpoint, scratch: Path) -> Iterator[Measure]:
    from trainer.gradients import Moments, project_gradients

    config, base = session.config, session.base
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
def _reference(session: Session, table: Any, path: Path, scratch: Path) -> Iterator[Measure]:
    from trainer.activation import measuring
    from trainer.measure import measure

    config = session.config.measure
    with session.base.adapter(path) as model, measuring(model, config.weights, config.batch_tokens):

        def run(rows: np.ndarray, progress: Callable[[int], None]) -> Arrays:
            """NLL of `rows` under the reference adapter."""
            found = measure(model, table, rows, batch_tokens=config.batch_tokens, progress=progress)
            return {"nll_reference_mean": found.nll_mean}

        yield run
