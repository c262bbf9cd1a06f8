"""Orderings, titles and derived rows that the templates show: functions of the summary, without HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from al import labels
from al.report.reading.values import lookup, write
from al.report.reading.verdict import MODEL_NAMES, Comparison, comparisons, headline_metrics

LINEAGES = ("selected", "control")


class Step(NamedTuple):
    """One row of the funnel: what it says, where its number stands in the summary, and whether it takes away."""

    text: str
    path: tuple[str, ...]
    removes: bool


FUNNEL = (
    Step("exact duplicates merged on import", ("pool", "exact_duplicates"), True),
    Step("examples in the pool", ("pool", "examples"), False),
    Step("without a response", ("pool", "unlabelled"), True),
    Step("without a response, answered by another example", ("selection", "outcomes", "answered"), True),
    Step("over the length limit", ("pool", "overlength"), True),
    Step("near-duplicates of other examples", ("pool", "near_duplicates"), True),
    Step("held out as dev", ("holdout", "dev"), True),
    Step("held out as test", ("holdout", "test"), True),
    Step("in languages that clean.languages leaves out", ("selection", "outcomes", "other_language"), True),
    Step("whose response is a refusal", ("selection", "outcomes", "refusal"), True),
    Step("near-duplicates of held-out examples", ("holdout", "shadow"), True),
    Step("near-duplicates of target examples", ("selection", "outcomes", "near_duplicate_of_target"), True),
    Step("whose template leaves no token to train on", ("selection", "outcomes", "no_target"), True),
    Step("trained on in an earlier round", ("selection", "outcomes", "trained"), True),
    Step("dropped in review", ("selection", "outcomes", "dropped_in_review"), True),
    Step("of a group or source banned in review", ("selection", "outcomes", "banned_in_review"), True),
    Step("selectable", ("pool", "selectable"), False),
    Step("measured by the model", ("scoring", "measured"), False),
    Step("selected", ("budget", "examples"), False),
)


def count_rows(
    document: Mapping[str, Any], path: Sequence[str], describe: Callable[[str], str] = str
) -> list[tuple[str, tuple[str, ...], int]]:
    """The counts at `path`, largest first: (name, path of the count, count)."""
    counts = sorted((lookup(document, *path) or {}).items(), key=lambda item: (-(item[1] or 0), item[0]))
    return [(describe(code), (*path, code), count) for code, count in counts]


def model_names(models: Sequence[str], before: str = "", after: str = "") -> list[str]:
    """Column titles for models: their names, in lower case after a word such as "NLL"."""
    names = [labels.MODELS.get(name, name) for name in models]
    return [f"{before} {name.lower()}{after}" for name in names] if before else names


def metric_names(metrics: Sequence[str]) -> list[str]:
    """Titles of text columns for metrics, with the direction that is better."""
    return [f"<{m.name} {'↓' if m.lower_is_better else '↑'}" for m in map(labels.metric, metrics)]


def drift_rows(summary: Mapping[str, Any]) -> list[tuple[int, str]]:
    """(position in drift.rounds, lineage) of every lineage that picked in a round."""
    picked = lookup(summary, "drift", "rounds") or []
    return [(i, line) for i, entry in enumerate(picked) for line in ("selected", "control") if entry.get(line)]


def round_names(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Column titles for rounds."""
    return [f"Round {entry['round']}" for entry in entries]


def unaccounted(summary: Mapping[str, Any]) -> int | None:
    """Examples of the pool minus the sum of all outcomes: zero when every example has exactly one outcome."""
    examples, outcomes = lookup(summary, "pool", "examples"), lookup(summary, "selection", "outcomes")
    if examples is None or not outcomes:
        return None
    return examples - sum(count or 0 for count in outcomes.values())


