"""A comparison's page and terminal text show the document's numbers, claim no more than they hold, and run no text."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from comparison_documents import (
    bare,
    comparison,
    eight,
    hostile_comparison,
    nothing_pays,
    one_round,
    one_seed,
    paying,
    unfinished,
)
from report_attacks import HOSTILE
from report_page import Page, read_page, resolve, shown

from al.comparison.headline import comparison_headline
from al.comparison.page import (
    COLORS,
    METRICS,
    comparison_charts,
    final_charts,
    final_rows,
    final_seeds,
    render_comparison,
)
from al.comparison.text import comparison_as_text
from al.comparison.words import comparison_verdict, differences, holm, next_step, ranked
from al.report.page.base import TEMPLATES, sections_of
from al.report.page.page_data import unpack_text
from al.report.reading.values import pointer, write
from al.terminal import displayable

Make = Callable[[], dict[str, Any]]
TAME = [paying, nothing_pays, one_seed, one_round, unfinished, eight, bare]
ALL = [*TAME, hostile_comparison]


@cache
def page_of(make: Make) -> Page:
    return read_page(render_comparison(make()))


def leaves(node: Any, *path: str | int) -> Iterator[tuple[str, Any]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if items is not None:
        for key, value in items:
            yield from leaves(value, *path, key)
    elif isinstance(node, (int, float)) and not isinstance(node, bool):
        yield pointer(*path), node


def test_the_headline_says_who_beat_random_and_for_how_many_examples():
    assert comparison_headline(paying()) == (
        "default and rds beat random beyond chance; default has the lowest NLL and needs 21.0% of random's examples "
        "for the same NLL"
    )
    assert comparison_headline(one_round()).startswith("default beat random beyond chance and needs at most 21.0%")


def test_the_headline_is_plain_when_nothing_beats_random():
    assert comparison_headline(nothing_pays()) == (
        "Over 5 seeds no gain over random is beyond chance; rds is worse than random"
    )
    unclear = comparison({"default": 0.0005, "random": 0.0}, noise=0.03)
    assert comparison_headline(unclear) == "Over 5 seeds no gain over random is beyond chance"


@pytest.mark.parametrize("seeds", [2, 3])
def test_few_seeds_are_too_few_to_tell_and_never_a_no(seeds: int):
    document = comparison({"default": 0.0005, "random": 0.0}, seeds=seeds, noise=0.03)
    text = comparison_headline(document)
    assert text.startswith(f"{seeds} seeds are too few to tell whether default beats random")
    assert "did not" not in text and "None" not in text


def test_seeds_are_counted_that_both_have():
    document = unfinished()
    document["strategies"] = document["strategies"][:2]
    assert [len(entry["seeds_done"]) for entry in document["strategies"]] == [5, 2]
    assert "2 seeds are too few to tell whether default beats random" in comparison_headline(document)


def test_the_base_model_stands_below_the_strategies():
    document = paying() | {"base": {"macro_nll": 3.218, "macro_em": 0.0625, "micro_nll": 3.0, "micro_em": 0.05}}
    text, page = comparison_as_text(document), read_page(render_comparison(document))
    (line,) = (line for line in text.splitlines() if line.startswith("Base model"))
    assert line.split()[2:] == ["3.218", "6.2%"] and text.index("random", text.index("Strategy")) < text.index(line)
    assert "Base model, not trained" in page.text and "3.218" in page.text
    assert "Base model" not in comparison_as_text(paying()) and "Base model" not in page_of(paying).text


def test_float_noise_is_written_as_zero_and_is_no_difference():
    document = comparison({"default": 0.0, "random": 0.0}, seeds=3)
    document["strategies"][0]["difference"]["macro_em"] = {"value": 1e-17, "low": 1e-18, "high": 3e-17, "p": 0.01}
    assert differences(document, "macro_em")[0].outcome == "unclear"
    assert "e-" not in comparison_as_text(document) + " ".join(comparison_verdict(document))
    assert (write(1e-17, "points", signed=True), write(-1e-17, "nll", signed=True)) == ("0.0", "0.000")
    assert write(4e-5, "nll") == "4e-05", "a bound that misses zero still looks so"


def test_trap_21_one_seed_shows_nothing_beyond_chance():
    document = one_seed()
    assert comparison_headline(document) == (
        "1 seed is too few to tell whether any of them beats random; default has the lowest NLL, which may be chance"
    )
    assert {found.outcome for found in differences(document, "macro_nll").values()} == {"unmeasured"}
    page = page_of(one_seed)
    assert "no interval" in page.text and "better" not in re.sub(
        "(left|right|lower) is better", "", page.text, flags=re.I
    )
    worse = comparison({"default": -0.2, "random": 0.0}, seeds=1)
    assert comparison_headline(worse) == "1 seed is too few to tell whether default beats random"


def test_an_unfinished_comparison_says_so_first():
    document, page = unfinished(), page_of(unfinished)
    assert comparison_headline(document).startswith("Unfinished, 7 of 15 runs: ")
    assert page.text.count("This comparison is unfinished: 7 of 15 runs are done") == 1
    assert "rds: not yet compared with random." in comparison_verdict(document)
    assert "Seeds done: default 5, random 2, rds 0." in " ".join(comparison_as_text(document).split())
    assert "unfinished" not in page_of(paying).text.lower()


def test_rows_over_other_seeds_than_the_baselines_are_marked():
    def marked(make: Make) -> list[str]:
        """Names with a star in the terminal's table; those in the page's tables and charts are the same."""
        document = make()
        html, rows = render_comparison(document), comparison_as_text(document).splitlines()
        names = [entry["name"] for entry in document["strategies"]]
        found = [name for name in names if any(row.startswith(f"{name} * ") for row in rows)]
        assert [name for name in names if f"<bdi>{name}</bdi> *</th>" in html] == found
        assert [row.label for row in final_rows(document, "macro_nll", 1) if row.label.endswith(" *")] == [
            f"{name} *" for name in found
        ]
        assert ("means over other seeds than random's" in " ".join(rows)) == bool(found)
        assert ("means over other seeds than random" in page_of(make).text) == bool(found)
        return found

    assert marked(unfinished) == ["default"] and marked(paying) == marked(bare) == []
    assert "below random's 1.293 by the 2 seeds that both have, but" in comparison_verdict(unfinished())[0]


def test_without_the_baseline_no_gain_is_claimed():
    document = comparison({"default": 0.2, "rds": 0.1})
    text = comparison_headline(document)
    assert text.startswith("No strategy was compared with random, so nothing shows that choosing pays")
    assert "was not among the strategies" in read_page(render_comparison(document)).text
    only = comparison({"random": 0.0})
    assert comparison_headline(only) == "Nothing was compared with random"
    assert render_comparison(only) and comparison_as_text(only)


def test_the_lowest_nll_is_not_praised_when_it_may_be_chance():
    document = paying()
    document["strategies"][0]["difference"]["macro_nll"].update(low=-0.5, high=0.1, p=0.2)
    text = "rds beat random beyond chance; default has the lowest NLL, but that may be chance"
    assert comparison_headline(document) == text


def test_a_fall_of_exact_match_is_in_the_headline():
    document = comparison({"default": 0.2, "random": 0.0}, gain_em=-0.2)
    assert comparison_headline(document).endswith("; but the exact match of default fell below random's")


def test_a_gain_that_turns_at_equal_tokens_is_exposed():
    document = paying()
    document["strategies"][0]["equal_tokens"]["difference"] = 0.03
    assert "At equal training tokens the difference is +0.030: the opposite sign." in comparison_verdict(document)[0]


def test_holm_steps_down_never_falls_and_stops_at_one():
    assert holm({0: 0.01, 1: 0.04, 2: 0.03, 3: 0.005}) == pytest.approx({3: 0.02, 0: 0.03, 2: 0.06, 1: 0.06})
    assert holm({0: 0.9, 1: 0.8}) == {1: 1.0, 0: 1.0}
    assert holm({5: 0.03}) == {5: 0.03}


def test_a_strategy_that_only_equals_random_has_not_the_best_value():
    document = comparison({"default": 0.0, "random": 0.0}, seeds=3)
    for entry in document["strategies"]:
        entry["final"]["macro_nll"]["mean"] = 1.3
    assert ranked(document) == [0, 1] and " has the lowest NLL" not in comparison_headline(document)


def test_what_does_not_survive_the_correction_is_not_claimed():
    document = paying()
    for i in (0, 2):
        document["strategies"][i]["difference"]["macro_nll"].update(value=-0.02, low=-0.039, high=-0.001, p=0.04)
    assert {found.outcome for found in differences(document, "macro_nll").values()} == {"unclear"}
    assert comparison_headline(document).startswith("Over 5 seeds no gain over random is beyond chance")
    document["strategies"].pop()
    assert comparison_headline(document).startswith("default beat random beyond chance")


@pytest.mark.parametrize("make", TAME)
def test_the_sentences_hold_the_documents_numbers(make: Make):
    document = make()
    sentences = {text.split(":")[0]: text for text in comparison_verdict(document)}
    for i, found in differences(document, "macro_nll").items():
        text = sentences[found.against]
        assert write(document["strategies"][i]["final"]["macro_nll"]["mean"], "nll") in text
        assert write(abs(found.value), "nll") in text
        for bound in () if found.low is None else (found.low, found.high):
            assert write(abs(bound), "nll") in text
        between = "" if found.sd is None else f"; standard deviation between seeds {write(found.sd, 'nll')}"
        assert between in text and ("between seeds" in text) == (found.sd is not None)
        equal = document["strategies"][i]["equal_tokens"]["difference"]
        assert f"At equal training tokens the difference is {write(equal, 'nll', signed=True)}" in text


@pytest.mark.parametrize("make", ALL)
def test_every_shown_number_is_the_documents(make: Make):
    document = displayable(make())
    for number in page_of(make).numbers:
        if number.path is not None:
            assert number.value == resolve(document, number.path), number
        if number.value is None:
            assert number.text == "–"
        elif number.text == "< 0.001":
            assert number.value < 0.001
        else:
            value, tolerance = shown(number.text)
            assert any(abs(value - number.value * scale) <= tolerance * 1.001 for scale in (1, 100)), number


@pytest.mark.parametrize("make", TAME)
def test_every_number_of_the_document_is_on_the_page(make: Make):
    paths = {number.path for number in page_of(make).numbers}
    left_out = re.compile(r"/schema|/strategies/\d+/changes/")
    assert [path for path, _ in leaves(make()) if path not in paths and not left_out.match(path)] == []


@pytest.mark.parametrize("make", TAME)
def test_corrected_p_values_are_holms(make: Make):
    document = make()
    expected = [d.holm for metric in METRICS for d in differences(document, metric).values()]
    shown_values = {n.value for n in page_of(make).numbers if n.derived and n.derived.startswith("Holm")}
    assert shown_values == {p for p in expected if p is not None}


@pytest.mark.parametrize("make", TAME)
def test_missing_values_are_said_never_blank_or_nan(make: Make):
    page = page_of(make)
    for text in (page.text, comparison_as_text(make())):
        assert not re.search(r"\b(nan|NaN|None(?! of)|null|undefined|inf|Infinity)\b", text)
    assert not re.search(r"<td[^>]*>\s*</td>", render_comparison(make()))


def test_unknown_numbers_have_words():
    text = page_of(bare).text
    for words in (
        "No NLL was measured.",
        "No run is finished.",
        "no round is finished",
        "not compared",
        "Not recorded.",
    ):
        assert words in text
    assert "Nothing was measured" in comparison_headline(bare())
    assert "not reached" in page_of(nothing_pays).text and "never" in comparison_as_text(nothing_pays())
    document = paying()
    document["strategies"][0]["equal_tokens"].update(macro_nll=None, difference=None)
    document["strategies"][0]["final"]["macro_nll"]["sd"] = math.nan
    page = read_page(render_comparison(document))
    assert "out of range" in page.text and "nan" not in page.text
    assert "At equal training tokens" not in comparison_verdict(document)[0]


@pytest.mark.parametrize("make", ALL)
def test_only_our_scripts_run_and_nothing_is_fetched(make: Make):
    page = page_of(make)
    scripts = [s.text for s in page.all("script") if "type" not in s.attributes]
    runs = [*scripts, unpack_text(page.data()["plotly-data"])]
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in runs}
    (meta,) = [m for m in page.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy"]
    policy = {d.split()[0]: d.split()[1:] for d in meta.attributes["content"].split(";") if d.strip()}
    assert set(policy["script-src"]) == hashes and policy["default-src"] == policy["connect-src"] == ["'none'"]
    assert scripts == [(TEMPLATES / name).read_text(encoding="utf-8") for name in ("data.js", "report.js")]
    for element in page.elements:
        assert not [name for name in element.attributes if name.startswith("on")], element
        for name in ("href", "src", "action", "style", "srcdoc"):
            value = element.attributes.get(name)
            assert value is None or (name == "href" and re.fullmatch(r"#[a-z]+", value)), element
    styles = "".join(e.text for e in page.all("style"))
    assert "url(" not in styles and "@import" not in styles and "//" not in styles


def test_hostile_texts_make_no_element_and_are_shown_as_written():
    page = page_of(hostile_comparison)
    assert {e.tag for e in page.elements} <= {e.tag for e in page_of(paying).elements} and not page.comments
    for text in displayable(HOSTILE):
        assert text in page.text, text
    html = render_comparison(hostile_comparison())
    (data,) = re.findall(r'<script type="application/json" id="chart-data">(.*?)</script>', html, re.S)
    assert not set(data) & set("<>&\u2028\u2029\n")
    for chart in json.loads(data).values():
        assert not [trace for trace in chart["data"] if "<" in trace.get("name", "")]


def test_a_hostile_baseline_is_text_too():
    document = paying()
    document["baseline"] = document["strategies"][1]["name"] = HOSTILE[1]
    for run in document["runs"]:
        run["strategy"] = HOSTILE[1] if run["strategy"] == "random" else run["strategy"]
    page = read_page(render_comparison(document))
    assert {e.tag for e in page.elements} <= {e.tag for e in page_of(paying).elements}
    assert len(page.all("script")) == 4


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("color", [False, True])
def test_the_terminal_text_is_narrow_and_cannot_be_driven(make: Make, color: bool):
    text = comparison_as_text(make(), color=color)
    text = re.sub("\x1b\\[[0-9;]*m", "", text) if color else text
    assert not [c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    wide = {c: 2 for c in text if unicodedata.east_asian_width(c) in "WF"}
    if next_step(make()) is not None:  # the command to copy, which is not broken, is the last line
        text = text.rstrip().rpartition("\n")[0]
    assert max(sum(wide.get(c, 1) for c in line) for line in text.split("\n")) <= 100


def test_the_terminal_table_holds_the_documents_numbers():
    document = eight()
    lines = comparison_as_text(document).partition("───\n")[2].split("\n")
    for i, strategy in enumerate(document["strategies"]):
        row = next(line for line in lines if line.startswith(strategy["name"][:12]))
        cells = re.split(r"  +", row)
        assert cells[1] == write(strategy["final"]["macro_nll"]["mean"], "nll")
        assert write(strategy["final"]["macro_em"]["mean"], "percent") in cells
        assert cells[-1] == write(strategy["scoring_share"], "percent")
        if strategy["name"] != "random":
            found = differences(document, "macro_nll")[i]
            assert cells[2].split()[0] == write(found.value, "nll", signed=True) and cells[3] == write(found.holm, "p")


def test_strategies_stand_best_first_and_unmeasured_last():
    assert [unfinished()["strategies"][i]["name"] for i in ranked(unfinished())] == ["default", "random", "rds"]
    document = eight()
    finals = [document["strategies"][i]["final"]["macro_nll"]["mean"] for i in ranked(document)]
    assert finals == sorted(finals)


def test_the_final_chart_draws_means_intervals_and_each_seed():
    document = paying()
    rows = final_rows(document, "macro_nll", 1)
    for row, i in zip(rows, ranked(document), strict=True):
        entry = document["strategies"][i]["final"]["macro_nll"]
        assert (row.label, row.value) == (document["strategies"][i]["name"], entry["mean"])
        assert row.ends == (entry["low"], entry["high"])
        assert [value for _, value in row.each] == [value for _, value in final_seeds(document, i, "macro_nll")]
        assert np.mean([value for _, value in row.each]) == pytest.approx(entry["mean"]) and len(row.each) == 5
    assert not [row for row in final_rows(one_seed(), "macro_nll", 1) if row.ends]


def test_the_final_charts_stand_in_the_page_without_scripts_and_mark_the_baseline():
    page = page_of(paying)
    assert len([e for e in page.all("svg") if e.attributes.get("class") == "dots"]) == 2
    assert len([e for e in page.all("line") if e.attributes["class"] == "mark"]) == 2
    assert set(final_charts(bare())) == set()


def test_plotly_is_packed():
    assert len(render_comparison(paying()).encode()) < 3_000_000


def test_the_curves_are_the_documents_with_bands_where_there_are_intervals():
    document = paying()
    for key in ("examples", "tokens"):
        lines = [t for t in comparison_charts(document)[f"curve-{key}"]["data"] if t["mode"] == "lines+markers"]
        bands = [t for t in comparison_charts(document)[f"curve-{key}"]["data"] if t["mode"] == "lines"]
        for strategy, line, band in zip(document["strategies"], lines, bands, strict=True):
            curve = strategy["curve"]
            assert line["x"] == [point[key] for point in curve]
            assert line["y"] == [point["macro_nll"]["mean"] for point in curve]
            assert band["y"][: len(curve)] == [point["macro_nll"]["low"] for point in curve]
            assert band["y"][len(curve) :] == [point["macro_nll"]["high"] for point in reversed(curve)]
    assert not [t for t in comparison_charts(one_seed())["curve-tokens"]["data"] if t["mode"] == "lines"]


def test_one_round_has_no_curve_and_says_where_its_points_are():
    page = page_of(one_round)
    assert comparison_charts(one_round()) == {} and "evaluated after one round, so there is no curve" in page.text
    assert len([e for e in page.all("svg") if e.attributes.get("class") == "dots"]) == 2
    assert "there is no curve" not in page_of(paying).text + page_of(bare).text
    mixed = one_round()
    mixed["strategies"][0]["curve"] = paying()["strategies"][0]["curve"]
    assert set(comparison_charts(mixed)) == {"curve-examples", "curve-tokens"}, "random is a point of its own"


@pytest.mark.parametrize("make", TAME)
def test_every_section_is_linked_and_every_drawn_chart_has_a_place(make: Make):
    page = page_of(make)
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids)) and {section.id for section in sections_of("comparison")} <= set(ids)
    assert {a.attributes["href"] for a in page.all("a")} >= {
        f"#{section}" for section in (section.id for section in sections_of("comparison"))
    }
    places = {e.attributes["data-chart"] for e in page.elements if "data-chart" in e.attributes}
    assert places == set(page.charts()) == set(comparison_charts(make()))


def test_the_command_is_safe_to_paste():
    document = paying()
    document["budget"] = "1000; rm -rf /"
    page = read_page(render_comparison(document))
    assert "python cli.py compare --strategies default,random,rds --budget '1000; rm -rf /' --rounds 4" in page.text


@pytest.mark.parametrize("make", ALL)
def test_the_document_is_left_alone(make: Make):
    document, fresh = make(), make()
    render_comparison(document)
    comparison_as_text(document)
    assert document == fresh


def palettes() -> dict[str, tuple[str, list[str]]]:
    """Background and colours of the strategies by theme, as the stylesheets say."""
    report = re.findall(r"--page: (#[0-9a-f]{6})", (TEMPLATES / "report.css").read_text(encoding="utf-8"))
    compare = (TEMPLATES / "comparison/comparison.css").read_text(encoding="utf-8")
    colors = re.findall(r"--strategy-\d: (#[0-9a-f]{6});", compare)
    assert re.findall(r"--strategy-\d-fill: (#[0-9a-f]{6})22;", compare) == colors and len(colors) == 2 * COLORS
    return {"light": (report[0], colors[:COLORS]), "dark": (report[1], colors[COLORS:])}


def linear(color: str) -> np.ndarray:
    c = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.clip(matrix @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089], 0.009, 1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Machado, Oliveira, Fernandes 2009, severity 1.
COLOR_BLINDNESS = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("kind", COLOR_BLINDNESS)
def test_colours_stand_out_and_are_told_apart_by_the_colour_blind(theme: str, kind: str):
    page, colors = palettes()[theme]
    weights = np.array([0.2126, 0.7152, 0.0722])
    for color in colors:
        low, high = sorted((weights @ linear(color), weights @ linear(page)))
        assert (high + 0.05) / (low + 0.05) >= 3, color
    seen = [lab(np.array(COLOR_BLINDNESS[kind]) @ linear(color)) for color in colors]
    distances = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(distances) > 12
