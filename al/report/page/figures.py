"""A round's main charts as files for papers: white ground, colours and markers that colour-blind readers can distinguish, embedded fonts.

The same summary gives the same SVG, byte for byte, with the same matplotlib: no date, and ids from a fixed salt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from al import labels
from al.errors import ConfigError, EnvironmentProblem
from al.report.reading import view
from al.report.reading.values import lookup
from al.report.reading.verdict import comparisons
from al.terminal import displayable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "png", "pdf")
# Okabe and Ito's palette; markers and line styles distinguish them in grey too.
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
        """Add the function and return it."""
        FIGURES[name] = function
        return function

    return register


def write_figures(summary: Mapping[str, Any], directory: Path, form: str) -> dict[str, list[str]]:
    """Write every chart that the summary has something for into `directory`, as svg, png (300 dpi) or pdf.

    Returns:
        {"files": paths, "left_out": names of charts without numbers to draw}.

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
            style = {"fmt": MARKERS[c.against], "color": COLORS[c.against], "capsize": 3, "markersize": 5}
            ax.errorbar(scale * c.value, against.index(c.against), xerr=error, **style)
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
    """Macro NLL on test against the tokens picked so far, of the selected line and the control, starting with base at none."""
    lines = view.nll_by_tokens(summary)
    if not lines:
        return None
    drawn, (ax,) = _axes(3.0)
    base = lookup(summary, "evaluation", "models", "base", "macro_nll")
    ax.axhline(base, color=COLORS["base"], linestyle=LINES["base"], linewidth=1, label=labels.MODELS["base"])
    for name, points in lines.items():
        style = {"color": COLORS[name], "marker": MARKERS[name], "markersize": 5, "clip_on": False}
        ax.plot(*zip(*points, strict=True), LINES[name], label=labels.MODELS[name], **style)
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter(lambda value, _: _rounded(value))
    ax.set_xlabel("Tokens picked so far")
    ax.set_ylabel("Test NLL, macro, nats per token")
    ax.legend()
    return drawn


@figure("training-loss")
def training_loss(summary: Mapping[str, Any]) -> Figure | None:
    """The loss of every step of both lines, and the dev loss where it was measured during training."""
    kinds = (("loss", 1.2, ""), ("dev_loss", 0, ", dev"))
    curves = [(name, *kind, view.step_curve(summary, name, kind[0])) for name in view.LINEAGES for kind in kinds]
    if not any(lookup(summary, "training", name, "curve") for name in view.LINEAGES):
        return None
    drawn, (ax,) = _axes(2.8)
    for name, _, width, what, known in curves:
        if known:
            style = {"color": COLORS[name], "linewidth": width or 0.8}
            style |= {"marker": MARKERS[name], "markersize": 5} if not width else {}
            ax.plot(*zip(*known, strict=True), LINES[name], label=labels.MODELS[name] + what, **style)
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
    x, y = [c["loss"] for c in clusters], [c["quota"] for c in clusters]
    areas = [12 + 180 * (c.get("size") or 0) / largest for c in clusters]
    style = {"alpha": 0.55, "edgecolor": "white", "linewidth": 0.5, "clip_on": False, "zorder": 3}
    ax.scatter(x, y, s=areas, color=COLORS["selected"], **style)
    ax.set_xlabel("Mean NLL of the group before this round, nats per token")
    ax.set_ylabel(f"Quota, {lookup(summary, 'budget', 'unit') or 'examples'}")
    ax.set_ylim(bottom=0)
    ax.set_title(f"Largest dot: {largest:,} examples", fontsize=8, loc="right", color="#555555")
    return drawn


def _rounded(value: float) -> str:
    """12,000 as 12k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