def source_order(summary: Mapping[str, Any]) -> list[int]:
    """Positions in evaluation.by_source, worst regression of NLL against base first, unmeasured sources last."""
    rows = lookup(summary, "evaluation", "by_source") or []
    changes = [source_change(row, "nll") for row in rows]
    names = [str(row.get("source")) for row in rows]
    return sorted(range(len(rows)), key=lambda i: (changes[i] is None, -(changes[i] or 0.0), names[i]))


def source_change(row: Mapping[str, Any], metric: str, other: str = "base") -> float | None:
    """Selected minus another model of one source in "nll" or "em", None where either is missing."""
    selected, before = row.get(f"selected_{metric}"), row.get(f"{other}_{metric}")
    return None if selected is None or before is None else selected - before


def compared_sources(summary: Mapping[str, Any]) -> list[str]:
    """The models that sources are compared with: base, previous round and control, those that were evaluated."""
    return [name for name in labels.models_of(lookup(summary, "evaluation")) if name in MODEL_NAMES]


def source_outcome(row: Mapping[str, Any]) -> str:
    """Whether the source got better or worse than base by its interval of NLL; "unclear" with zero inside, "unmeasured" without one."""
    ends = lookup(row, "intervals", "base", "nll") or {}
    return Comparison("base", "nll", source_change(row, "nll"), ends.get("low"), ends.get("high"), None).outcome


def group_rows(summary: Mapping[str, Any]) -> list[tuple[int, str, str]]:
    """(position in evaluation.by_group, other model, outcome of NLL) of every comparison by task group, worst regression first."""
    rows = []
    for i, group in enumerate(lookup(summary, "evaluation", "by_group") or []):
        for against, metrics in (group.get("differences") or {}).items():
            found = Comparison(against, "nll", *(lookup(metrics, "nll", key) for key in ("value", "low", "high", "p")))
            rows.append((i, against, found))
    rows.sort(key=lambda row: (row[2].value is None, -(row[2].value or 0.0)))
    return [(i, against, found.outcome) for i, against, found in rows]


def regressions(summary: Mapping[str, Any]) -> tuple[int, int]:
    """How many sources have a higher NLL than base after training, of how many measured."""
    changes = [source_change(row, "nll") for row in lookup(summary, "evaluation", "by_source") or []]
    measured = [change for change in changes if change is not None]
    return sum(change > 0 for change in measured), len(measured)


def round_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every round so far with its macro NLL by model: the entries of learning_curve, then this round."""
    models = lookup(summary, "evaluation", "models") or {}
    this_round = {name: metrics.get("macro_nll") for name, metrics in models.items()}
    past = [{**entry, "models": entry.get("models") or {}} for entry in summary.get("learning_curve") or []]
    return [*past, {"round": summary.get("round"), "models": this_round}]


def nll_by_tokens(summary: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """(tokens picked so far, macro NLL) of every round by lineage, starting with base at none; {} without base. Summaries of older
    versions hold the tokens of the selected lineage only."""
    base, nll = (
        lookup(summary, "evaluation", "models", "base", "macro_nll"),
        {r["round"]: r["models"] for r in round_rows(summary)},
    )
    if base is None:
        return {}
    rows = [*(summary.get("learning_curve") or []), {"round": summary.get("round"), **(summary.get("budget") or {})}]
    so_far = accumulate(row.get("tokens") or 0 for row in rows)
    older = [
        {"round": row["round"], "selected": {"all_tokens": total}} for row, total in zip(rows, so_far, strict=True)
    ]
    found = {}
    for name in LINEAGES:
        points = [
            (lookup(entry, name, "all_tokens"), lookup(nll, entry["round"], name))
            for entry in lookup(summary, "drift", "rounds") or older
        ]
        known = [(tokens, value) for tokens, value in points if tokens is not None and value is not None]
        if known:
            found[name] = [(0, base), *known]
    return found


def step_curve(summary: Mapping[str, Any], lineage: str, key: str) -> list[tuple[int, float]]:
    """(step, value) of the training steps of a lineage that recorded a value."""
    curve = lookup(summary, "training", lineage, "curve") or []
    return [(step["step"], step[key]) for step in curve if step.get(key) is not None]


def difference_rows(summary: Mapping[str, Any], *part: str) -> list[tuple[str, str, str]]:
    """(comparison key, metric key, outcome) of every difference in a part, such as "dev" or "answers", "dev", in the summary's order."""
    rows = []
    for key, metrics in (lookup(summary, *part, "differences") or {}).items():
        for metric, entry in (metrics or {}).items():
            numbers = (entry.get(field) for field in ("value", "low", "high", "p"))
            rows.append((key, metric, Comparison(key, metric, *numbers).outcome))
    return rows


