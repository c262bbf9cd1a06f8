"""wana 0.5.1's IFD selection, in an environment of its own: python wana_ifd.py GIVEN.npz PICKS.npy

wana computes the ratio of a response's NLL with and without its prompt, leaves out rows above 1 and keeps the highest. It asks a provider
for NLLs; here they are those of the run's own base model, measured before ("nll", "unprompted"), instead of its bundled model on the CPU.
Rows are named by their number, which is what the provider gets as text.
"""

import sys

import numpy as np
from wana.adapters.scoring.ifd import IFDScorer
from wana.api import score_dataset, select_subset
from wana.domain.example import Example, Message, Role

given = np.load(sys.argv[1])


class Measured:
    """wana's LogProbProvider, from what was measured."""

    def mean_nll(self, prefix: tuple[Message, ...], target: str) -> float:
        """Mean NLL of row `target`'s response in nats, after its prompt or alone."""
        return float(given["nll" if prefix else "unprompted"][int(target)])


usable = np.isfinite(given["nll"]) & (given["unprompted"] > 0)
rows = [
    Example(str(i), (Message(Role.USER, str(i)), Message(Role.ASSISTANT, str(i))))
    for i in np.flatnonzero(usable).tolist()
]
found = select_subset(score_dataset(rows, scorers=[IFDScorer(Measured())]), keep=int(given["budget"]))
np.save(sys.argv[2], np.array([int(row.example.id) for row in found.examples]))
