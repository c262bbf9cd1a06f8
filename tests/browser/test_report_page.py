"""The report in a real browser: every chart and the map draw, hover, filter, search and cards work, and no text of the pool runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit" / "report"))

from report_attacks import HOSTILE, hostile  # noqa: E402
from report_details import details, hostile_details  # noqa: E402
from report_page import resolve  # noqa: E402
from report_summaries import later_round  # noqa: E402

from al.report.page.base import sections_of  # noqa: E402
from al.report.page.round import render_html  # noqa: E402
from al.terminal import displayable  # noqa: E402

NO_WEBGL = """
const given = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...rest) { return kind === "2d" ? given.call(this, kind, ...rest) : null; };
"""
INK = "canvas => { const c = document.createElement('canvas'); c.width = canvas.width; c.height = canvas.height;"
INK += (
    " const g = c.getContext('2d'); g.drawImage(canvas, 0, 0); const d = g.getImageData(0, 0, c.width, c.height).data;"
)
INK += " let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; }"
"""Pixels of a canvas that are not clear."""


def a_later_round() -> dict[str, Any]:
    """Round 3 with losses of the round before, agreement of scores, and a cluster that was split."""
    summary = later_round()
    for i, cluster in enumerate(summary["clusters"][:9]):
        before = {"loss_before": cluster["loss"] + 0.05 * i, "loss_before_stderr": 0.1}
        cluster.update(**before, gain=0.05 * i, gain_stderr=0.2, change="split from group 7" if i == 2 else None)
    summary["clusters"][9].update(quota=0, picked=0)
    summary["scoring"]["agreement"] = [{"scores": ["nll", "entropy"], "spearman": 0.81, "examples": 300}]
    return summary


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_html(a_later_round(), details()), encoding="utf-8")
    return path


@pytest.fixture
def opened(watch: Callable[..., Any], written: Path) -> Callable[..., Any]:
    """`opened(width, theme)`: the report, its data unpacked, the map drawn, watched; at the end it must have been well behaved."""

    def make(width: int = 1280, theme: str = "light", path: Path = written, before: str = "") -> Any:
        watched = watch(width, theme)
        if before:
            watched.page.add_init_script(before)
        watched.page.goto(path.as_uri())
        watched.page.wait_for_selector("html[data-details=ready]", state="attached")
        watched.page.locator("#pool-map").scroll_into_view_if_needed()
        watched.page.wait_for_selector("#pool-map[data-drawn]")
        return watched

    return make


def well_behaved(watched: Any, path: Path) -> None:
    assert watched.errors == [] and watched.dialogs == []
    assert [url for url in watched.requests if url != path.as_uri()] == []
    wide = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert watched.page.evaluate(wide) <= 0, "the page scrolls sideways"


def scroll_through(page: Any) -> None:
    height = page.evaluate("document.body.scrollHeight")
    for top in range(0, height, 1500):
        page.evaluate(f"scrollTo(0, {top})")
        page.wait_for_timeout(30)


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_every_section_draws(opened, written: Path, width: int, theme: str):
    watched = opened(width, theme)
    page = watched.page
    scroll_through(page)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.chart')].every(place => place.querySelector('.main-svg'))"
    )
    assert page.locator(".chart").count() > 10
    for section in (section.id for section in sections_of("round")):
        assert page.locator(f"#{section}").bounding_box()["height"] > 40
    well_behaved(watched, written)


@pytest.mark.parametrize(("before", "drawn"), [("", "webgl"), (NO_WEBGL, "canvas")])
def test_the_map_draws_its_points(opened, written: Path, before: str, drawn: str):
    watched = opened(before=before)
    frame = watched.page.locator("#pool-map")
    assert (frame.get_attribute("data-drawn"), frame.get_attribute("data-points")) == (drawn, "1052")
    ink = frame.locator("canvas").evaluate(INK)
    for way in ("cluster", "source", "score", "round", "outcome"):
        watched.page.select_option("#map-color", way)
        watched.page.wait_for_timeout(60)
        assert 0.5 * ink < frame.locator("canvas").evaluate(INK) < 2 * ink
        assert watched.page.locator("#map-legend li").count() > (0 if way == "cluster" else 1)
    well_behaved(watched, written)


def test_a_lost_webgl_context_is_drawn_without(opened, written: Path):
    watched = opened()
    lose = (
        "frame => frame.querySelector('canvas').getContext('webgl2').getExtension('WEBGL_lose_context').loseContext()"
    )
    watched.page.locator("#pool-map").evaluate(lose)
    watched.page.wait_for_selector("#pool-map[data-drawn=canvas]")
    assert watched.page.locator("#pool-map canvas").evaluate(INK) > 1000
    well_behaved(watched, written)


def over_a_point(page: Any) -> bool:
    """Move the pointer over the map until a tip shows."""
    page.locator("#pool-map").scroll_into_view_if_needed()
    box = page.locator("#pool-map").bounding_box()
    for y in range(int(box["height"]) // 2, int(box["height"]), 12):
        for x in range(20, int(box["width"]) - 20, 12):
            page.mouse.move(box["x"] + x, box["y"] + y)
            if not page.evaluate("document.getElementById('map-tip').hidden"):
                return True
    return False


def test_hover_tells_of_the_point_and_a_click_shows_its_cluster(opened, written: Path):
    watched = opened()
    page = watched.page
    assert over_a_point(page)
    tip = page.inner_text("#map-tip")
    assert "user: " in tip and ".jsonl" in tip and "group" in tip
    page.mouse.down()
    page.mouse.up()
    cluster = page.locator("#card").get_attribute("data-cluster")
    assert f"group {cluster}:" in tip and page.locator("#map-cluster").input_value() == cluster
    page.mouse.move(5, 5)
    assert not page.locator("#map-tip").is_visible()
    well_behaved(watched, written)


@pytest.mark.parametrize("width", [1280, 390])
def test_the_card_shows_the_summarys_numbers(opened, written: Path, width: int):
    watched, summary, document = opened(width), a_later_round(), details()
    page = watched.page
    page.select_option("#map-cluster", "2")
    card = page.locator("#card")
    text = card.inner_text()
    for part in ("translate, french, verb", "split from group 7", "Nearest to its centre", "drawn as number 1"):
        assert part in text
    shown = card.locator("data").evaluate_all("all => all.map(e => [e.dataset.path, e.dataset.detail, e.value])")
    assert len(shown) > 10
    for path, detail, value in shown:
        assert json.loads(value) == (resolve(summary, path) if path else resolve(document, detail))
    card.get_by_role("button", name="Close").click()
    assert not card.is_visible() and page.locator("#map-cluster").input_value() == ""
    well_behaved(watched, written)


def test_the_map_is_moved_by_keys_and_buttons(opened):
    page = opened().page
    frame = page.locator("#pool-map")
    frame.focus()
    still = frame.locator("canvas").evaluate(INK)
    page.keyboard.press("+")
    page.wait_for_selector("#pool-map[data-zoom='1.50']")
    page.keyboard.press("ArrowLeft")
    page.locator("#map-in").click()
    page.wait_for_selector("#pool-map[data-zoom='2.25']")
    page.locator("#map-reset").click()
    page.wait_for_selector("#pool-map[data-zoom='1.00']")
    assert frame.locator("canvas").evaluate(INK) == still
    page.select_option("#map-cluster", "4")
    frame.focus()
    page.keyboard.press("Escape")
    assert not page.locator("#card").is_visible()


def test_the_wheel_zooms_only_a_map_that_has_the_focus(opened):
    page = opened().page
    frame = page.locator("#pool-map")
    box = frame.bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(200)
    assert frame.get_attribute("data-zoom") == "1.00"
    frame.focus()
    box = frame.bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.wheel(0, -300)
    page.wait_for_function("() => Number(document.getElementById('pool-map').dataset.zoom) > 1.5")


def test_clusters_are_filtered_sorted_and_linked_to_their_card(opened, written: Path):
    watched = opened()
    page = watched.page
    rows = page.locator("#cluster-table tbody tr:visible")
    assert rows.count() == 10
    page.check("#cluster-quota")
    assert rows.count() == 9
    page.fill("#cluster-filter", "CAPITAL river")
    assert rows.count() == 1 and page.inner_text("#cluster-count") == "1 of 10 groups"
    page.locator("#cluster-table tbody tr:visible a").click()
    assert page.locator("#card").get_attribute("data-cluster") == "3"
    assert page.evaluate("document.activeElement.id") == "card"
    page.fill("#cluster-filter", "")
    page.get_by_role("button", name="Gain ± stderr").click()
    gains = rows.locator("td:nth-child(12)").all_inner_texts()
    assert gains[0].startswith("+0.400") and gains[-1].startswith("0.000")
    well_behaved(watched, written)


@pytest.mark.parametrize("width", [1280, 390])
def test_picked_examples_are_searched_and_paged(opened, written: Path, width: int):
    watched, picks = opened(width), details()["picks"]
    page = watched.page
    rows = page.locator("#pick-table tbody tr")
    assert rows.count() == 25 and page.locator("#pick-back").is_disabled()
    page.click("#pick-next")
    assert rows.first.locator("th").inner_text() == picks["id"][25]
    page.fill("#pick-search", picks["id"][60])
    assert rows.count() == 1 and picks["why"][60] in rows.first.inner_text()
    for detail, value in rows.locator("data").evaluate_all("all => all.map(e => [e.dataset.detail, e.value])"):
        assert json.loads(value) == resolve({"picks": picks}, detail)
    word = picks["asked"][71].split()[-1]
    page.fill("#pick-search", word)
    assert word in rows.filter(has_text=picks["id"][71]).first.inner_text(), "the part that matches is shown"
    page.fill("#pick-search", picks["response"][33].split()[-1])
    assert rows.filter(has_text=picks["id"][33]).count() == 1
    page.fill("#pick-search", "no such words")
    assert rows.count() == 0 and page.inner_text("#pick-count") == "0 of 100 match"
    well_behaved(watched, written)


@pytest.mark.parametrize("width", [1280, 390])
def test_trap_29_hostile_texts_run_nothing_wherever_they_are_shown(opened, tmp_path: Path, width: int):  # trap 29
    path = tmp_path / "hostile.html"
    path.write_text(render_html(hostile(), hostile_details()), encoding="utf-8")
    watched = opened(width, path=path)
    page = watched.page
    scroll_through(page)
    for details_ in page.locator("details").all():
        details_.evaluate("element => { element.open = true; }")
    for cluster in range(10):
        page.select_option("#map-cluster", str(cluster))
        assert page.locator("#card script, #card img, #card svg, #card a").count() == 0
    for way in ("source", "score", "outcome"):
        page.select_option("#map-color", way)
    assert over_a_point(page)
    page.fill("#pick-search", "alert")
    shown = page.locator("#pick-table tbody tr").all_inner_texts()
    assert any(displayable(HOSTILE)[0] in text for text in shown)
    assert page.locator("#pick-table tbody script, #pick-table tbody img").count() == 0
    well_behaved(watched, path)


def test_without_scripts_what_is_missing_is_said(chromium: Any, written: Path):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(written.as_uri())
    text = page.inner_text("main")
    charts = [page.locator("#verdict .dots").nth(i).bounding_box()["height"] for i in range(3)]
    context.close()
    assert min(charts) > 100, "the verdict's charts need no script"
    assert "Scripts are off" in text and "The map needs scripts." in text and "selection.jsonl" in text


def test_a_browser_that_cannot_unpack_says_so(watch, written: Path):
    watched = watch()
    watched.page.add_init_script("delete globalThis.DecompressionStream;")
    watched.page.goto(written.as_uri())
    watched.page.wait_for_selector("html[data-details=failed]", state="attached")
    assert "cannot unpack" in watched.page.inner_text("#pick-table") and watched.errors == []
