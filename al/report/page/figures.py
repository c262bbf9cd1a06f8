"""A round's main charts as files for papers: white ground, colours and markers that the colour-blind tell apart, embedded fonts.

The same summary gives the same SVG, byte for byte, with the same matplotlib: no date, and ids from a fixed salt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from al import labels
from al.errors import ConfigError, EnvironmentProblem
from al.report.reading import view
from al.report.reading.values import displayable, lookup
from al.report.reading.verdict import comparisons

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "png", "pdf")
# Okabe and Ito's palette; markers and line styles tell them apart in grey too.
COLORS = {"base": "#000000", "previous": "#56B4E9", "selected": "#0072B2", "control": "#D55E00"}
MARKERS = {"base": "o", "previous": "D", "selected": "s", "control": "^"}
LINES = {"base": "--", "previous": "-.", "selected": "-", "control": ":"}
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3
    "svg.fonttype": "path",
    "svg.hashsalt": "winnow",
    "text.parse_math": False,
}
WIDTH = 5.5
"""Inches; between one and two columns of a paper."""
SCATTERED = 2000
"""Clusters at most in the chart of quotas, those with the largest quotas."""

Draw = Callable[[Mapping[str, Any]], "Figure | None"]
FIGURES: dict[str, Draw] = {}


def figure(name: str) -> Callable[[Draw], Draw]:
    """Register a function `summary -> Figure | None` (None: the summary has nothing to draw) under its file's name."""

    def register(function: Draw) -> Draw:
        FIGURES[name] = function
        return function

    return register


def write_figures(summary: Mapping[str, Any], directory: Path, form: str) -> dict[str, list[str]]:
    """Write every chart that the summary has something for into `directory`, as svg, png (300 dpi) or pdf.

    Returns:
        {"files": paths, "left_out": names of charts that there is nothing to draw for}.

    Raises:
        ConfigError: matplotlib is not installed. EnvironmentProblem: the directory cannot be written.
    """
    try:
        import matplotlib
        from matplotlib import style
    except ImportError:
        raise ConfigError(
            "report --figures: matplotlib is not installed. Install it with `pip install matplotlib` (the extra `figures`)."
        ) from None
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}[form]
    written: dict[str, list[str]] = {"files": [], "left_out": []}
    with matplotlib.rc_context(), style.context(["default", STYLE]):
        for name, draw in FIGURES.items():
            drawn = draw(displayable(summary))
            if drawn is None:
                written["left_out"].append(name)
                continue
            path = directory / f"{name}.{form}"
            try:
                directory.mkdir(parents=True, exist_ok=True)
                drawn.savefig(path, dpi=300, metadata=metadata)
            except OSError as error:
                raise EnvironmentProblem(f"{path}: cannot be written: {error.strerror or error}") from error
            written["files"].append(str(path))
    return written


