"""A comparison's page in a real browser: what each strategy reached stands at once, the learning curves are unpacked and drawn."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit" / "report"))

from comparison_documents import eight, hostile_comparison  # noqa: E402

from al.comparison.page import render_comparison  # noqa: E402

OUTSIDE = """() => [...document.querySelectorAll(".dots .label")].filter((label) => {
  const [box, chart] = [label, label.closest(".dots")].map((element) => element.getBoundingClientRect());
  return box.left < chart.left || box.right > chart.left + 148;
}).length"""


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("make", [eight, hostile_comparison])
def test_every_chart_draws_and_nothing_else_runs(
    watch: Callable[..., Any], tmp_path: Path, make, width: int, theme: str
):
    path = tmp_path / "comparison.html"
    path.write_text(render_comparison(make()), encoding="utf-8")
    watched = watch(width, theme)
    page = watched.page
    page.goto(path.as_uri())
    for place in page.locator(".chart").all():
        place.scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelectorAll('.chart .main-svg').length >= 2")
    assert page.locator(".dots").first.bounding_box()["height"] > 100
    assert watched.errors == [] and watched.dialogs == [] and watched.requests == [path.as_uri()]
    assert page.evaluate(OUTSIDE) == 0, "a label leaves its column"
    wide = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) <= 0, "the page scrolls sideways"
