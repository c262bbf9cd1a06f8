"""The summary of a round as Markdown, for a pull request: what came of it, where the budget went, how to do it again.

Text of the pool and the config is data here too: nothing in it is read as markup, links, or a mention of somebody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from al import labels
from al.report.reading import view
from al.report.reading.priced import priced
from al.report.reading.values import MISSING, displayable, lookup, write
from al.report.reading.verdict import OUTCOME_WORDS, Comparison, comparisons, headline, verdict

METRICS = ("macro_nll", "micro_nll", "macro_em", "micro_em")
TOP_CLUSTERS = 8
LONGEST_NAME = 80
# A word joiner takes no room and parts what a forge would link: @user, #12, https://, www., user/repo#1.
_JOINER = "\u2060"
_MARKUP = re.compile(r"[\\`*_\[\]<>|~$&]")
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_LINKED = re.compile(r"@|#(?=\d)|(?<=[\w])://|\bwww\.|\bGH-(?=\d)", re.IGNORECASE)


def escape(text: object, limit: int = LONGEST_NAME) -> str:
    """Text as Markdown that shows it literally, on one line and cut at `limit` characters."""
    line = " ".join(str(text).split())
    line = line if len(line) <= limit else line[: limit - 1] + "…"
    parted = _LINKED.sub(lambda found: found[0][:-1] + _JOINER + found[0][-1] + _JOINER, line)
    return _MARKUP.sub(lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), parted)


def code_block(text: str) -> str:
    """A fenced block that no run of backticks in the text can end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A table of cells that are Markdown already; columns other than those at `left` are aligned right."""
    rule = ["---" if i in left else "--:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def render_markdown(summary: Mapping[str, Any]) -> str:
    """A summary as Markdown. Every number is the summary's; what an older round's lacks is left out or a dash."""
    summary = displayable(summary)
    parts = [
        f"### {escape(summary.get('run'))}, round {summary.get('round')}: {escape(headline(summary), 400)}",
        escape(verdict(summary), 2000),
        escape(priced(summary), 1000),
        *_evaluation(summary, "evaluation", "Test"),
        *_evaluation(summary, "dev", "Dev"),
        _budget(summary),
        _clusters(summary),
        _outcomes(summary),
        _made(summary),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _evaluation(summary: Mapping[str, Any], part: str, title: str) -> list[str]:
    """Models, and what the selected one differs from each other by, of one split."""
    models = labels.models_of(lookup(summary, part))
    if not models:
        return [f"{title}: no held-out examples were evaluated."]
    metrics = [labels.metric(key) for key in METRICS]
    head = [f"{title}, {_count(summary, part, 'examples')} examples", *(metric_head(metric) for metric in metrics)]
    rows = [
        [
            escape(labels.MODELS.get(name, name)),
            *(write(lookup(summary, part, "models", name, m.key), m.style) for m in metrics),
        ]
        for name in models
    ]
    found = {(c.against, c.metric): c for m in metrics for c in comparisons(summary, m.key, part)}
    for against in dict.fromkeys(name for name, _ in found):
        name = f"selected minus {labels.MODELS[against].lower()}, 95% interval"
        rows.append([name, *(difference_text(found.get((against, metric.key))) for metric in metrics)])
    return [table(head, rows)]


def metric_head(metric: labels.Metric) -> str:
    """A metric's name over a column, with the direction that is better."""
    return f"{metric.name} {'↓' if metric.lower_is_better else '↑'}"


def difference_text(comparison: Comparison | None) -> str:
    """`−0.090 (−0.138 to −0.027), better`; a dash where nothing was compared."""
    if comparison is None or comparison.value is None:
        return MISSING
    style, _ = labels.difference_style(comparison.metric)
    value, low, high = (write(x, style, signed=True) for x in (comparison.value, comparison.low, comparison.high))
    if comparison.outcome == "unmeasured":
        return f"{value}, no interval"
    return f"{value} ({low} to {high}), {OUTCOME_WORDS[comparison.outcome]}"


def _budget(summary: Mapping[str, Any]) -> str:
    asked = escape(lookup(summary, "budget", "asked") or MISSING)
    spent = ", ".join(
        f"{_count(summary, 'budget', key)} {key.replace('_', ' ')}" for key in ("examples", "tokens", "target_tokens")
    )
    trained = write(lookup(summary, "training", "selected", "seconds"), "seconds")
    total = write(lookup(summary, "timings", "total"), "seconds")
    kept = " → ".join(f"{_count(summary, *step.path)} {step.text}" for step in view.FUNNEL if not step.removes)
    return f"Budget: asked {asked}; selected {spent}; trained {trained} of {total} in all.\n\nPool: {kept}."


def _clusters(summary: Mapping[str, Any]) -> str:
    clusters = summary.get("clusters") or []
    top = view.top_clusters(summary, TOP_CLUSTERS)
    if not top:
        return "Clusters: this strategy used none." if not clusters else "Clusters: none got a quota."
    unit = escape(lookup(summary, "budget", "unit") or "examples", 12)
    head = [
        f"Largest quotas ({len(top)} of {len(clusters)} clusters)",
        f"Quota, {unit}",
        "Picked",
        "Tokens",
        "Size",
        "Why",
    ]
    rows = []
    for i in top:
        numbers = [write(clusters[i].get(key), "count") for key in ("quota", "picked", "tokens", "size")]
        name = f"{clusters[i].get('cluster')} {clusters[i].get('name') or MISSING}"
        rows.append([escape(name), *numbers, escape(clusters[i].get("reason") or MISSING, 240)])
    return table(head, rows, left=(0, len(head) - 1))


def _outcomes(summary: Mapping[str, Any]) -> str:
    rows = [
        (escape(labels.outcome(code)), write(count, "count")) for code, count in view.outcome_rows(summary) if count
    ]
    if not rows:
        return "Outcomes: none were recorded."
    bad = [f"{write(count, 'count')} {escape(labels.outcome(code))}" for code, count in view.quarantine_rows(summary)]
    return f"{table(['Outcome', 'Examples'], rows)}\n\nQuarantined rows: {', '.join(bad) or 'none'}."


def _made(summary: Mapping[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {lookup(summary, 'versions', name)}"
        for name in ("winnow", "torch", "transformers", "peft")
        if lookup(summary, "versions", name)
    )
    model = (
        f"{lookup(summary, 'model', 'name')}, {lookup(summary, 'model', 'quantization')}, seed {summary.get('seed')}"
    )
    said = (
        f"Model {escape(model, 200)}. Made with {escape(versions, 200)} on {escape(summary.get('device') or MISSING)}."
    )
    return f"{said}\n\n{code_block(str(summary.get('command') or MISSING))}"


def _count(summary: Mapping[str, Any], *path: str) -> str:
    return write(lookup(summary, *path), "count")