def _axes(height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure that belongs to no window, with its axes side by side."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = drawn.subplots(1, columns, squeeze=False)
    return drawn, list(axes[0])


@figure("gains")
def gains(summary: Mapping[str, Any]) -> Figure | None:
    """The selected model minus each other one, macro NLL and exact match, with 95% intervals."""
    metrics = [m for m in ("macro_nll", "macro_em") if comparisons(summary, m)]
    if not metrics:
        return None
    against = [c.against for c in comparisons(summary, metrics[0])]
    drawn, axes = _axes(1.1 + 0.32 * len(against), len(metrics))
    for ax, name in zip(axes, metrics, strict=True):
        metric, scale = labels.metric(name), 1.0 if "nll" in name else 100.0
        for c in comparisons(summary, name):
            if c.value is None or c.against not in against:
                continue
            known = c.low is not None and c.high is not None
            error = [[scale * (c.value - c.low)], [scale * (c.high - c.value)]] if known else None
            ax.errorbar(
                scale * c.value,
                against.index(c.against),
                xerr=error,
                fmt=MARKERS[c.against],
                color=COLORS[c.against],
                capsize=3,
                markersize=5,
            )
        ax.axvline(0, color="#888888", linewidth=0.8)
        ax.set_ylim(len(against) - 0.5, -0.5)
        shown = [f"minus {labels.MODELS[name].lower()}" for name in against] if ax is axes[0] else [""] * len(against)
        ax.set_yticks(range(len(against)), shown)
        ax.grid(axis="y", visible=False)
        unit, better = ("nats per token", "left") if metric.lower_is_better else ("points", "right")
        ax.set_xlabel(f"{metric.name}, {unit}\n{better} is better")
    return drawn


@figure("learning-curve")
def learning_curve_figure(summary: Mapping[str, Any]) -> Figure | None:
    """Macro NLL on test against the tokens picked so far, of the selected line and the control, from base at none on."""
    base, lines = lookup(summary, "evaluation", "models", "base", "macro_nll"), _points(summary)
    if base is None or not lines:
        return None
    drawn, (ax,) = _axes(3.0)
    ax.axhline(base, color=COLORS["base"], linestyle=LINES["base"], linewidth=1, label=labels.MODELS["base"])
    for name, points in lines.items():
        x, y = zip(*[(0, base), *points], strict=True)
        ax.plot(
            x,
            y,
            LINES[name],
            marker=MARKERS[name],
            color=COLORS[name],
            markersize=5,
            label=labels.MODELS[name],
            clip_on=False,
        )
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter(lambda value, _: _short(value))
    ax.set_xlabel("Tokens picked so far")
    ax.set_ylabel("Test NLL, macro, nats per token")
    ax.legend()
    return drawn


def _points(summary: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """(tokens so far, macro NLL) of every round, by line; older summaries tell the tokens of the selected line only."""
    nll = {row["round"]: row["models"] for row in view.round_rows(summary)}
    picked = lookup(summary, "drift", "rounds") or _cumulative(summary)
    found = {}
    for name in ("selected", "control"):
        points = [
            (tokens, value)
            for entry in picked
            if (tokens := lookup(entry, name, "all_tokens")) is not None
            and (value := lookup(nll, entry["round"], name)) is not None
        ]
        if points:
            found[name] = points
    return found


def _cumulative(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [*(summary.get("learning_curve") or []), {"round": summary.get("round"), **(summary.get("budget") or {})}]
    total, found = 0, []
    for row in rows:
        total += row.get("tokens") or 0
        found.append({"round": row["round"], "selected": {"all_tokens": total}})
    return found


@figure("training-loss")
def training_loss(summary: Mapping[str, Any]) -> Figure | None:
    """The loss of every step of both lines, and the dev loss where it was measured on the way."""
    curves = {name: lookup(summary, "training", name, "curve") or [] for name in ("selected", "control")}
    if not any(curves.values()):
        return None
    drawn, (ax,) = _axes(2.8)
    for name, curve in curves.items():
        for key, width, what in (("loss", 1.2, ""), ("dev_loss", 0, ", dev")):
            known = [(step["step"], step[key]) for step in curve if step.get(key) is not None]
            if known:
                x, y = zip(*known, strict=True)
                marker = {"marker": MARKERS[name], "markersize": 5} if not width else {}
                ax.plot(
                    x,
                    y,
                    LINES[name],
                    linewidth=width or 0.8,
                    color=COLORS[name],
                    label=labels.MODELS[name] + what,
                    **marker,
                )
    ax.set_xlabel("Step")
    ax.set_ylabel("Loss, nats per token")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend()
    return drawn


@figure("quota-and-loss")
def quota_and_loss(summary: Mapping[str, Any]) -> Figure | None:
    """Quota of each measured cluster against its mean loss; areas grow with the clusters' sizes."""
    clusters = [c for c in summary.get("clusters") or [] if c.get("loss") is not None and c.get("quota") is not None]
    clusters = sorted(clusters, key=lambda c: -c["quota"])[:SCATTERED]
    if not clusters:
        return None
    drawn, (ax,) = _axes(3.2)
    largest = max(c.get("size") or 0 for c in clusters) or 1
    ax.scatter(
        [c["loss"] for c in clusters],
        [c["quota"] for c in clusters],
        s=[12 + 180 * (c.get("size") or 0) / largest for c in clusters],
        color=COLORS["selected"],
        alpha=0.55,
        edgecolor="white",
        linewidth=0.5,
        clip_on=False,
        zorder=3,
    )
    ax.set_xlabel("Mean NLL of the cluster before this round, nats per token")
    ax.set_ylabel(f"Quota, {lookup(summary, 'budget', 'unit') or 'examples'}")
    ax.set_ylim(bottom=0)
    ax.set_title(f"Largest dot: {largest:,} examples", fontsize=8, loc="right", color="#555555")
    return drawn


def _short(value: float) -> str:
    """12,000 as 12k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
