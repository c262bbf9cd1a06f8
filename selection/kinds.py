"""Kinds of example found in the wording of prompts: clusters that are tasks, where sentence embeddings give topics.

What makes examples one task is that their prompts ask in the same words ("Is this review positive?"), whatever the text is about. So a
prompt is described by which common runs of one to three words and signs it holds, not by what it means: no model is needed, and
frequent runs count as much as rare ones (weights such as IDF would bring the topics back). k-means makes cells, which are joined from
the bottom up (average linkage, Sokal & Michener 1958) until the nearest two are too far apart. A prompt without a template holds
few common runs and lies near the origin, with all others of its sort: a large task of free questions stays one kind, where
vectors of unit length would scatter it over many.

In a large pool rare tasks share one kind, because their wording is common in the kind only and not in the pool. So each kind is searched
once more by what is common inside it. What that finds counts as a kind if its prompts share a template (`kinds.shared`); pieces of a
large task of free questions do not, and stay together.

Open conversation would be as many kinds as it has topics and personas. Its answers are unlike those of tasks: they are long and have little
wording in common. Such kinds (`open_kinds`) count as one group.

How kinds compare with hidden tasks: docs/selection.md. Time is about 3 s for 10,000 prompts, memory 400 bytes an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from selection.config import KindsConfig
from selection.randomness import CLUSTER, derive_seed
from selection.runs import WORDS_AND_SIGNS, CommonRuns
from selection.vectors import blocks

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer

FIT_TEXTS = 20_000
"""At most so many prompts, drawn at random, decide which runs of words are common and what their components are."""
CHARACTERS = 1000
"""So much of a prompt is read."""
MOST_RUNS = 20_000
FEW_RUNS = 10
"""Added to the number of runs that a prompt holds, so that one with next to none is not described by chance."""
MOST_CELLS, EXAMPLES_PER_CELL, TRAINED_PER_CELL = 500, 8, 64
ITERATIONS = 10
SEARCHED_FROM, SMALLEST, SAMPLED = 60, 8, 60
"""Kinds of so many examples are searched again; what is found there has at least SMALLEST, and SAMPLED of them say what they share."""
UNLIKE = 0.1
"""A new prompt with a lower cosine to every kind is worded as none: fewer than 1 in 1,000 new prompts of the tasks that P3 has, and most in
another language. New tasks in the pool's language lie at 0.14 to 0.35, as free questions of known ones do (docs/decisions.md)."""
WORDLESS = "\N{EMPTY SET}"
"""Read in place of a prompt without a word."""


@dataclass(frozen=True)
class Kinds:
    """Kinds of n examples: `of` (n,) int32 from 0 on, in order of their first examples; `shared` (kinds,): `shared_wording` of each; `open`
    (kinds,) bool: `open_kinds`."""

    of: np.ndarray
    shared: np.ndarray
    open: np.ndarray

    @property
    def groups(self) -> np.ndarray:
        """(n,) int32 from 0 on, in the order of the kinds: open kinds are one group, each other kind is its own."""
        if not self.open.any():
            return self.of
        code = np.arange(len(self.open))
        code[self.open] = np.flatnonzero(self.open)[0]
        return np.unique(code[self.of], return_inverse=True)[1].astype(np.int32)


def find_kinds(
    prompts: Sequence[str],
    config: KindsConfig,
    seed: int,
    responses: Sequence[str] | None = None,
    answered: np.ndarray | None = None,
) -> Kinds:
    """The kinds of n prompts; the same for the same texts, config and seed.

    Args:
        prompts: n texts, an example's messages but the response; read a few times, never held as a list.
        responses: n texts, of which a sample is read; without them no kind is open.
        answered: (n,) bool, which rows have a response; None: all.
    """
    kind = _by_wording(prompts, config, config.apart, seed)
    if config.k == "auto" and config.shared <= 1:
        kind = _searched_again(prompts, kind, config, seed)
    _, first, kind = np.unique(kind, return_index=True, return_inverse=True)
    kind = np.argsort(np.argsort(first))[kind].astype(np.int32)
    found = Kinds(kind, shared_wording(prompts, kind, seed), np.zeros(int(kind.max()) + 1, dtype=bool))
    return found if responses is None else replace(found, open=open_kinds(responses, kind, config, seed, answered))


