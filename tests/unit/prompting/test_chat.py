"""A chat remembers, begins again, and survives answers that fail or are stopped."""

from __future__ import annotations

from al.errors import DataError
from al.prompting.chat import chat


class Terminal:
    """Types `lines`, then Ctrl-D; `shown` is what appeared."""

    def __init__(self, *lines):
        self.lines, self.shown = list(lines), ""

    def ask(self):
        if not self.lines:
            raise EOFError
        line = self.lines.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    def show(self, text):
        self.shown += text


def parrot(seen, name="parrot"):
    """A model that records what it was asked and repeats the last message."""

    def stream(messages):
        seen.append([message["content"] for message in messages])
        text = messages[-1]["content"]
        if text == "break":
            raise DataError("no room for this prompt")
        yield f"{name} "
        if text == "stop":
            raise KeyboardInterrupt
        yield text

    return stream


def test_every_model_remembers_its_own_answers():
    one, other, terminal = [], [], Terminal("hello", "again")
    chat({"1": parrot(one, "first"), "base": parrot(other, "second")}, "Be brief.", terminal.ask, terminal.show)
    assert one == [["Be brief.", "hello"], ["Be brief.", "hello", "first hello", "again"]]
    assert other == [["Be brief.", "hello"], ["Be brief.", "hello", "second hello", "again"]]
    assert "1: first hello\nbase: second hello\n1: first again\nbase: second again\n" in terminal.shown


def test_reset_forgets_everything_but_the_system_message():
    seen, terminal = [], Terminal("a", "/reset", "", "b", "/quit", "never read")
    chat({"m": parrot(seen)}, "S", terminal.ask, terminal.show)
    assert seen == [["S", "a"], ["S", "b"]] and terminal.lines == ["never read"]


def test_an_answer_that_fails_or_is_stopped_leaves_the_conversation_as_it_was():
    seen, terminal = [], Terminal("a", "stop", "break", "/what", "b", KeyboardInterrupt())
    chat({"m": parrot(seen)}, None, terminal.ask, terminal.show)
    assert seen == [["a"], ["a", "parrot a", "stop"], ["a", "parrot a", "break"], ["a", "parrot a", "b"]]
    assert "[stopped]" in terminal.shown and "error: no room for this prompt" in terminal.shown
    assert "/what: unknown" in terminal.shown
