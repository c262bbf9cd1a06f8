"""Which common runs of words texts hold. scikit-learn's CountVectorizer needs twice the time, because it numbers every run that it meets;
here a text is read once to count its runs, and once to describe it by those that are common.

Columns and the order inside of rows are those of CountVectorizer, so what is computed from the matrix is the same to the last bit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WORDS_AND_SIGNS = r"(?u)\w+|[^\w\s]"
"""A token is a word or one sign: how a question is laid out ("A)", "###", "?") says much of its task."""
_tokens = re.compile(WORDS_AND_SIGNS).findall


@dataclass(frozen=True)
class CommonRuns:
    """`column`: of each common run its column, in the order in which the runs first came; columns are in the runs' alphabetical order."""

    column: dict[str, int]
    longest: int

    @classmethod
    def of(cls, texts: Sequence[str], longest: int, least: int, most: int) -> CommonRuns:
        """The runs of at most `longest` tokens that at least `least` of the texts hold; of more than `most`, the most frequent."""
        count: Counter[str] = Counter()
        for text in texts:
            count.update(_runs(text, longest))
        common = [run for run, texts_with in count.items() if texts_with >= least]
        ordered = sorted(common)
        if len(ordered) > most:
            frequency = np.array([count[run] for run in ordered], dtype=np.float32)
            ordered = [
                ordered[at] for at in np.sort((-frequency).argsort()[:most])
            ]  # ties as CountVectorizer breaks them
        column = {run: at for at, run in enumerate(ordered)}
        return cls({run: column[run] for run in common if run in column}, longest)

    def held_by(self, texts: Iterable[str], as_fitted: bool = False) -> csr_matrix:
        """(texts, runs) float32: 1 where a text holds a run. `as_fitted`: each row in the order in which the runs first came, as
        CountVectorizer's `fit_transform` has it, else by column."""
        from scipy.sparse import csr_matrix

        place = {run: at for at, run in enumerate(self.column)} if as_fitted else self.column
        found = [[place[run] for run in _runs(text, self.longest) if run in place] for text in texts]
        ends = np.cumsum([0, *map(len, found)], dtype=np.int32)
        indices = np.fromiter(chain.from_iterable(found), dtype=np.int32, count=int(ends[-1]))
        shape = (len(found), len(place))
        held = csr_matrix((np.ones(len(indices), dtype=np.float32), indices, ends), shape=shape)
        held.sort_indices()
        if as_fitted:
            columns = np.fromiter(self.column.values(), dtype=np.int32, count=len(place))
            held = csr_matrix((held.data, columns[held.indices], held.indptr), shape=shape)
        return held


def _runs(text: str, longest: int) -> Iterable[str]:
    """The different runs of one to `longest` tokens of a text, the shortest first."""
    tokens = _tokens(text.lower())
    runs, longer = [*tokens], tokens
    for size in range(1, longest):
        longer = [f"{run} {token}" for run, token in zip(longer, tokens[size:], strict=False)]
        runs += longer
    return dict.fromkeys(runs).keys()
