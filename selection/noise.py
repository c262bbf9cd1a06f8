"""Suspected noise: measured examples whose prompt makes their response less likely.

Noise and examples that the model has not learned yet both have a high loss, so loss does not separate them. The prompt does. The
response of a hard example is improbable, but less so with its prompt than without. An answer to another question is more improbable
with the prompt. The nats that a prompt takes off its response's NLL are their pointwise mutual information (Church & Hanks 1990), or
the logarithm of a likelihood ratio: "written for this prompt" against "written for any". Instruction-following difficulty
(arXiv 2308.12032) is the ratio of the same two losses.

The check needs an adapter that knows what responses look like, so it skips the base model. Measured (benchmarks/noise_detection.py,
docs/benchmarks.md): half to four fifths of exchanged answers are suspected, and 80% to 100% of the suspects are exchanged; both rise as
the adapter learns. Comparing losses with those of the nearest measured neighbours found as many where the whole pool was measured,
and a quarter as many where two of each cluster were: so few neighbours are not similar enough.

The check does not find wrong answers that fit their prompt, such as the wrong one of two labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MARGIN = 0.1
"""Nats of a whole response that can come from packing and rounding."""
LEAST_OF_A_GROUP, MOST_OF_A_GROUP = 8, 1 / 3
"""In a group with at least this many measured examples, more than this share of suspects means that none is suspected."""


@dataclass(frozen=True)
class Suspicion:
    """Which of n examples are suspected noise; arrays (n,).

    `suspect`: bool. `gain`: float64, nats that the prompt takes off the NLL of the whole response, NaN where not measured. It is
    negative if the prompt makes the response less likely.
    """

    suspect: np.ndarray
    gain: np.ndarray


def suspected_noise(with_prompt: np.ndarray, without: np.ndarray, groups: Sequence[np.ndarray] = ()) -> Suspicion:
    """Suspect every example whose prompt makes its response less likely.

    Prompts that never help make the check unreliable: plain text after an empty prompt, for example, or a task that the adapter has
    not learned yet. If more than a third of a group would be suspects, none of the group is.

    Args:
        with_prompt: (n,) NLL of the whole response given its prompt, in nats, from an adapter that was not trained on it; NaN
            where not measured.
        without: (n,) the same without the prompt, in the same frame (trainer.unprompted).
        groups: for each way to group the examples (by source, by cluster), (n,) integer codes.
    """
    gain = np.asarray(without, dtype=np.float64) - with_prompt
    known = np.isfinite(gain)
    suspect = known & (gain < -MARGIN)
    cleared = np.zeros(len(gain), dtype=bool)
    for codes in groups:
        measured = np.bincount(codes[known], minlength=int(codes.max(initial=0)) + 1)
        found = np.bincount(codes[suspect], minlength=len(measured))
        cleared |= ((measured >= LEAST_OF_A_GROUP) & (found > MOST_OF_A_GROUP * measured))[codes]
    return Suspicion(suspect & ~cleared, gain)
