"""The review page in a real browser: drop, pin, search, answer and approve, by mouse and by keyboard."""

from __future__ import annotations

import json

import pytest
from review_desk import make_desk

from al.review.server import serve

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    '"><img src=x onerror=alert(3)>',
    "<svg onload=alert(4)>",
    "javascript:alert(5)",
    "\u202eevil\u2066 bidi",
    "W" * 500,
]


@pytest.fixture
def served(tmp_path):
    """A desk whose texts, sources and cluster names are hostile, and the address of its page."""
    with serve(make_desk(tmp_path, HOSTILE, names=HOSTILE), 0) as page:
        yield page


def opened(watch, served, **look):
    watched = watch(**look)
    watched.page.goto(served.url)
    watched.page.wait_for_selector("#list[data-ready=batch] .card")
    return watched, watched.page


def drafted(served):
    return json.loads((served.desk.folder / "draft.json").read_text())


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_a_batch_is_read_changed_and_approved(served, watch, width, theme):
    watched, page = opened(watch, served, width=width, theme=theme)
    cards = page.locator(".card")
    assert cards.count() == 12
    dropped = cards.nth(0).get_attribute("data-id")
    cards.nth(0).get_by_role("button", name="Drop").click()
    page.wait_for_function("id => !document.querySelector(`[data-id='${id}']`)", arg=dropped)
    assert cards.count() == 12 and drafted(served)["drop"] == [dropped]

    page.get_by_role("button", name="Not picked").click()
    page.wait_for_selector("#list[data-ready=left]")
    pinned = cards.nth(2).get_attribute("data-id")
    cards.nth(2).get_by_role("button", name="Pin").click()
    page.wait_for_function("id => !document.querySelector(`[data-id='${id}']`)", arg=pinned)
    page.get_by_role("button", name="Changed").click()
    page.wait_for_selector(f".card[data-id='{pinned}'][data-state=pinned]")
    assert page.locator(f".card[data-id='{dropped}']").get_attribute("data-state") == "dropped"
    assert "12 of 12 examples" in page.inner_text("#sum") and "1 pinned" in page.inner_text("#sum")

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Approve and train").click()
    page.locator("#yes").click()
    page.wait_for_selector("#live:not([hidden])")
    assert served.desk.approved.is_set() and served.desk.draft.pin == [pinned]
    assert watched.errors == watched.dialogs == []
    assert all(url.startswith(served.url.split("?")[0]) for url in watched.requests)


def test_where_approving_trains_nothing_the_page_says_what_does(tmp_path, watch):
    desk = make_desk(tmp_path, resume="python cli.py resume --run runs/mine")
    with serve(desk, 0) as served:
        watched, page = opened(watch, served)
        assert page.get_by_role("button", name="Approve and train").count() == 0
        page.get_by_role("button", name="Approve", exact=True).click()
        assert "nothing is trained: python cli.py resume --run runs/mine trains." in page.inner_text("#confirm")
        page.locator("#yes").click()
        page.wait_for_selector("#live:not([hidden])")
        assert "Nothing is trained yet: python cli.py resume --run runs/mine trains." in page.inner_text("#live")
    assert desk.approved.is_set() and watched.errors == []


@pytest.mark.parametrize(("quota", "said"), [("-1", "greater than or equal to 0"), ("300", "only 20 of its examples")])
def test_approving_waits_for_what_was_typed_last_and_stops_where_that_is_refused(served, watch, quota, said):
    _, page = opened(watch, served)
    page.get_by_label("Quota of group 0").fill(quota)
    page.get_by_role("button", name="Approve and train").click()
    page.wait_for_selector("#problem:not([hidden])")
    page.wait_for_timeout(200)
    assert said in page.inner_text("#problem") and not page.locator("#confirm").is_visible()


def test_what_is_refused_while_the_button_is_pressed_stops_the_approval_too(served, watch):
    _, page = opened(watch, served)
    page.get_by_label("Quota of group 0").fill("-1")
    page.get_by_role("button", name="Approve and train").hover()
    page.mouse.down()
    page.wait_for_selector("#problem:not([hidden])")
    page.mouse.up()
    page.wait_for_timeout(200)
    assert not page.locator("#confirm").is_visible()
    page.get_by_role("button", name="Approve and train").click()  # the field shows what holds again
    page.wait_for_selector("#confirm", state="visible")


