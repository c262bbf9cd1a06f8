"""Made data for `benchmarks/scale.py`: conversations and embeddings of the shape that large instruction pools have.

Topics follow a power law (the size of the r-th is proportional to 1/r), 15% of the rows are near-duplicates of another row, and topics of
an area are similar. Everything follows from the seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

DIMENSIONS, LATENT, AREAS = 384, 16, 40
NEAR_DUPLICATES = 0.15
BLOCK = 20_000
VOCABULARY = 30_000


def topics_of(n: int, seed: int) -> np.ndarray:
    """(n,) int64: the topic of each row, √n topics whose sizes follow a power law."""
    k = max(4, int(n**0.5))
    weight = 1 / np.arange(1, k + 1)
    return np.random.default_rng([seed, 1]).choice(k, size=n, p=weight / weight.sum())


def originals(n: int, seed: int) -> np.ndarray:
    """(n,) int64: the row that each row is a near-duplicate of; most rows are their own."""
    rng = np.random.default_rng([seed, 2])
    return np.where(rng.random(n) < NEAR_DUPLICATES, rng.integers(0, n, size=n), np.arange(n))


def write_vectors(path: Path, n: int, seed: int = 0) -> None:
    """Write unit vectors (n, 384) as float16: an area, a topic of it, a direction of 16 dimensions of the area, and noise."""
    topic, original = topics_of(n, seed), originals(n, seed)
    rng = np.random.default_rng([seed, 3])
    area = rng.normal(size=(AREAS, DIMENSIONS)).astype(np.float32)
    basis = rng.normal(size=(AREAS, LATENT, DIMENSIONS)).astype(np.float32) / np.float32(LATENT**0.5)
    of = rng.integers(0, AREAS, size=topic.max() + 1)
    centre = area[of] + 0.9 * rng.normal(size=(len(of), DIMENSIONS)).astype(np.float32)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(n, DIMENSIONS))
    for start in range(0, n, BLOCK):
        rows = np.arange(start, min(start + BLOCK, n))
        draw = np.random.default_rng([seed, 4, start])
        source = np.where(original[rows] < start, rows, original[rows])  # a copy of an earlier block is made below
        latent = draw.normal(size=(len(rows), LATENT)).astype(np.float32)
        vectors = centre[topic[rows]] + 0.35 * draw.standard_normal(size=(len(rows), DIMENSIONS), dtype=np.float32)
        for a in np.unique(of[topic[rows]]):
            mine = of[topic[rows]] == a
            vectors[mine] += 0.9 * latent[mine] @ basis[a]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        earlier = np.flatnonzero(original[rows] < start)
        vectors[earlier] = out[original[rows][earlier]]
        within = np.flatnonzero((source != rows) & (source < rows[-1] + 1))
        vectors[within] = vectors[source[within] - start]
        copies = original[rows] != rows
        vectors[copies] += 0.006 * draw.standard_normal(size=(int(copies.sum()), DIMENSIONS), dtype=np.float32)
        out[rows] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    out.flush()


def conversations(n: int, seed: int = 0) -> Iterator[dict]:
    """Rows of one question and one response, about 400 characters: a topic's instruction, then words of the topic."""
    topic, original = topics_of(n, seed), originals(n, seed)
    rng = np.random.default_rng([seed, 5])
    letters = np.array(list("etaoinshrdlucmfwygpbvk"))
    words = np.array(["".join(rng.choice(letters, size=size)) for size in rng.integers(2, 10, size=VOCABULARY)])
    rank = 1 / np.arange(1, VOCABULARY + 1)
    cumulative = np.cumsum(rank / rank.sum())
    instruction = [
        " ".join(words[rng.integers(0, VOCABULARY, size=int(size))]) for size in rng.integers(6, 22, topic.max() + 1)
    ]
    texts: dict[int, tuple[str, str]] = {}
    for row in range(n):
        source = int(original[row])
        if source != row and source in texts:
            question, answer = texts[source]
            answer = f"{answer} {words[row % VOCABULARY]}"
        else:
            draw = np.random.default_rng([seed, 6, row])
            size = int(np.clip(draw.lognormal(3.6, 0.6), 8, 400))
            found = words[(np.searchsorted(cumulative, draw.random(size)) + 97 * int(topic[row])) % VOCABULARY]
            question, answer = " ".join(found[: size // 2]), " ".join(found[size // 2 :])
        if row % 4 == 0 and len(texts) < 50_000:
            texts[row] = question, answer
        yield {
            "messages": [
                {"role": "user", "content": f"{instruction[topic[row]]}\n{question.capitalize()}?"},
                {"role": "assistant", "content": f"{answer}."},
            ],
            "source": f"topic-{topic[row] % 60:02d}",
        }


def write_conversations(path: Path, n: int, seed: int = 0) -> None:
    """Write `conversations` as JSON Lines."""
    with path.open("w", encoding="utf-8") as file:
        for row in conversations(n, seed):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
