"""The report of a round as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from al.report.page.base import packed_plotlyjs, render_document
from al.report.page.charts_verdict import verdict_charts
from al.report.page.drawing import build_charts
from al.report.page.page_data import color_choices, pack_text, page_data
from al.report.reading.outlook import outlook
from al.report.reading.priced import priced
from al.report.reading.verdict import headline, headline_metrics, verdict
from al.terminal import displayable

# In the order in which they run; data.js runs plotly.js, which the page holds packed.
SCRIPTS = ("data.js", "report.js", "map-draw.js", "map-style.js", "map.js", "cards.js", "search.js")
UNSCRIPTED = (
    "Scripts are off, so most charts and the map are not drawn, tables cannot be sorted, and picked examples cannot be searched. "
    "Every other table is complete without them."
)


def render_html(summary: Mapping[str, Any], details: Mapping[str, Any] | None = None) -> str:
    """The whole page (about 2.3 MB, most of it plotly.js, packed) for a summary of schema 1 and its details (`details.build_details`).

    What scripts write from the details carries `data-detail`, a JSON pointer into them.
    """
    summary = displayable(summary)
    data, found = page_data(summary, displayable(details)), headline(summary)
    return render_document(
        "round",
        summary,
        f"{summary.get('run')}, round {summary.get('round')}: {found}",
        SCRIPTS,
        {"chart-data": build_charts(summary)},
        {"plotly-data": packed_plotlyjs()[1], "details-data": pack_text(json.dumps(data, allow_nan=False))},
        unscripted=UNSCRIPTED,
        dots=verdict_charts(summary),
        data=data,
        color_choices=color_choices,
        headline_metrics=headline_metrics(summary),
        headline=found,
        verdict=verdict(summary),
        priced=priced(summary),
        outlook=outlook(summary),
    )
