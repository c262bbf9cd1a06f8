"""Every page under axe-core, with all details open: no violation of any rule. What themes change
is checked in tests/unit/report/test_accessible_markup.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit" / "report"))

from comparison_documents import paying  # noqa: E402
from pool_documents import pool_document  # noqa: E402
from report_details import details  # noqa: E402
from report_summaries import later_round  # noqa: E402
from review_desk import make_desk  # noqa: E402

from al.comparison.page import render_comparison  # noqa: E402
from al.report.page.pool import render_pool  # noqa: E402
from al.report.page.round import render_html  # noqa: E402
from al.review.server import serve  # noqa: E402

RUN = """() => axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) => violations.flatMap(
  ({ id, nodes }) => nodes.map((node) => `${id}: ${node.html.slice(0, 200)} ${node.failureSummary}`)))"""


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core, as the wheel of axe-playwright-python brings it."""
    found = find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("axe-playwright-python is not installed (requirements-dev.txt)")
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")


def a_round() -> str:
    """A round's page with every kind of cell: scores that agree and disagree, clusters that gained, answers of the control."""
    summary = later_round()
    for cluster in summary["clusters"][:-1]:  # the last is not measured
        cluster.update(loss_before=2.5, loss_before_stderr=0.1, gain=0.1, gain_stderr=0.2, change="split from group 7")
    pairs = [(["nll", "entropy"], 0.97), (["nll", "margin"], -0.96), (["entropy", "margin"], 0.4)]
    summary["scoring"]["agreement"] = [{"scores": names, "spearman": value, "examples": 300} for names, value in pairs]
    return render_html(summary, details(examples=300, picks=20))


PAGES = {
    "round": a_round,
    "comparison": lambda: render_comparison(paying()),
    "pool": lambda: render_pool(pool_document()),
}


def violations(page: Any, axe: str) -> list[str]:
    page.evaluate("() => document.querySelectorAll('details').forEach((element) => { element.open = true; })")
    page.evaluate(axe)
    return page.evaluate(RUN)


@pytest.mark.parametrize(
    ("kind", "width", "theme"), [("round", 1280, "light"), *((kind, 390, "dark") for kind in PAGES)]
)
def test_a_page_has_no_violation(
    watch: Callable[..., Any], axe: str, tmp_path: Path, kind: str, width: int, theme: str
):
    path = tmp_path / "page.html"
    path.write_text(PAGES[kind](), encoding="utf-8")
    page = watch(width, theme).page
    page.goto(path.as_uri())
    if kind == "round":
        page.wait_for_selector("html[data-details=ready]", state="attached")
        page.select_option("#map-cluster", "2")
    assert violations(page, axe) == []


def test_the_review_page_has_no_violation(watch: Callable[..., Any], axe: str, tmp_path: Path):
    with serve(make_desk(tmp_path), 0) as served:
        page = watch(390, "dark").page
        page.goto(served.url)
        page.wait_for_selector("#list[data-ready=batch] .card")
        name = page.locator(".card").nth(0).get_attribute("data-id")
        page.locator(".card").nth(0).get_by_role("button", name="Drop").click()
        page.wait_for_function("id => !document.querySelector(`[data-id='${id}']`)", arg=name)
        page.locator(".card").nth(1).get_by_role("button", name="Edit").click()
        page.wait_for_selector(".edit-box textarea")
        assert violations(page, axe) == []


def test_a_page_with_a_mistake_is_found(watch: Callable[..., Any], axe: str, tmp_path: Path):
    path = tmp_path / "page.html"
    path.write_text(PAGES["pool"]().replace("--soft: #555b63", "--soft: #b0b4b8"), encoding="utf-8")
    page = watch(1280, "light").page
    page.goto(path.as_uri())
    assert any(line.startswith("color-contrast") for line in violations(page, axe))
