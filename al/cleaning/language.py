"""The language of a text, by py3langid: Naive Bayes over byte n-grams (Lui and Baldwin 2012, "langid.py", ACL demonstrations; model of
4.6 MB, no network). About 2,500 texts of 500 characters per second on one core.

Of 51 single sentences in 24 languages (tests/unit/cleaning/sentences.py), 48 are detected correctly, 3 are "und" and none is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from al.pool.store import Message, Pool

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

UNKNOWN = "und"
"""Code (ISO 639-2) of a text too short or too mixed to decide."""
CERTAIN = 0.5
"""Minimum probability of a detected language. Measured: at 0.3 one sentence of 51 is wrong, at 0.7 five more are unknown."""
LOOKED_AT = 500
PER_TURN = 250
NO_LANGUAGE = "zxx"
FIELDS = ("lang", "language")
"""Fields of a row that name its language (OASST1, Aya)."""
BATCH = 1000


def languages_of_texts(texts: Sequence[str]) -> np.ndarray:
    """(n,) str: ISO 639-1 code of each text, detected from its first 500 characters, or "und"."""
    return np.array([_detect(text) for text in texts], dtype="<U3")


def known_languages() -> list[str]:
    """The codes that can be detected, sorted."""
    return sorted(set(_identifier().labels) - {NO_LANGUAGE})


def example_languages(
    pool: Pool, progress: Callable[[int], None] = lambda n: None, rows: np.ndarray | None = None
) -> np.ndarray:
    """(n,) str: the language of each example of `pool`, or of its `rows`, which are held in memory.

    The row's own field is used if present. Otherwise the language is detected from the first 250 characters of each turn,
    500 in total, without the system message, which is often boilerplate. `progress` receives numbers of examples."""
    known = set(known_languages())
    found: list[str] = []
    conversations = pool.iter_messages() if rows is None else iter(pool.messages(rows))
    for messages, named in zip(conversations, _named(pool, known, rows), strict=True):
        found.append(named or _detect(_shown(messages)))
        if len(found) % BATCH == 0:
            progress(BATCH)
    progress(len(found) % BATCH)
    return np.array(found, dtype="<U3")


def _named(pool: Pool, known: set[str], rows: np.ndarray | None) -> Iterator[str | None]:
    """The language named by each row, if it is a code in `known` (`lang: python` is not)."""
    rows = np.arange(len(pool)) if rows is None else rows
    for start in range(0, len(rows), BATCH):
        for metadata in pool.metadata(rows[start : start + BATCH]):
            yield next((code for code in _codes(metadata.get(field) for field in FIELDS) if code in known), None)


def _codes(values: Iterable[object]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str) and (match := re.match(r"([A-Za-z]{2})(?![A-Za-z])", value)):
            yield match[1].lower()


def _shown(messages: list[Message]) -> str:
    turns = [message["content"][:PER_TURN] for message in messages if message["role"] != "system"]
    return "\n".join(turns or (message["content"][:PER_TURN] for message in messages))


def _detect(text: str) -> str:
    code, probability = _identifier().classify(text[:LOOKED_AT])
    return code if probability >= CERTAIN and code != NO_LANGUAGE else UNKNOWN


@cache
def _identifier() -> LanguageIdentifier:
    """The model, restricted to languages with an ISO 639-1 code, plus its label for text in no language (numbers, code)."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages([code for code in identifier.labels if len(code) == 2] + [NO_LANGUAGE])
    identifier.nb_ptc = np.ascontiguousarray(identifier.nb_ptc)  # reading selected columns is half as fast
    return identifier
