"""A round's summary for the terminal and as Markdown: the numbers of the page, few enough for one screen or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from al import labels
from al.report.reading import view
from al.report.reading.outlook import outlook
from al.report.reading.priced import priced
from al.report.reading.values import MISSING, lookup, short, write
from al.report.reading.verdict import comparisons, headline, verdict
from al.report.text.blocks import Block, Cell, Line, Table, as_terminal, metric_table, one_line
from al.report.text.markdown import as_markdown, code_block
from al.terminal import displayable

TOP_CLUSTERS = 8
METRICS = ("macro_nll", "micro_nll", "macro_em", "micro_em")
KEY = (
    "NLL in nats per response token, exact match teacher-forced. Selected minus the others with 95% intervals, "
    "differences of exact match in points; n.s.: no significant difference, the interval holds zero."
)


def render_terminal(summary: Mapping[str, Any], width: int = 100, color: bool = False) -> str:
    """Lines of at most `width` columns, without any escape sequence unless `color`.

    `summary["report_path"]` is where the user can open the page; without it, the place inside the run directory is named.
    Text of the pool reaches the terminal without its control characters.
    """
    place = summary.get("report_path")
    place = place or f"rounds/{int(summary.get('round') or 0):03d}/report.html in the run directory"
    return as_terminal([*_blocks(one_line(displayable(summary))), Line(f"Report: {place}", wrap=False)], width, color)


def render_markdown(summary: Mapping[str, Any]) -> str:
    """A summary as Markdown, with how it was made. What an older round's summary lacks is left out or a dash."""
    summary = displayable(summary)
    command = code_block(str(summary.get("command") or MISSING))
    return f"{as_markdown([*_blocks(one_line(summary)), _made(summary)])}\n{command}\n"


def _blocks(summary: Mapping[str, Any]) -> list[Block]:
    """What both forms show, in the order of reading."""
    title = f"{summary.get('run')}, round {summary.get('round')}: {headline(summary)}"
    blocks: list[Block] = [Line(title, style="bold", heading=True), Line(verdict(summary), joined=True)]
    blocks += [Line(text, joined=True) for text in (priced(summary), outlook(summary)) if text]
    if lookup(summary, "scoring", "target", "held") is False:
        blocks.append(Line(f"Note: {labels.TARGET_NOT_HELD}.", style="yellow", joined=True))
    blocks += [Line(f"Note: {line}.", joined=True) for line in lookup(summary, "selection", "why") or []]
    blocks += [_budget(summary), *_work(summary)]
    blocks += written_table(summary, "test")
    blocks += [evaluation_table(summary, (part,), title) for part, title in (("evaluation", "Test"), ("dev", "Dev"))]
    return [
        *blocks,
        Line(KEY, style="dim"),
        *_funnel(summary),
        *[Line(text) for text in [view.groups_sentence(summary)] if text],
        _clusters(summary),
        *_outcomes(summary),
        _timings(summary),
    ]


def _budget(summary: Mapping[str, Any]) -> Line:
    keys = ("examples", "tokens", "target_tokens")
    spent = ", ".join(f"{_count(summary, 'budget', key)} {key.replace('_', ' ')}" for key in keys)
    amount = f"{_count(summary, 'budget', 'amount')} {lookup(summary, 'budget', 'unit') or ''}"
    asked = lookup(summary, "budget", "asked") or MISSING
    return Line(f"asked {asked} ({amount}); selected {spent}", label="Budget")


def _work(summary: Mapping[str, Any]) -> list[Block]:
    """Tokens through the model and device seconds by kind of work; nothing for rounds before these were counted."""
    tokens, seconds = (lookup(summary, "work", key) or {} for key in ("tokens", "seconds"))
    kinds = [kind for kind in labels.WORK if tokens.get(kind)]
    parts = [
        f"{labels.WORK[k].lower()} {write(tokens[k], 'count')} ({write(seconds.get(k), 'seconds')})" for k in kinds
    ]
    rate = lookup(summary, "work", "tokens_per_s")
    at = f" at {write(rate, 'rate')} tokens/s, the speed of the least disturbed training steps" if rate else ""
    label = f"Tokens through the model ({labels.device_seconds(summary)}{at})"
    return [Line("; ".join(parts), label=label)] if parts else []


