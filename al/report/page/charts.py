"""The charts of a report as plotly.js specifications (plain dicts), one function per chart; al.report.page.drawing tells what they share.

Those of the verdict are al.report.page.charts_verdict's: they stand before plotly.js runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from al.report.page import (
    charts_rounds,  # noqa: F401 (registers its charts)
    charts_selection,  # noqa: F401
    charts_training,  # noqa: F401
)
from al.report.page.drawing import CHARTS, Chart


def build_charts(summary: Mapping[str, Any]) -> dict[str, Chart]:
    """Every registered chart that this summary has the numbers for: {id: {"data", "layout", "label" for ARIA}}."""
    drawn = {name: function(summary) for name, function in CHARTS.items()}
    return {name: specification for name, specification in drawn.items() if specification is not None}
