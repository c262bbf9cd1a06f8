"""Charts for papers: one file each, the same bytes each time, and only what the summary holds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_attacks import hostile
from report_summaries import empty_lists, first_round, later_round, second_round, without_control

from al.errors import ConfigError, EnvironmentProblem
from al.report.page import figures
from al.report.page.figures import FIGURES, FORMATS, STYLE, write_figures

pytest.importorskip("matplotlib", reason="the extra `figures` is not installed")
ALL = ["gains", "learning-curve", "training-loss", "quota-and-loss"]


@pytest.mark.parametrize("form", FORMATS)
def test_every_chart_is_written_in_every_format(tmp_path: Path, form: str):
    written = write_figures(later_round(), tmp_path / "figures", form)
    assert [Path(file).name for file in written["files"]] == [f"{name}.{form}" for name in ALL]
    start = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[form]
    assert all(Path(file).read_bytes().startswith(start) for file in written["files"])


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_summary_gives_the_same_bytes(tmp_path: Path, form: str):
    for name in ("a", "b"):
        write_figures(second_round(), tmp_path / name, form)
    for name in ALL:
        assert (tmp_path / "a" / f"{name}.{form}").read_bytes() == (tmp_path / "b" / f"{name}.{form}").read_bytes()


def test_a_pdf_embeds_its_fonts_and_an_svg_needs_none(tmp_path: Path):
    write_figures(first_round(), tmp_path, "pdf")
    write_figures(first_round(), tmp_path, "svg")
    assert b"/FontFile2" in (tmp_path / "gains.pdf").read_bytes()
    assert b"<text" not in (tmp_path / "gains.svg").read_bytes()


@pytest.mark.parametrize("make", [first_round, without_control, hostile, empty_lists, lambda: {"run": "x", "round": 1}])
def test_what_a_summary_lacks_is_left_out_and_named(tmp_path: Path, make: Callable[[], dict[str, Any]]):
    written = write_figures(make(), tmp_path, "svg")
    assert len(written["files"]) + len(written["left_out"]) == len(FIGURES)
    assert not any((tmp_path / f"{name}.svg").exists() for name in written["left_out"])


def test_differences_and_their_intervals_are_drawn_where_the_summary_says():
    summary = first_round()
    drawn = FIGURES["gains"](summary)
    nll, exact = drawn.axes
    entry = summary["evaluation"]["differences"]["selected - control"]
    line, _, (bars,) = nll.containers[0]
    assert line.get_xdata()[0] == pytest.approx(entry["macro_nll"]["value"])
    assert [float(x) for x in bars.get_segments()[0][:, 0]] == pytest.approx(
        [entry["macro_nll"]["low"], entry["macro_nll"]["high"]]
    )
    assert exact.containers[0][0].get_xdata()[0] == pytest.approx(100 * entry["macro_em"]["value"])


def test_the_learning_curve_begins_with_base_and_has_the_control_beside_it():
    summary = later_round()
    (ax,) = FIGURES["learning-curve"](summary).axes
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert {"Base", "Selected", "Random control"} == set(lines)
    picked = summary["drift"]["rounds"]
    assert lines["Random control"].get_xdata().tolist() == [0, *(entry["control"]["all_tokens"] for entry in picked)]
    base = summary["evaluation"]["models"]["base"]["macro_nll"]
    assert lines["Selected"].get_ydata()[0] == base
    assert lines["Selected"].get_ydata()[-1] == summary["evaluation"]["models"]["selected"]["macro_nll"]


def test_a_summary_of_an_older_round_still_has_its_curve():
    summary = later_round()
    del summary["drift"]
    (ax,) = FIGURES["learning-curve"](summary).axes
    (line,) = [line for line in ax.get_lines() if line.get_label() == "Selected"]
    tokens = [entry["tokens"] for entry in summary["learning_curve"]] + [summary["budget"]["tokens"]]
    assert line.get_xdata().tolist() == [0, tokens[0], tokens[0] + tokens[1], sum(tokens)]


def test_the_users_own_matplotlib_settings_stay_as_they_are(tmp_path: Path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_figures(first_round(), tmp_path, "svg")
    assert dict(matplotlib.rcParams) == before and STYLE["svg.hashsalt"] != before["svg.hashsalt"]


def test_without_matplotlib_the_command_that_installs_it_is_told(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match="pip install matplotlib"):
        write_figures(first_round(), tmp_path, "svg")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="file/gains.svg: cannot be written"):
        write_figures(first_round(), tmp_path / "file", "svg")


def test_colours_and_markers_tell_every_model_apart():
    for kinds in (figures.COLORS, figures.MARKERS, figures.LINES):
        assert len(set(kinds.values())) == len(kinds)