def written_table(summary: Mapping[str, Any], part: str) -> list[Block]:
    """How right the models' written answers to one split are; nothing where they wrote none."""
    metrics = [f"macro_{measure}" for measure in lookup(summary, "answers", part, "measures") or {}]
    return [evaluation_table(summary, ("answers", part), f"Written, {part}", metrics)] if metrics else []


def evaluation_table(
    summary: Mapping[str, Any], place: tuple[str, ...], title: str, metrics: Sequence[str] = METRICS
) -> Block:
    """Models and differences of one split below each other, a column for each metric."""
    models = labels.models_of(lookup(summary, *place))
    if not models:
        return Line(f"{title}: no held-out examples were evaluated.")
    found: dict[str, dict[str, Any]] = {}
    for metric in metrics:
        for c in comparisons(summary, metric, *place):
            found.setdefault(f"minus {labels.MODELS[c.against].lower()}", {})[metric] = c
    values = {labels.MODELS.get(name, name): lookup(summary, *place, "models", name) or {} for name in models}
    return metric_table(Cell(title, note=f"{_count(summary, *place, 'examples')} examples"), metrics, values, found)


def _funnel(summary: Mapping[str, Any]) -> list[Line]:
    kept = [f"{_count(summary, *step.path)} {step.text}" for step in view.FUNNEL if not step.removes]
    quarantined = [
        f"{write(n, 'count')} {short(name)}"
        for name, _, n in view.count_rows(summary, ["pool", "quarantined"], labels.outcome)
    ]
    duplicates = _count(summary, "pool", "exact_duplicates")
    return [
        Line(" → ".join(kept), label="Pool"),
        Line(", ".join(quarantined) or "none", label="Quarantined rows", joined=True),
        Line(duplicates, label="Exact duplicates merged on import", joined=True),
    ]


def _clusters(summary: Mapping[str, Any]) -> Block:
    clusters = summary.get("clusters") or []
    top = view.top_clusters(summary, TOP_CLUSTERS)
    if not top:
        return Line("Groups: none got a quota." if clusters else "Groups: this strategy used none.")
    unit = short(lookup(summary, "budget", "unit") or "examples", 12)
    rows = []
    for cluster in (clusters[i] for i in top):
        name = f"{cluster.get('cluster')} {short(cluster.get('name') or MISSING)}"
        counts = [write(cluster.get(key), "count") for key in ("quota", "picked", "tokens", "size")]
        rows.append([*counts, Cell(name, note=cluster.get("reason") or MISSING)])
    head = f"Largest quotas, in {unit} ({len(top)} of {len(clusters)}), and why"
    return Table(["Quota", "Picked", "Tokens", "Size", head], rows, left=(4,))


def _outcomes(summary: Mapping[str, Any]) -> list[Block]:
    counted = view.count_rows(summary, ["selection", "outcomes"], labels.outcome)
    rows: list[list[str | Cell]] = [[write(count, "count"), short(name)] for name, _, count in counted if count]
    if not rows:
        return [Line("Outcomes: none were recorded.")]
    if missing := view.unaccounted(summary):
        rows.append([write(missing, "count", signed=True), Cell("unaccounted for", "red")])
    return [Table(["Examples", "Outcome"], rows, left=(1,))]


def _timings(summary: Mapping[str, Any]) -> Line:
    timings, money = summary.get("timings") or {}, lookup(summary, "cost", "money", "total")
    parts = [f"{short(stage)} {write(seconds, 'seconds')}" for stage, seconds in timings.items() if stage != "total"]
    parts.append(f"total {write(timings.get('total'), 'seconds')}")
    if money is not None:
        parts.append(f"{write(money, 'money')} {lookup(summary, 'cost', 'currency') or ''}".strip())
    return Line(", ".join(parts), label="Wall clock of this round's stages")


def _made(summary: Mapping[str, Any]) -> Line:
    known = {name: lookup(summary, "versions", name) for name in ("winnow", "torch", "transformers", "peft")}
    versions = ", ".join(f"{name} {version}" for name, version in known.items() if version)
    model = f"{lookup(summary, 'model', 'name')}, {lookup(summary, 'model', 'quantization')}"
    device = summary.get("device") or MISSING
    return Line(short(f"Model {model}, seed {summary.get('seed')}. Made with {versions} on {device}.", 500))


def _count(summary: Mapping[str, Any], *path: str) -> str:
    return write(lookup(summary, *path), "count")
