"""Measured examples that are suspected noise: their prompt makes their response less likely, so the response belongs elsewhere.

Loss by itself cannot tell noise from what is not learned yet: both are high. What tells is whether the prompt helps. The response of a
hard example is improbable, but less so than without its prompt; an answer that belongs to another question is not. The nats
that a prompt takes off its response's NLL are their pointwise mutual information (Church & Hanks 1990), or the logarithm of a
likelihood ratio: "written for this prompt" against "written for any". Instruction-following difficulty (arXiv 2308.12032) is
the ratio of the same two losses.

An adapter knows what responses look like; a base model does not, and is not asked. docs/benchmarks.md has what was measured
(benchmarks/noise_detection.py): of exchanged answers half to four fifths are suspected, and eight to ten in ten suspects are
right, the more the adapter has learned the more. Comparing losses with those of the nearest measured neighbours found as
much where the whole pool was measured, and a quarter of it where two of each cluster were: neighbours that few are not alike.

What it cannot find: wrong answers that fit their prompt, such as one of two labels where the model does not know which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MARGIN = 0.1
"""Nats of a whole response that packing and rounding may come to."""
LEAST_OF_A_GROUP, MOST_OF_A_GROUP = 8, 1 / 3
"""Of a group of which so many are measured and more than this share would be suspects, none is."""


@dataclass(frozen=True)
class Suspicion:
    """Which of n examples are suspected noise, and why; arrays (n,).

    `suspect`: bool. `gain`: float64, nats that the prompt takes off the NLL of the whole response; below zero where it makes the
    response less likely; NaN where not measured.
    """

    suspect: np.ndarray
    gain: np.ndarray


def suspected_noise(with_prompt: np.ndarray, without: np.ndarray, groups: Sequence[np.ndarray] = ()) -> Suspicion:
    """Suspect every example whose prompt makes its response less likely.

    Prompts that do not help say nothing: plain text behind an empty prompt, say, or a kind of task of which the adapter knows
    nothing yet. So where more than a third of a group would be suspects, none of it is.

    Args:
        with_prompt: (n,) NLL of the whole response given its prompt, in nats, under an adapter that was not trained on it; NaN
            where not measured.
        without: (n,) the same in the same frame without the prompt (trainer.unprompted).
        groups: (n,) integer codes of each way to group them: by source, by cluster.
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
