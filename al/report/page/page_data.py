"""What the page's scripts look up, put together from summary and details, and packed so that 100,000 points fit a page of 5 MB.

The scripts get words and written numbers from here, so that one place decides how a number looks.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from typing import Any

from al import labels
from al.report.reading.values import lookup, pointer, write

GROUPS = {
    "picked": "picked in this round",
    "trained": "trained on in an earlier round",
    "noise": "suspected noise, or cut as its group's highest losses",
    "left": "left, though it could be picked",
    "aside": "set aside: held out, duplicate, no response, too long, or in review",
}
_GROUP_OF = {"selected": "picked", "trained": "trained", "suspected_noise": "noise", "tail_cut": "noise"}
_GROUP_OF |= dict.fromkeys(("quota_full", "no_quota", "left"), "left")
_CARD_FACTS = (
    ("Examples", "size", "count"),
    ("Could be picked", "selectable", "count"),
    ("Measured", "measured", "count"),
    ("Loss before ± stderr", "loss_before", "nll"),
    ("Loss now ± stderr", "loss", "nll"),
    ("Gain ± stderr", "gain", "nll"),
    ("Quota", "quota", "count"),
    ("Picked", "picked", "count"),
    ("Tokens", "tokens", "count"),
)


def page_data(summary: Mapping[str, Any], details: Mapping[str, Any] | None) -> dict[str, Any]:
    """{"map", "cards", "picks", "outcome_words"} of what the documents hold; both can be displayed (`al.terminal.displayable`)."""
    details = details or {}
    outcomes = lookup(summary, "selection", "outcomes") or {}
    return {
        "map": _map(summary, details.get("map")),
        "cards": _cards(summary, details.get("cards") or []),
        "picks": details.get("picks"),
        "outcome_words": {code: labels.outcome(code) for code in (*labels.OUTCOMES, *outcomes)},
    }


def pack_text(text: str) -> str:
    """A text, gzipped, in base64: no character of it means anything in HTML. The same text gives the same result."""
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=9, mtime=0)).decode("ascii")


def unpack_text(packed: str) -> str:
    """The inverse of `pack_text`."""
    return gzip.decompress(base64.b64decode(packed)).decode()


def _map(summary: Mapping[str, Any], points: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not points or not points.get("points"):
        return None
    names = {str(c.get("cluster")): c.get("name") or "–" for c in summary.get("clusters") or []}
    outcomes = points["outcomes"]
    groups = list(GROUPS)
    return {
        "texts": None,
        **points,
        "names": names,
        "groups": list(GROUPS.items()),
        "group_of": [groups.index(_GROUP_OF.get(name, "aside")) for name in outcomes],
        "picked_code": outcomes.index("selected") if "selected" in outcomes else -1,
        "outcome_words": ["left" if name == "left" else labels.outcome(name) for name in outcomes],
    }


def color_choices(points: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Ways to colour the map's points, those that the document has the data for: [(key, words)]."""
    if not points:
        return []
    choices = [("outcome", "picked and left"), ("cluster", "group"), ("source", "source"), ("round", "round")]
    if lookup(points, "score_range", "measured"):
        choices.insert(3, ("score", f"score ({points['score_range']['name']})"))
    return [choice for choice in choices if choice[0] != "source" or points.get("sources")]


def _cards(summary: Mapping[str, Any], cards: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The cards of the details, with the numbers of the summary."""
    clusters = summary.get("clusters") or []
    at = {cluster.get("cluster"): i for i, cluster in enumerate(clusters)}
    result = []
    for index, card in enumerate(cards):
        entry = clusters[at[card["cluster"]]] if card["cluster"] in at else {}
        facts = [_fact(clusters, at[card["cluster"]], *row) for row in _CARD_FACTS if entry.get(row[1]) is not None]
        named = {key: entry.get(key) for key in ("name", "reason", "formula", "change")}
        result.append({**card, **named, "index": index, "facts": facts})
    return result


def _fact(clusters: Sequence[Mapping[str, Any]], at: int, name: str, key: str, style: str) -> dict[str, Any]:
    """A number of a card, its error after it where there is one: each its value, how it is written, its pointer in the summary."""
    keys = [key for key in (key, f"{key}_stderr") if clusters[at].get(key) is not None]
    numbers = [
        (clusters[at][key], write(clusters[at][key], style, signed=key == "gain"), pointer("clusters", at, key))
        for key in keys
    ]
    return {"name": name, "numbers": numbers}
