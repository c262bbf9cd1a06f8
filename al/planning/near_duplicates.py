"""How many examples of a pool are distinct, before a run has looked for near-duplicates.

A random sample is embedded and searched as a round searches the pool. A sample holds fewer near-duplicates than the pool, so its share of
them is not the pool's. Of m of n examples in S groups, f1 of one example and f2 of two, n examples are expected to form

    at least  S + f1² / (2 f2 · m/(m-1) + f1 · m/(n-m))     Chao & Lin 2012 (doi:10.1111/j.1541-0420.2011.01739.x), without replacement
    at most   S + (n - m) · f1/m                             the next example is new with a chance of f1/m (Good 1953), and with less later

f1 and f2 are random too, and each is taken two standard errors to the side that widens the bounds. If all n are searched, both are S.

Texts that are the same up to their digits would be a cheaper sign, and were tried: of 9,000 made tickets they leave 3,309, the embedder
7,665.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from al.assets import ASSETS
from al.cache import cache_dir
from al.config import Config
from selection.answers import answer_codes
from selection.config import EmbedConfig
from selection.dedup import near_duplicate_groups
from selection.embed import embed_texts, load_embedder
from selection.errors import SelectionError

SEARCH_SECONDS, WHOLE_SECONDS = 4.0, 10.0
"""For embedding a sample, and a whole pool: on two cores 50 to 200 texts a second, by their length."""
MOST_SEARCHED = 20_000
FIRST_BATCH, LARGEST_BATCH = 32, 1024
MINILM = "minilm"
"""The asset of the demo (al.assets) that is the default embedder."""


@dataclass(frozen=True)
class Distinct:
    """`least`, `most`: bounds of the number of distinct examples among `examples`, by a search of `searched` of them that took `seconds`.
    `ordered`: these are of the first rows of each large file, which may be more or less alike than the others. `why`: why none was
    searched."""

    least: int
    most: int
    searched: int
    examples: int
    seconds: float = 0.0
    ordered: bool = False
    why: str = ""

    @classmethod
    def unknown(cls, examples: int, why: str) -> Distinct:
        """Where nothing can be searched."""
        return cls(0, examples, 0, examples, why=why)


def find_distinct(
    texts: Sequence[str],
    responses: Sequence[str],
    examples: int,
    config: Config,
    ordered: bool = False,
    seconds: float | None = None,
) -> Distinct:
    """Bounds of the number of distinct examples, by the config's embedder and `dedup.threshold`. A plan downloads no model: where the
    embedder is not on this machine, nothing is searched.

    Args:
        texts: of a random sample in random order, as `embed.text` says. Those that there is time for are searched.
        responses: of the same examples.
        examples: in the pool from which the sample is.
        ordered: as of `Distinct`.
        seconds: for embedding; None: SEARCH_SECONDS, or up to WHOLE_SECONDS if these are enough for the whole pool.
    """
    embedder = embedder_here(config.embed)
    if embedder is None:
        missing = f"{config.embed.model}, which finds them, is not on this machine"
        return Distinct.unknown(examples, f"{missing} (`hf download {config.embed.model}` fetches it)")
    if not len(texts):
        return Distinct.unknown(examples, "no example can be read here")
    started = time.perf_counter()
    try:
        texts = texts[: min(examples, MOST_SEARCHED)]
        whole = WHOLE_SECONDS if len(texts) == examples else SEARCH_SECONDS
        vectors = _embedded(texts, embedder, seconds or SEARCH_SECONDS, seconds or whole)
    except SelectionError as error:
        return Distinct.unknown(examples, str(error))
    rank = np.zeros(len(vectors), dtype=np.int64)
    answers = answer_codes(responses[: len(vectors)]) if config.dedup.same_answer else None
    groups = near_duplicate_groups(vectors, rank, config.dedup.threshold, config.dedup.neighbours, answers=answers)
    _, sizes = np.unique(groups.representative, return_counts=True)
    spent = time.perf_counter() - started
    return Distinct(*bounds(sizes, examples), len(vectors), examples, spent, ordered)


def bounds(sizes: np.ndarray, examples: int) -> tuple[int, int]:
    """The least and the largest number of groups among `examples`, from the sizes (g,) of the groups in a random sample of them."""
    found, searched = len(sizes), int(sizes.sum())
    left = examples - searched
    if left <= 0:
        return found, found
    ones, twos = int((sizes == 1).sum()), int((sizes == 2).sum())
    share = (ones + 2) / (searched + 4)  # Agresti & Coull 1998: also where all or none are alone
    error = np.sqrt(share * (1 - share) * searched * left / examples)
    fewer, twos = (
        max(0.0, ones - 2 * error),
        twos + 2 * np.sqrt(twos) + 3,
    )  # 3: so many may be expected, at 95%, where none is found
    unseen = fewer**2 / (2 * twos * searched / max(searched - 1, 1) + fewer * searched / left)
    unseen = max(0.0, min(unseen, left) - 2 * np.sqrt(unseen))
    most = found + left * ones / searched + 2 * error * examples / searched
    return found + int(unseen), int(min(most, found + left))


def embedder_here(config: EmbedConfig) -> EmbedConfig | None:
    """The config with the folder that holds its model on this machine: its own, the hub's cache, or the demo's for the default model."""
    folder = _folder(config)
    return None if folder is None else config.model_copy(update={"model": str(folder), "revision": None})


def _folder(config: EmbedConfig) -> Path | None:
    if Path(config.model).is_dir():
        return Path(config.model)
    from huggingface_hub import try_to_load_from_cache

    found = [
        try_to_load_from_cache(config.model, name, revision=config.revision) for name in ("modules.json", "config.json")
    ]
    weights = try_to_load_from_cache(config.model, "model.safetensors", revision=config.revision)
    if isinstance(weights, str) and any(isinstance(path, str) for path in found):
        return Path(weights).parent
    demo, cache = next(asset for asset in ASSETS if asset.name == MINILM), cache_dir()
    same = config.model == EmbedConfig().model and config.revision is None
    return cache / MINILM if same and demo.present(cache) else None


def _embedded(texts: Sequence[str], config: EmbedConfig, seconds: float, whole: float) -> np.ndarray:
    """(m, d) float16 unit vectors of the first m texts: as many as `seconds` allow, or all if `whole` seconds do. Batches grow with the
    speed."""
    embedder = load_embedder(config)
    parts: list[np.ndarray] = []
    done, size, started = 0, FIRST_BATCH, time.perf_counter()
    while done < len(texts):
        some = texts[done : done + size]
        out = np.empty((len(some), embedder.get_embedding_dimension()), dtype=np.float16)
        embed_texts(some, config, out, embedder=embedder)
        parts.append(out)
        done += len(some)
        spent = time.perf_counter() - started
        limit = whole if spent * len(texts) <= whole * done else seconds
        if spent >= limit:
            break
        size = int(np.clip(done / spent * (limit - spent), FIRST_BATCH, min(2 * size, LARGEST_BATCH)))
    return np.concatenate(parts)
