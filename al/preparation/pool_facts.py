"""Facts about a pool's examples for `pool inspect`: turns, languages, refusals, lengths.

Turns are counted of every example. What needs a detector or a tokenizer per example is measured on a random sample, always the
same one; each result says how many examples it is `of`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from al.cleaning.language import example_languages
from al.cleaning.refusals import is_refusal
from al.pool.store import Pool
from trainer.errors import DataError
from trainer.rendering import NO_TARGET
from trainer.tokens import STATUS_NAMES, fit
from trainer.tokens_config import TokensConfig

if TYPE_CHECKING:
    from trainer.template import ChatTemplate

LANGUAGE_SAMPLE = 5_000
LENGTH_SAMPLE = 5_000
REFUSAL_SAMPLE = 200_000
BLOCK = 1_024
PERCENTILES = (50, 90, 99)
USER_TURNS = {"none": (0, 0), "1": (1, 1), "2": (2, 2), "3-4": (3, 4), "5-8": (5, 8), "9+": (9, 2**62)}

Step = Callable[[int], None]


def sample_rows(n: int, size: int) -> np.ndarray:
    """(min(n, size),) int64 ascending: the random rows of the sample; all rows if `size` allows."""
    return np.arange(n) if n <= size else np.sort(np.random.default_rng([7]).permutation(n)[:size])


def measure_turns(pool: Pool) -> dict[str, Any]:
    """How many examples have so many user turns, a system message, a tool message. Reads every example."""
    counts = pool.count_roles()
    users = counts["user"]
    turns = {name: int(((users >= low) & (users <= high)).sum()) for name, (low, high) in USER_TURNS.items()}
    return {
        "of": len(pool),
        "user_turns": {name: count for name, count in turns.items() if count},
        "system": int((counts["system"] > 0).sum()),
        "tool": int((counts["tool"] > 0).sum()),
    }


def measure_languages(pool: Pool, step: Step) -> dict[str, Any]:
    """Languages of at most 5,000 examples: {"of", "counts": {ISO 639-1 code or "und": examples}}, the most frequent first."""
    rows = sample_rows(len(pool), LANGUAGE_SAMPLE)
    counts = Counter(example_languages(pool, step, rows).tolist())
    return {"of": len(rows), "counts": dict(counts.most_common())}


def measure_refusals(pool: Pool, step: Step) -> dict[str, Any]:
    """Responses that refuse to answer, of at most 200,000 examples with a response: {"of", "count"}."""
    labelled = np.flatnonzero(pool.labelled)
    rows = labelled[sample_rows(len(labelled), REFUSAL_SAMPLE)]
    count = 0
    for block in _blocks(rows):
        count += sum(is_refusal(messages[-1]["content"]) for messages in pool.messages(block))
        step(len(block))
    return {"of": len(rows), "count": count}


def measure_tokens(pool: Pool, template: ChatTemplate, config: TokensConfig, step: Step) -> dict[str, Any]:
    """Lengths in tokens of at most 5,000 examples, as `describe_lengths`, and what `tokens:` makes of the long ones:
    `kept` {status name: examples} (see trainer.tokens), the share of tokens that is trained on, and refusals of the template."""
    rows = sample_rows(len(pool), LENGTH_SAMPLE)
    lengths, statuses, targets, refused = [], Counter(), 0, []
    for block in _blocks(rows):
        for result in template.tokenize_batch(pool.messages(block)):
            if isinstance(result, DataError):
                refused.append(str(result))
                continue
            lengths.append(len(result.ids))
            targets += len(result.targets) - result.targets.count(NO_TARGET)
            if len(result.ids) > config.max_length:
                statuses[STATUS_NAMES[fit(result, config)[1]]] += 1
        step(len(block))
    return {
        "unit": "tokens",
        "of": len(rows),
        **describe_lengths(np.array(lengths, dtype=np.int64)),
        "tokenizer": template.tokenizer_name,
        "template": template.name,
        "trained_share": targets / sum(lengths) if lengths else None,
        "max_length": config.max_length,
        "overlength": config.overlength,
        "over": statuses.total(),
        "over_status": dict(statuses),
        "refused": len(refused),
        "refused_why": refused[0] if refused else None,
    }


def measure_characters(pool: Pool, why: str, step: Step) -> dict[str, Any]:
    """Lengths in characters of at most 5,000 examples, where no tokenizer can be had; `why` says so."""
    rows = sample_rows(len(pool), LENGTH_SAMPLE)
    lengths = []
    for block in _blocks(rows):
        lengths.append(pool.texts(block).lengths())
        step(len(block))
    return {"unit": "characters", "of": len(rows), "why": why, **describe_lengths(np.concatenate(lengths or [[]]))}


def describe_lengths(lengths: np.ndarray) -> dict[str, Any]:
    """Percentiles (50, 90, 99), mean, longest, total, and a histogram over bins [low, high) that double, without empty ends."""
    if not len(lengths):
        return {"percentiles": {}, "mean": None, "longest": None, "total": 0, "bins": []}
    exponents = np.frexp(lengths.astype(np.float64))[1]  # 2**(e-1) <= length < 2**e, and 0 for no length at all
    bins = [
        {"low": 2 ** (e - 1) if e else 0, "high": 2**e, "count": int((exponents == e).sum())}
        for e in range(int(exponents.min()), int(exponents.max()) + 1)
    ]
    return {
        "percentiles": {str(p): int(np.percentile(lengths, p, method="higher")) for p in PERCENTILES},
        "mean": float(lengths.mean()),
        "longest": int(lengths.max()),
        "total": int(lengths.sum()),
        "bins": bins,
    }


def spread_over_sources(pool: Pool, count: int) -> np.ndarray:
    """Rows of at most `count` examples, the sources taken in turn (the largest first), of each those with a response first.

    Ids are hashes, so the first rows of a source are as good as random ones, and the same every time.
    """
    _, source, sizes = np.unique(pool.sources, return_inverse=True, return_counts=True)
    order = np.lexsort((np.arange(len(source)), ~pool.labelled, source))
    starts = np.concatenate([[0], np.cumsum(sizes)])[:-1]
    turn = np.arange(len(source)) - np.repeat(starts, sizes)
    return order[np.lexsort((source[order], -sizes[source[order]], turn))][:count]


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]