def open_kinds(
    responses: Sequence[str], kind: np.ndarray, config: KindsConfig, seed: int, answered: np.ndarray | None = None
) -> np.ndarray:
    """(kinds,) bool: the median response has at least `kinds.open_words` words, and responses share less than `kinds.open_shared` of their
    wording (`shared_wording`). Of at most SAMPLED responses of each kind (n,); see `find_kinds` for `answered`."""
    rows = np.arange(len(kind)) if answered is None else np.flatnonzero(answered)
    count, known = int(kind.max()) + 1, np.unique(kind[rows], return_inverse=True)
    found = np.zeros(count, dtype=bool)
    if not len(rows):
        return found
    of, texts = known[1], _Part(responses, rows)
    sample = _sample(of, seed)
    words = np.array([len(texts[int(row)].split()) for row in sample])
    median = np.array([np.median(words[of[sample] == code]) for code in range(len(known[0]))])
    found[known[0]] = (median >= config.open_words) & (shared_wording(texts, of, seed) < config.open_shared)
    return found


def _by_wording(prompts: Sequence[str], config: KindsConfig, apart: float, seed: int) -> np.ndarray:
    """(n,) codes of prompts that are less than `apart` apart."""
    vectors = prompt_vectors(prompts, config, seed)
    cells = min(MOST_CELLS, len(prompts) // EXAMPLES_PER_CELL)
    if vectors is None or cells < 2:
        return np.zeros(len(prompts), dtype=np.int64)
    centres, cell = _cells(vectors, cells, seed)
    used, cell = np.unique(cell, return_inverse=True)
    return np.unique(_joined(centres[used], config.k, apart)[cell], return_inverse=True)[1]


def _searched_again(prompts: Sequence[str], kind: np.ndarray, config: KindsConfig, seed: int) -> np.ndarray:
    """(n,) codes: the kinds that were found inside each of `kind` and share a template, and what is left of each."""
    result, found = kind.astype(np.int64), int(kind.max()) + 1
    for code in range(found):
        rows = np.flatnonzero(kind == code)
        if len(rows) < SEARCHED_FROM:
            continue
        inside = _Part(prompts, rows)
        part = _by_wording(inside, config, config.apart_inside, seed)
        size = np.bincount(part)
        of_its_own = (shared_wording(inside, part, seed) >= config.shared) & (size >= SMALLEST) & (size < len(rows))
        result[rows] = np.where(of_its_own[part], found + part, code)
        found += len(size)
    return result


class _Part(Sequence[str]):
    """Some of the prompts, read when they are needed."""

    def __init__(self, prompts: Sequence[str], rows: np.ndarray):
        self.prompts, self.rows = prompts, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> str:
        return self.prompts[int(self.rows[index])]


def shared_wording(prompts: Sequence[str], group: np.ndarray, seed: int) -> np.ndarray:
    """(groups,) how much of their wording two prompts of a group have in common: the cosine of which runs of one to three words they
    hold, mean over pairs of at most SAMPLED of its prompts; 1 for a group of one. About 0.1 where questions are free, more than 0.5
    where they share a template.
    """
    from scipy.sparse import csr_matrix

    rows, size = _sample(group, seed), np.bincount(group)
    runs = _hashed().transform(prompts[int(row)][:CHARACTERS] for row in rows)
    member = csr_matrix((np.ones(len(rows)), (group[rows], np.arange(len(rows)))), shape=(len(size), len(rows)))
    total = member @ runs
    count = np.minimum(size, SAMPLED)
    pairs = np.maximum(count * (count - 1), 1)
    return np.where(count > 1, (np.asarray(total.multiply(total).sum(1)).ravel() - count) / pairs, 1.0)


def most_alike(prompts: Sequence[str], kind: np.ndarray, rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The kind whose prompts share most of their wording with each new prompt: by the cosine of the runs of one to three words that it
    holds to the sum of those of at most SAMPLED of the kind's prompts. Prompts without a word are alike.

    Args:
        prompts: n texts. kind: (n,) int, kinds from 0 on, -1 for prompts that count for none. rows: (m,) int, the new prompts.

    Returns:
        (m,) int64, kinds that some prompt is of, the largest of those that are as near; (m,) bool, whether the cosine is less than
        UNLIKE, so that the prompt is worded as none of them.
    """
    from scipy.sparse import csr_matrix

    counted = np.flatnonzero(kind >= 0)
    codes, code, size = np.unique(kind[counted], return_inverse=True, return_counts=True)
    sampled = _sample(code, seed)
    hashed = _hashed()

    def runs_of(of: np.ndarray) -> csr_matrix:
        """Runs of the prompts at these rows."""
        return hashed.transform(prompts[int(row)][:CHARACTERS].strip() or WORDLESS for row in of)

    member = csr_matrix(
        (np.ones(len(sampled)), (code[sampled], np.arange(len(sampled)))), shape=(len(codes), len(sampled))
    )
    largest_first = np.argsort(-size, kind="stable")
    codes, total = codes[largest_first], (member @ runs_of(counted[sampled]))[largest_first]
    total = total.multiply(1 / np.sqrt(total.multiply(total).sum(1))).tocsr()
    result, cosine = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
    for places in blocks(np.arange(len(rows)), 512):
        likeness = (runs_of(rows[places]) @ total.T).toarray()
        result[places], cosine[places] = codes[likeness.argmax(axis=1)], likeness.max(axis=1)
    return result, cosine < UNLIKE


def _hashed() -> HashingVectorizer:
    """Which runs of one to three words a prompt holds, as vectors of unit length."""
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(
        ngram_range=(1, 3), token_pattern=WORDS_AND_SIGNS, binary=True, norm="l2", alternate_sign=False
    )


def _sample(group: np.ndarray, seed: int) -> np.ndarray:
    """Rows, ascending: at most SAMPLED of each group, at random."""
    order = np.random.default_rng([seed, CLUSTER, 1]).permutation(len(group))
    order = order[np.argsort(group[order], kind="stable")]
    size = np.bincount(group)
    place = np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
    return np.sort(order[place < SAMPLED])


def prompt_vectors(prompts: Sequence[str], config: KindsConfig, seed: int) -> np.ndarray | None:
    """(n, d) float32: the leading components of which common runs of words a prompt holds, by randomized SVD (Halko et al. 2011, arXiv
    0909.4061), over the square root of how many it holds: two prompts of the same runs are 0 apart, two with none in common √2. The
    length of a vector is how much of the prompt the components explain. None where the prompts have next to no run in common.
    """
    from sklearn.decomposition import TruncatedSVD

    n = len(prompts)
    rng = np.random.default_rng([seed, CLUSTER])
    fitted = np.sort(rng.choice(n, size=min(n, FIT_TEXTS), replace=False))
    texts = [prompts[int(row)][:CHARACTERS] for row in fitted]
    runs = CommonRuns.of(texts, config.longest_run, max(3, round(config.least_share * len(fitted))), MOST_RUNS)
    if not runs.column:
        return None
    counts = runs.held_by(texts, as_fitted=True)
    width = min(config.components, min(counts.shape) - 1)
    if width < 2:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):  # prompts that are all alike have no variance to explain
        svd = TruncatedSVD(width, n_iter=2, random_state=derive_seed(seed, CLUSTER)).fit(counts)
    result = np.empty((n, width), dtype=np.float32)
    result[fitted] = _scaled(svd, counts)
    del counts, texts
    for rows in blocks(np.setdiff1d(np.arange(n), fitted, assume_unique=True)):
        result[rows] = _scaled(svd, runs.held_by(prompts[int(row)][:CHARACTERS] for row in rows))
    return result


def _scaled(svd: TruncatedSVD, counts: csr_matrix) -> np.ndarray:
    runs = np.asarray(counts.sum(axis=1))
    return svd.transform(counts) / np.sqrt(runs + FEW_RUNS)


def _cells(vectors: np.ndarray, cells: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres (cells, d) by k-means (faiss) and the cell of each row (n,)."""
    import faiss

    kmeans = faiss.Kmeans(
        vectors.shape[1],
        cells,
        niter=ITERATIONS,
        seed=derive_seed(seed, CLUSTER),
        min_points_per_centroid=1,
        max_points_per_centroid=TRAINED_PER_CELL,
    )
    kmeans.train(vectors)
    cell = np.empty(len(vectors), dtype=np.int64)
    for rows in blocks(np.arange(len(vectors))):
        cell[rows] = kmeans.index.search(vectors[rows], 1)[1][:, 0]
    return kmeans.centroids, cell


def _joined(centres: np.ndarray, k: int | str, apart: float) -> np.ndarray:
    """(cells,) the kind of each cell."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(centres) < 2:
        return np.zeros(len(centres), dtype=np.int64)
    tree = linkage(centres, "average")
    return fcluster(tree, apart, "distance") if k == "auto" else fcluster(tree, k, "maxclust")


STRAY = 0.1
"""Examples of a source that are fewer than this share both of it and of the kind they were put in are strays."""
KINDS_PER_SOURCE = 2.0
"""Sources that hold more kinds than this on average are collections of tasks, and are split by kinds."""
AGREEMENT_SAMPLE = 20_000
AGREED = 0.05
"""Adjusted mutual information with kinds of prompt from which sources say something: parts of one data set have none."""
FREE = 0.2
"""Kinds whose prompts share less of their wording than this are free questions: a source's are one group, for their kinds are topics. So
are those whose answers are open."""


def unevenness(groups: np.ndarray) -> float:
    """How unevenly the examples lie over their groups: the Kullback-Leibler divergence of their shares from equal ones, in nats.

    0 for groups of one size. Random picks follow the pool's shares, so this is what equal shares of groups can put right; where it is
    small, they mostly add the errors of the groups that were found.

    Args:
        groups: (n,) int from 0 on.
    """
    size = np.bincount(groups)
    share = size[size > 0] / len(groups)
    return float(np.log(len(share)) + (share * np.log(share)).sum())


def sources_agree(source: np.ndarray, kinds: Kinds, seed: int) -> float:
    """How much sources say of kinds of prompt: adjusted mutual information (Vinh et al. 2010) of a sample of AGREEMENT_SAMPLE; about 0
    where files are parts of one data set, 1 where each is a kind."""
    from sklearn.metrics import adjusted_mutual_info_score

    rng = np.random.default_rng([seed, CLUSTER, 2])
    rows = rng.permutation(len(source))[:AGREEMENT_SAMPLE]
    return float(adjusted_mutual_info_score(source[rows], kinds.of[rows]))


def split_sources(source: np.ndarray, kinds: Kinds) -> tuple[np.ndarray, float]:
    """What the budget is spread over where rows carry a source: the sources, or the kinds inside each of them.

    A source that is one task needs no splitting: its kinds would be topics. A source that is a collection of tasks ("flan") does.
    Which it is shows in how many kinds a source holds: exp of the entropy of its kinds, strays left out, mean over the sources.

    Args:
        source: (n,) int codes. kinds: of the same n examples.

    Returns:
        (n,) int32 groups from 0 on, in the order of source and kind; and kinds per source.
    """
    _, source = np.unique(source, return_inverse=True)
    free = (kinds.shared < FREE) | kinds.open
    _, kind = np.unique(np.where(free, -1, np.arange(len(free)))[kinds.of], return_inverse=True)
    count = np.zeros((source.max() + 1, kind.max() + 1), dtype=np.int64)
    np.add.at(count, (source, kind), 1)
    stray = (count < STRAY * count.sum(1, keepdims=True)) & (count < STRAY * count.sum(0))
    kept = np.where(stray, 0, count)
    share = kept / np.maximum(kept.sum(1, keepdims=True), 1)
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(1)
    per_source = float(np.exp(entropy).mean())
    if per_source <= KINDS_PER_SOURCE:
        return source.astype(np.int32), per_source
    moved = np.where(stray[source, kind], kept.argmax(1)[source], kind)
    return np.unique(source * count.shape[1] + moved, return_inverse=True)[1].astype(np.int32), per_source