def test_the_keyboard_alone_is_enough(served, watch):
    watched, page = opened(watch, served)
    first, second = (page.locator(".card").nth(i).get_attribute("data-id") for i in (0, 1))
    page.keyboard.press("j")
    page.keyboard.press("d")
    page.wait_for_selector(f".card[data-id='{second}']:focus")
    page.keyboard.press("p")
    page.wait_for_selector(f".card[data-id='{second}'][data-state=pinned]:focus")
    assert drafted(served)["drop"] == [first] and drafted(served)["pin"] == [second]
    page.keyboard.press("/")
    page.keyboard.type("jdp")  # typed into the search, so they mark nothing
    page.wait_for_function("() => document.getElementById('count').textContent === 'Nothing to show.'")
    assert drafted(served)["drop"] == [first] and drafted(served)["pin"] == [second]
    assert watched.errors == []


def test_bans_quotas_answers_and_notes_are_kept_and_what_cannot_be_met_is_said(served, watch):
    watched, page = opened(watch, served)
    page.get_by_label("Ban group 1").click()
    page.wait_for_selector("#clusters li.banned")
    page.get_by_label("Quota of group 0").fill("300")
    page.get_by_label("Quota of group 0").press("Enter")
    page.wait_for_selector("#problem:not([hidden])")
    assert "only 20 of its examples" in page.inner_text("#problem") and page.locator("#approve").is_disabled()
    page.get_by_label("Quota of group 0").fill("2")
    page.get_by_label("Quota of group 0").press("Enter")
    page.wait_for_selector("#problem", state="hidden")
    page.get_by_role("button", name="Unanswered").click()
    page.wait_for_selector("#list[data-ready=unlabelled] textarea")
    page.locator("#list textarea").first.fill("an answer")
    page.get_by_text("Note", exact=True).click()
    page.get_by_label("Reason, for the report").fill("they contradict each other")
    page.get_by_role("button", name="Approve and train").click()
    page.locator("#yes").click()
    page.wait_for_selector("#live:not([hidden])")
    decision = served.desk.draft
    assert decision.ban_clusters == [1] and decision.quotas == {0: 2}
    assert list(decision.answers.values()) == ["an answer"] and decision.note == "they contradict each other"
    assert watched.dialogs == [] and not [e for e in watched.errors if "422" not in e]


def test_a_response_is_edited_and_the_edit_undone_by_keyboard(served, watch):
    watched, page = opened(watch, served)
    cards = page.locator(".card")
    name = cards.nth(0).get_attribute("data-id")
    assert page.locator(".keys").bounding_box()["y"] < cards.nth(0).bounding_box()["y"], (
        "the keys are shown above the list"
    )
    page.keyboard.press("j")
    page.keyboard.press("e")
    box = page.get_by_label(f"Corrected response of {name}")
    box.fill("<b>corrected</b> d p u")
    box.press("Control+Enter")
    page.wait_for_function("id => !document.querySelector(`[data-id='${id}']`)", arg=name)
    assert drafted(served)["edits"] == {name: "<b>corrected</b> d p u"} and "1 edited" in page.inner_text("#sum")
    page.get_by_role("button", name="Changed").click()
    card = page.locator(f".card[data-id='{name}'][data-state=edited]")
    card.wait_for()
    assert card.locator("pre.edited").inner_text() == "<b>corrected</b> d p u" and card.locator("b").count() == 0
    page.locator("#list").focus()
    page.keyboard.press("u")
    page.wait_for_function("id => !document.querySelector(`[data-id='${id}']`)", arg=name)
    assert "edits" not in drafted(served) and page.locator("#undo").is_disabled()
    assert watched.errors == [] and watched.dialogs == []


def test_a_server_that_is_gone_is_said(served, watch, tmp_path):
    with serve(make_desk(tmp_path / "other"), 0) as short:
        watched, page = opened(watch, short)
    page.locator(".card").nth(0).get_by_role("button", name="Drop").click()
    page.wait_for_selector("#problem:not([hidden])")
    assert "its process has ended" in page.inner_text("#problem")
