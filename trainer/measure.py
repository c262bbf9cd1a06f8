"""What a model makes of examples: one packed forward pass gives every statistic, and full logits never exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from trainer.errors import MachineError
from trainer.forward import Tokens, collate, hidden_states, output_head
from trainer.loss import target_statistics
from trainer.rendering import END_OF_TURN


@dataclass(frozen=True)
class Statistics:
    """Per example, aligned to the rows that were measured. Only target tokens count; NLL and entropy are in nats.

    nll_total, nll_mean, entropy_mean (n,) float64; targets (n,) int64; correct (n,) bool: every target is the model's
    most probable token, given the ones before it. nll_total_no_end, targets_no_end and correct_no_end are the same
    without the end-of-turn tokens. An example without targets has zeros, NaN means and False.
    """

    nll_total: np.ndarray
    nll_mean: np.ndarray
    entropy_mean: np.ndarray
    targets: np.ndarray
    nll_total_no_end: np.ndarray
    targets_no_end: np.ndarray
    correct: np.ndarray
    correct_no_end: np.ndarray


@torch.inference_mode()
def measure(
    model: torch.nn.Module,
    tokens: Tokens,
    rows: np.ndarray,
    *,
    batch_tokens: int,
    progress: Callable[[int], None] = lambda rows: None,
) -> Statistics:
    """Statistics of documents `rows` (n,) of `tokens` under `model`, wearing whatever adapter it wears.

    Documents are sorted by length and packed up to `batch_tokens` tokens a batch; a longer document goes alone. Order
    and batching change results by rounding only. `progress` gets the number of rows just finished. Raises
    MachineError when a batch does not fit the GPU.
    """
    rows = np.asarray(rows, dtype=np.int64)
    lengths = np.array([len(tokens.ids(int(row))) for row in rows], dtype=np.int64)
    sums = _Sums.zeros(len(rows))
    model.eval()
    device = next(model.parameters()).device
    progress(int((lengths == 0).sum()))
    for members in _length_batches(lengths, batch_tokens):
        try:
            _measure_batch(model, tokens, rows, members, device, sums)
        except torch.OutOfMemoryError as error:
            raise MachineError(
                f"out of GPU memory while measuring {lengths[members].sum()} tokens at once: "
                f"lower measure.batch_tokens (now {batch_tokens})"
            ) from error
        progress(len(members))
    return sums.finish()


@dataclass(frozen=True)
class _Sums:
    """Sums per example, in float64; the no_end ones leave end tokens out."""

    nll: np.ndarray
    nll_no_end: np.ndarray
    entropy: np.ndarray
    targets: np.ndarray
    wrong: np.ndarray
    wrong_no_end: np.ndarray
    targets_no_end: np.ndarray

    @classmethod
    def zeros(cls, n: int) -> _Sums:
        """Nothing measured yet of n examples."""
        return cls(*(np.zeros(n) for _ in range(7)))

    def finish(self) -> Statistics:
        """Statistics of the sums."""
        with np.errstate(invalid="ignore"):
            nll_mean, entropy_mean = self.nll / self.targets, self.entropy / self.targets
        return Statistics(
            nll_total=self.nll,
            nll_mean=nll_mean,
            entropy_mean=entropy_mean,
            targets=self.targets.astype(np.int64),
            nll_total_no_end=self.nll_no_end,
            targets_no_end=self.targets_no_end.astype(np.int64),
            correct=(self.wrong == 0) & (self.targets > 0),
            correct_no_end=(self.wrong_no_end == 0) & (self.targets_no_end > 0),
        )


def _measure_batch(
    model: torch.nn.Module, tokens: Tokens, rows: np.ndarray, members: np.ndarray, device: torch.device, sums: _Sums
) -> None:
    batch = collate(tokens, rows[members], device)
    hidden_Pd = hidden_states(model, batch)[batch.predictors]
    found = target_statistics(hidden_Pd, output_head(model), batch.labels)
    # One transfer for the three.
    nll, entropy, correct = torch.stack([found.nll, found.entropy, found.correct.float()]).cpu().double().numpy()
    body = batch.label_kinds != END_OF_TURN

    def per_document(values: np.ndarray) -> np.ndarray:
        return np.bincount(batch.label_documents, weights=values, minlength=len(members))

    sums.nll[members] = per_document(nll)
    sums.nll_no_end[members] = per_document(nll * body)
    sums.entropy[members] = per_document(entropy)
    sums.targets[members] = per_document(np.ones_like(nll))
    sums.targets_no_end[members] = per_document(body.astype(np.float64))
    sums.wrong[members] = per_document(1 - correct)
    sums.wrong_no_end[members] = per_document((1 - correct) * body)


def _length_batches(lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Indices of non-empty documents, longest first, in runs of at most batch_tokens tokens (or one document)."""
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    start = 0
    while start < len(order):
        totals = np.cumsum(lengths[order[start : start + batch_tokens]])
        count = max(1, int(np.searchsorted(totals, batch_tokens, side="right")))
        yield order[start : start + count]
        start += count