def written_rows(summary: Mapping[str, Any], part: str) -> list[tuple[str, str]]:
    """(measure, metric key) of the written answers to a part, the mean over sources before that over examples."""
    measures = lookup(summary, "answers", part, "measures") or {}
    return [(measure, f"{mean}_{measure}") for measure in measures for mean in ("macro", "micro")]


def headline_rows(summary: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Per model that the selection was compared with: its name and (metric key, outcome) of every headline metric."""
    metrics = headline_metrics(summary)
    found = {(c.against, metric): c.outcome for metric in metrics for c in comparisons(summary, metric)}
    return [
        (against, [(metric, found.get((against, metric), "unmeasured")) for metric in metrics])
        for against in MODEL_NAMES
        if any((against, metric) in found for metric in metrics)
    ]


def ratio(value: float | None, of: float | None) -> float | None:
    """`value` / `of`; None where either is missing or there is nothing to divide by."""
    return value / of if value is not None and of else None


def top_clusters(summary: Mapping[str, Any], count: int) -> list[int]:
    """Positions of the at most `count` clusters with the largest quotas above zero, largest first."""
    quotas = [cluster.get("quota") or 0 for cluster in summary.get("clusters") or []]
    return sorted((i for i, quota in enumerate(quotas) if quota), key=lambda i: (-quotas[i], i))[:count]


def groups_sentence(summary: Mapping[str, Any]) -> str:
    """What the groups are, and how many picks exploration took on top of their quotas; "" for rounds that did not record it."""
    made_of, explored = (lookup(summary, "selection", key) for key in ("groups", "explored"))
    if not made_of:
        return ""
    more = (
        f" {write(explored, 'count')} of the {write(lookup(summary, 'budget', 'examples'), 'count')} picks are random ones of the whole "
        "pool (select.explore) and count towards no quota, so a group may have more picks than its quota."
    )
    return f"Groups: {made_of}." + (more if explored else "")


def has_gains(summary: Mapping[str, Any]) -> bool:
    """Whether any cluster's loss can be compared with that of the round before."""
    return any(cluster.get("loss_before") is not None for cluster in summary.get("clusters") or [])


def agreement_names(summary: Mapping[str, Any]) -> list[str]:
    """Scores of which some pair was compared, in the summary's order."""
    pairs = lookup(summary, "scoring", "agreement") or []
    return list(dict.fromkeys(name for pair in pairs for name in pair["scores"]))


def agreement_index(summary: Mapping[str, Any], first: str, second: str) -> int | None:
    """Position of a pair of scores in scoring.agreement."""
    pairs = lookup(summary, "scoring", "agreement") or []
    return next((i for i, pair in enumerate(pairs) if set(pair["scores"]) == {first, second} and first != second), None)


def heat(value: float | None) -> str:
    """Class of a correlation's cell: its sign and its size in four steps; nothing for one near zero."""
    step = 0 if value is None else min(4, int(abs(value) * 5))
    return "" if step == 0 else f"heat-{'plus' if value > 0 else 'minus'}-{step}"


def score_charts(charts: Mapping[str, Any]) -> list[str]:
    """Ids of the charts that show the distribution of a score, in the order of the words for scores."""
    return [f"scores-{name}" for name in labels.SCORES if f"scores-{name}" in charts]
