"""Details of a round (`details.json`) that go with the summaries of `report_summaries`, made from numbers by the code that makes them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from report_attacks import HOSTILE

from al.report.summary.map_points import choose_texts, hover_texts, map_points
from al.report.summary.searchable import fit

OUTCOMES = ["quota_full", "no_quota", "tail_cut", "held_out_test", "near_duplicate", "trained"]
WORDS = "sum carry digit board move verb river premise output weekday verse metre letter answer".split()


def details(examples: int = 1052, clusters: int = 10, picks: int = 100, sources: int = 10) -> dict[str, Any]:
    """A pool of `examples` in as many groups as `clusters`, of which `picks` are picked; a tenth has a score."""
    rng = np.random.default_rng(3)
    cluster = rng.integers(0, clusters, examples)
    xy = rng.normal(size=(clusters, 2))[cluster] * 4 + rng.normal(size=(examples, 2)) * 0.4
    outcome = np.array(OUTCOMES, dtype=object)[rng.integers(0, len(OUTCOMES), examples)]
    picked = np.sort(rng.choice(examples, picks, replace=False))
    outcome[picked] = "selected"
    score = np.where(rng.random(examples) < 0.1, rng.gamma(4, 0.5, examples), np.nan)
    score[picked] = rng.gamma(5, 0.5, picks)
    source = np.array([f"source-{i % sources}.jsonl" for i in cluster])
    round_of = np.where(outcome == "selected", 3, np.where(outcome == "trained", rng.integers(1, 3, examples), 0))
    points, chosen = map_points(xy, cluster, source, outcome.tolist(), round_of, score, "nll")
    at = choose_texts(outcome[chosen] == "selected")
    points["texts"] = hover_texts(at, [f"{row:016x}" for row in chosen[at]], [text_of(rng) for _ in at])
    return {
        "map": points,
        "cards": [_card(c, rng) for c in range(min(clusters, 300))],
        "picks": _picks(picked[:5000], len(picked), cluster, source, score, rng),
    }


def hostile_details() -> dict[str, Any]:
    """Details in which every text that a pool can hold is an attack."""
    document, attacks = details(), itertools.cycle(HOSTILE)
    points, picks = document["map"], document["picks"]
    points["sources"] = [next(attacks) for _ in points["sources"]]
    points["texts"]["text"] = [next(attacks) for _ in points["texts"]["text"]]
    points["texts"]["id"] = [next(attacks) for _ in points["texts"]["id"]]
    points["score_range"]["name"] = next(attacks)
    for card in document["cards"]:
        card["terms"] = [next(attacks) for _ in card["terms"]]
        card["outcomes"] = {next(attacks): count for count in card["outcomes"].values()}
        for row in (*card["exemplars"], *card["picked"], *card["refused"]):
            row.update({key: next(attacks) for key in row})
    for name in ("id", "source", "why", "asked", "response", "before"):
        picks[name] = [next(attacks) for _ in picks[name]]
    return document


def text_of(rng: np.random.Generator, words: int = 14) -> str:
    """A made-up prompt."""
    return "user: " + " ".join(WORDS[i] + str(rng.integers(0, 99)) for i in rng.integers(0, len(WORDS), words))


def _card(cluster: int, rng: np.random.Generator) -> dict[str, Any]:
    def rows(why: str) -> list[dict[str, str]]:
        return [
            {
                "id": f"{int(rng.integers(1 << 60)):016x}",
                "source": f"source-{cluster % 10}.jsonl",
                "why": f"{why} {i}",
                "text": text_of(rng, 24)[:240],
            }
            for i in range(3)
        ]

    return {
        "cluster": cluster,
        "terms": [WORDS[(cluster + i) % len(WORDS)] for i in range(8)],
        "outcomes": {"quota_full": 70 + cluster, "selected": 10, "near_duplicate": 3},
        "exemplars": rows("in the middle"),
        "picked": rows("drawn as number"),
        "refused": rows("its quota was full"),
    }


def _picks(
    rows: np.ndarray, total: int, cluster: np.ndarray, source: np.ndarray, score: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    return {
        "total": total,
        "id": [f"{row:016x}" for row in rows],
        "source": source[rows].tolist(),
        "cluster": cluster[rows].tolist(),
        "tokens": rng.integers(20, 400, len(rows)).tolist(),
        "nll": [round(value, 4) for value in score[rows].tolist()],
        "why": [f"cluster {cluster[row]} had room for {5 + i % 9}; drawn as number {i}" for i, row in enumerate(rows)],
        **fit([(text_of(rng, 40), text_of(rng, 30), "system: answer briefly") for _ in rows]),
    }
