"""Measured examples that are suspected noise (a wrong label, garbled text): the model finds them far harder than what lies around them.

Loss by itself cannot tell noise from what is not learned yet: both are high. But what is hard comes in regions, where the neighbours are
hard as well, and noise comes one by one among neighbours that are easy. The comparison with neighbours is that of local outlier factors
(Breunig et al. 2000, doi 10.1145/342009.335388), with the loss in place of the density; median and MAD because neighbours may be noise too.

Embed prompts, not conversations: a wrong answer moves a conversation away from those it should be compared with.

Measured on `evals-noisy` of benchmarks/study_pools.py (391 tasks, 78,575 examples, 8.7% of answers exchanged; 16 neighbours, threshold 3.5)
and on `evals`, the same without noise and near-duplicates, where all suspicion is false:

    adapter trained on            nothing   1,000   4,000      1,000, conversations
    all measured      precision    0.95     0.97     0.97      0.94
                      recall       0.43     0.76     0.76      0.37
                      false        0.2%     0.3%     0.4%      0.3%
    5% measured       precision    0.89     0.91     0.92      0.89
                      recall       0.40     0.74     0.74      0.56
                      false        0.8%     0.9%     0.7%      0.9%

The responses there have 4 tokens in the mean; longer ones were not tried. What it cannot find: noise that fills a neighbourhood, and
wrong labels that the model finds likely (of two classes, say).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from selection.dedup import vector_index
from selection.vectors import blocks, unit

LEAST_NEIGHBOURS = 8
"""Measured neighbours below which there is nothing to compare with."""
CELLS_SEARCHED = 16
FLOOR, RELATIVE_FLOOR = 0.3, 0.05
"""Spread of a neighbourhood that counts as nothing, in nats, and as a share of its median. In a neighbourhood of nearly equal
losses anything stands out: with 0.1 in place of 0.3 the precision is 0.70 instead of 0.97. The second is for an untrained model, whose
losses are of several nats: precision 0.95 instead of 0.83."""


@dataclass(frozen=True)
class Suspicion:
    """Which of n examples are suspected noise, and why; arrays (n,).

    `suspect`: bool. `z`: float32, how far the loss lies above those of the neighbours, in their spread; NaN where it is not measured
    or too few neighbours are. `neighbour_loss`: float32, median over the neighbours, nats per response token; NaN where z is. `loss`:
    as given. `neighbours`: int, how many were compared with. `z_before`: float32, z in the earlier round, NaN where unknown.
    """

    suspect: np.ndarray
    z: np.ndarray
    neighbour_loss: np.ndarray
    loss: np.ndarray = field(repr=False)
    neighbours: np.ndarray = field(repr=False)
    z_before: np.ndarray = field(repr=False)

    def explain(self, i: int) -> str:
        """One line on example i: `NLL 5.10 where its 16 nearest neighbours have 0.21 (z 9.8)`."""
        if np.isnan(self.z[i]):
            return "not measured" if np.isnan(self.loss[i]) else "too few measured neighbours"
        z = f"z {self.z[i]:.1f}" + (f", before {self.z_before[i]:.1f}" if not np.isnan(self.z_before[i]) else "")
        return f"NLL {self.loss[i]:.2f} where its {self.neighbours[i]} nearest neighbours have {self.neighbour_loss[i]:.2f} ({z})"


def suspected_noise(
    embeddings: np.ndarray,
    loss: np.ndarray,
    *,
    neighbours: int = 16,
    threshold: float = 3.5,
    before: np.ndarray | None = None,
) -> Suspicion:
    """Compare each example's loss with those of its nearest measured neighbours by cosine, itself left out.

        z = (loss - median) / (MAD + 0.3 + 0.05 · median)           median and MAD over the neighbours' losses

    Suspected are z ≥ threshold, and z ≥ threshold / 2 if z was ≥ threshold in the earlier round: of what training has begun to fit, noise
    included. The latter adds 0.02 to 0.04 to the recall and takes at most 0.02 from the precision. (That a loss falls by less than its
    neighbours' says little: of what that would add, 0.25 to 0.5 is noise.)

    Invariant to the order of rows, but for ties in cosine and, above `dedup.EXACT_UP_TO` measured, for the approximate index.

    Args:
        embeddings: (n, d) float, of prompts, may be memory-mapped; float32 copies are made of one block at a time.
        loss: (n,) mean NLL under the current adapter, nats per response token; NaN where not measured, which is never suspected.
        neighbours: how many to compare with; all the others if fewer are measured, and below `LEAST_NEIGHBOURS` nothing is suspected.
        threshold: 3.5 finds three quarters of the noise with nine of ten right, see the table above; higher is surer.
        before: (n,) loss of the same examples in an earlier round, NaN where unknown.
    """
    n, rows = len(loss), np.flatnonzero(np.isfinite(loss))
    loss = np.asarray(loss, dtype=np.float64)
    earlier = np.full(n, np.nan) if before is None else np.asarray(before, dtype=np.float64)
    median, z, z_before = (np.full(n, np.nan, dtype=np.float32) for _ in range(3))
    count = np.zeros(n, dtype=np.int32)
    k = min(neighbours, len(rows) - 1)
    if k >= LEAST_NEIGHBOURS:
        index = vector_index(embeddings, rows, CELLS_SEARCHED)
        for block in blocks(rows):
            index.add(unit(embeddings[block]))
        for block in blocks(np.arange(len(rows))):
            near, own = _others(index.search(unit(embeddings[rows[block]]), k + 1)[1], block), rows[block]
            median[own], z[own], count[own] = _compare(loss, own, rows, near)
            if before is not None:
                _, z_before[own], _ = _compare(earlier, own, rows, near)
    with np.errstate(invalid="ignore"):
        suspect = (z >= threshold) | ((z >= threshold / 2) & (z_before >= threshold))
    return Suspicion(suspect, z, median, loss, count, z_before)


def _others(found: np.ndarray, own: np.ndarray) -> np.ndarray:
    """(b, k) the found (b, k + 1) without the example itself or, if copies of it crowded it out, without the last."""
    keep = found != own[:, None]
    keep[keep.all(axis=1), -1] = False
    return found[keep].reshape(len(found), -1)


def _compare(
    loss: np.ndarray, own: np.ndarray, rows: np.ndarray, near: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median of the neighbours' losses, z and number of neighbours with a loss; NaN where those are too few.
    `near` (b, k) are positions in `rows`, -1 where the index found none."""
    around = np.where(near >= 0, loss[rows[near]], np.nan)
    count = (~np.isnan(around)).sum(axis=1)
    median, z = np.full(len(own), np.nan), np.full(len(own), np.nan)
    enough = count >= LEAST_NEIGHBOURS
    around = around[enough]
    median[enough] = np.nanmedian(around, axis=1)
    spread = np.nanmedian(np.abs(around - median[enough, None]), axis=1)
    z[enough] = (loss[own[enough]] - median[enough]) / (spread + FLOOR + RELATIVE_FLOOR * median[enough])
    return median, z, count
