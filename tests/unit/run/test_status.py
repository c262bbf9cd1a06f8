"""What `status` reads off the events of a stage that is under way."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from al.run import live
from al.run.live import STEP_KEYS, progress_of, stage_under_way, waits_for_review

STARTED = {"event": "stage.started", "stage": "train", "time": "2026-11-26T08:00:00+00:00"}


def step(number: int, **more: float) -> dict:
    return {"event": "train.step", "step": number, "steps": 9, "loss": 2.0, "tokens_per_s": 300.0, **more}


def stage_of(directory: Path, *events: dict) -> dict | None:
    (directory / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return stage_under_way(directory)


def test_the_lowest_dev_loss_so_far_is_shown_with_its_step(tmp_path: Path):
    events = (step(1), step(2, dev_loss=1.9), step(3), step(4, dev_loss=1.7), step(5), step(6, dev_loss=1.8))
    found = stage_of(tmp_path, STARTED, *events)["step"]
    assert (found["step"], found["best_step"], found["best_dev_loss"]) == (6, 4, 1.7)


def test_without_evaluations_there_is_none(tmp_path: Path):
    assert "best_dev_loss" not in stage_of(tmp_path, STARTED, step(1), step(2))["step"]


def test_the_next_stage_starts_afresh(tmp_path: Path):
    control = {**STARTED, "stage": "train control"}
    found = stage_of(tmp_path, STARTED, step(1, dev_loss=1.2), {"event": "stage.published"}, control, step(1))
    assert found["stage"] == "train control" and "best_dev_loss" not in found["step"]


def test_a_stage_that_failed_is_not_under_way(tmp_path: Path):
    assert stage_of(tmp_path, STARTED, {"event": "stage.failed"}) is None


def forwards(events: list[dict]) -> dict | None:
    """The definition, read from the front."""
    stage, step, best = None, None, {}
    for event in events:
        if event["event"] == "stage.started":
            stage, step, best = event, None, {}
        elif event["event"] == "stage.published":
            stage = None
        elif event["event"] == "train.step":
            if event.get("dev_loss", math.inf) < best.get("best_dev_loss", math.inf):
                best = {"best_step": event["step"], "best_dev_loss": event["dev_loss"]}
            step = {key: event[key] for key in STEP_KEYS if key in event} | best
    return {"stage": stage["stage"], "since": stage["time"], "step": step} if stage else None


EVENTS = st.one_of(
    st.builds(lambda name: {**STARTED, "stage": name}, st.sampled_from(["score", "train"])),
    st.builds(step, st.integers(1, 9)),
    st.builds(lambda n, loss: step(n, dev_loss=loss), st.integers(1, 9), st.sampled_from([1.5, 1.6, 1.7])),
    st.just({"event": "stage.published"}),
    st.just({"event": "review.opened"}),
    st.just({"event": "stage.reused", "stage": "embed", "text": "é" * 40}),
)


@given(st.lists(EVENTS, max_size=30), st.integers(1, 200))
def test_reading_from_the_end_finds_what_reading_from_the_front_does(events, block):
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(live, "BLOCK", block):
        assert stage_of(Path(folder), *events) == forwards(events)


def test_a_line_that_was_not_written_whole_is_passed_over(tmp_path: Path):
    stage_of(tmp_path, STARTED, step(1))
    with (tmp_path / "events.jsonl").open("a") as handle:
        handle.write('{"event": "train.st')
    assert stage_under_way(tmp_path)["step"]["step"] == 1


def test_a_training_of_many_steps_is_read_from_its_end(tmp_path: Path):
    stage_of(tmp_path, *([STARTED] + [step(n) for n in range(1, 5000)]), {**STARTED, "stage": "report"})
    with mock.patch.object(json, "loads", side_effect=json.loads) as parsed:
        assert stage_under_way(tmp_path)["stage"] == "report"
    assert parsed.call_count == 1


def test_a_review_is_waited_for_while_its_opening_is_the_last_event(tmp_path: Path):
    opened = {"event": "review.opened", "round": 1}
    stage_of(tmp_path, STARTED, {"event": "stage.published"}, opened)
    assert waits_for_review(tmp_path)
    stage_of(tmp_path, opened, STARTED)
    assert not waits_for_review(tmp_path)


def test_progress_is_shown_of_the_process_that_works_and_of_no_other(tmp_path: Path):
    (tmp_path / "progress.json").write_text(json.dumps({"title": "embed", "done": 3, "pid": 77}))
    assert progress_of(tmp_path, "pid 77 on here since now")["done"] == 3
    assert progress_of(tmp_path, "pid 778 on here since now") is None
    (tmp_path / "progress.json").write_text('{"title": ')
    assert progress_of(tmp_path, "pid 77 on here since now") is None
