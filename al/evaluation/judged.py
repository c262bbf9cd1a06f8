"""Verdicts on written answers, compared between models with intervals.

    measure          of examples of the kinds                       per example
    accuracy         number, choice, yes_no, boxed, text, code      1 if the written answer is right
    rouge_l          rouge_l                                        ROUGE-L of the written answer
    likelihood       choice and yes_no, if choices are known        1 if the most likely choice is right
    likelihood_norm  the same                                       1 if the choice most likely per byte is right

Metrics are `macro_<measure>`, the mean of the sources' means, and `micro_<measure>`, the mean of the examples. Intervals are those of
al.evaluation.bootstrap; that of one model is the interval of its difference to a model whose scores are all 0. If all n examples have the
same value, no resample differs: the interval then reaches z² / (n + z²) beyond it, as Wilson's does for 0 of n (Wilson 1927; z = 1.96).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from al.evaluation.answering import FILE
from al.evaluation.asked import PARTS, Asked
from al.evaluation.bootstrap import paired_differences
from al.evaluation.deciding import mostly_right_or_wrong
from al.evaluation.metrics import Scores
from al.excerpt import cut, prompt_and_response
from al.run.artifacts import Artifact

MEASURES = ("accuracy", "rouge_l", "likelihood", "likelihood_norm")
SHOWN = 6
Z2 = 1.959964**2
TEXT_LIMIT = 600
Rows = list[dict[str, Any]]


def compare_answers(
    answers: Mapping[str, Artifact], part: str, resamples: int, seed: int, compared: str = "selected"
) -> dict[str, Any]:
    """The models' answers to one part, in the shape of `al.evaluation.stage.compare_models`.

    Args:
        answers: artifacts of `answer` by model, all of the same `Asked`.
        compared: the model whose differences to each other one are taken.

    Returns:
        {"examples", "sources", "measures": {measure: {"examples", "sources"}}, "models": {model: {metric: value}}, "intervals": {model:
        {metric: {"low", "high"}}}, "differences": {"selected - base": {metric: {"value", "low", "high", "p"}}}, "by_source": [{"source",
        "kind", "measure", "examples", model: value}], "cut": {model: answers that reached the length limit}}. A measure without examples
        is left out everywhere.
    """
    tables = {name: _answered(artifact, part) for name, artifact in answers.items()}
    first = next(iter(tables.values()))
    found: dict[str, Any] = {
        "examples": len(first),
        "sources": len({row["source"] for row in first}),
        "measures": {},
        "models": {name: {} for name in tables},
        "intervals": {name: {} for name in tables},
        "differences": {f"{compared} - {name}": {} for name in tables if name != compared and compared in tables},
        "by_source": [],
        "cut": {name: sum(bool(row["cut"]) for row in rows) for name, rows in tables.items()},
    }
    for measure in MEASURES:
        kept = [i for i, row in enumerate(first) if _value(row, measure) is not None]
        if not kept:
            continue
        names, codes = np.unique([first[i]["source"] for i in kept], return_inverse=True)
        scores = {
            name: Scores(np.array([_value(rows[i], measure) for i in kept]), codes) for name, rows in tables.items()
        }
        found["measures"][measure] = {"examples": len(kept), "sources": len(names)}
        zero = Scores(np.zeros(len(kept)), codes)
        for name, of_model in scores.items():
            for metric, entry in _intervals(of_model, zero, measure, 0.0, resamples, seed).items():
                found["models"][name][metric] = entry["value"]
                found["intervals"][name][metric] = {"low": entry["low"], "high": entry["high"]}
            if f"{compared} - {name}" in found["differences"]:
                differences = _intervals(scores[compared], of_model, measure, -1.0, resamples, seed)
                found["differences"][f"{compared} - {name}"] |= differences
        if measure in ("accuracy", "rouge_l"):
            found["by_source"] += _by_source([first[i]["kind"] for i in kept], names.tolist(), measure, scores)
    return found


def judged_answers(answers: Mapping[str, Artifact], asked: Asked, resamples: int, seed: int) -> dict[str, Any]:
    """What a round's summary says of written answers.

    Returns:
        {"leads": whether accuracy decides on test, "max_new_tokens", "kinds": {part: {kind: labelled examples}}, "test" and
        "dev": as `compare_answers` makes them, "shown": dev examples as `telling_examples` makes them}.
    """
    parts = {part: compare_answers(answers, part, resamples, seed) for part in PARTS.values()}
    limit = next(iter(answers.values())).manifest["params"]["max_new_tokens"]
    shown = telling_examples(answers, asked, "dev", SHOWN)
    first = leads(asked, "test", parts["test"])
    return {"leads": first, "max_new_tokens": limit, "kinds": asked.kinds, **parts, "shown": shown}


def leads(asked: Asked, part: str, judged: Mapping[str, Any]) -> bool:
    """Whether accuracy says more of a part than NLL: answers of at least half of its labelled examples are right or wrong, and some of
    these were answered. How many answers are right plays no part, because the results must not choose the metric."""
    return "accuracy" in judged["measures"] and mostly_right_or_wrong(asked.kinds.get(part, {}))


def telling_examples(answers: Mapping[str, Artifact], asked: Asked, part: str, count: int) -> Rows:
    """Examples whose verdicts differ between models, then others: {"id", "source", "kind", "prompt",
    "reference", "answers": {model: {"text", "score", "read", "cut"}}}, texts cut at TEXT_LIMIT characters."""
    tables = {name: {row["id"]: row for row in _answered(artifact, part)} for name, artifact in answers.items()}
    first = next(iter(tables.values()))
    at = [i for i, key in enumerate(asked.ids) if asked.parts[i] == part and key in first]
    differs = [i for i in at if len({rows[asked.ids[i]]["score"] for rows in tables.values()}) > 1]
    shown = (differs + [i for i in at if i not in differs])[:count]
    found = []
    for i in shown:
        prompt, reference = (cut(text, TEXT_LIMIT) for text in prompt_and_response(asked.conversations[i]))
        row = {"id": asked.ids[i], "source": asked.sources[i], "kind": asked.questions[i].kind, "prompt": prompt}
        by_model = {name: rows[asked.ids[i]] for name, rows in tables.items()}
        said = {
            name: {"text": cut(a["text"], TEXT_LIMIT), "read": cut(a["read"] or "", TEXT_LIMIT) or None}
            | {key: a[key] for key in ("score", "cut")}
            for name, a in by_model.items()
        }
        found.append({**row, "reference": reference, "answers": said})
    return found


def _answered(artifact: Artifact, part: str) -> Rows:
    """Rows of one part that have an answer: the same ones for every model, since the prompt and the limit decide."""
    rows = pq.read_table(artifact.path / FILE, filters=[("part", "=", part)]).to_pylist()
    return [row for row in rows if row["text"] is not None]


def _value(row: Mapping[str, Any], measure: str) -> float | None:
    """An example's value in a measure; None if it has none."""
    if measure in ("accuracy", "rouge_l"):
        return row["score"] if (row["kind"] == "rouge_l") == (measure == "rouge_l") else None
    return row[measure]


def _intervals(
    a: Scores, b: Scores, measure: str, least: float, resamples: int, seed: int
) -> dict[str, dict[str, float]]:
    """The difference a − b by metric, with its interval inside `least` to 1."""
    found = paired_differences(a, b, resamples, seed).intervals()
    unseen = Z2 / (len(a.score) + Z2)
    for entry in found.values():
        width = unseen if entry["low"] == entry["high"] else 0.0
        entry |= {"low": max(least, entry["low"] - width), "high": min(1.0, entry["high"] + width)}
    return {f"{kind}_{measure}": found[f"{kind}_score"] for kind in ("macro", "micro")}


def _by_source(kinds: list[str], names: list[str], measure: str, scores: Mapping[str, Scores]) -> Rows:
    """A row per source and kind, in the order of sources."""
    codes = next(iter(scores.values())).source
    rows = []
    for code, kind in sorted(set(zip(codes.tolist(), kinds, strict=True))):
        mine = (codes == code) & (np.array(kinds) == kind)
        values = {name: float(of_model.score[mine].mean()) for name, of_model in scores.items()}
        rows.append({"source": names[code], "kind": kind, "measure": measure, "examples": int(mine.sum()), **values})
    return rows
