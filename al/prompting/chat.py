"""A conversation in the terminal with one or several models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from al.prompting.prompts import Messages

HELP = "Type a message. /reset begins again, /quit or Ctrl-D leaves, Ctrl-C stops an answer."
Stream = Callable[[Messages], Iterator[str]]


def chat(
    models: Mapping[str, Stream],
    system: str | None,
    ask: Callable[[], str],
    show: Callable[[str], None],
) -> None:
    """Read messages from `ask` until it raises EOFError, and show the answers of all models piece by piece.

    Each model remembers its own answers. An answer that is stopped (KeyboardInterrupt), or one that fails with a user's error, leaves the
    conversation as it was before the message.
    """
    histories = _new(models, system)
    show(f"{HELP}\n")
    while True:
        try:
            message = ask().strip()
        except (EOFError, KeyboardInterrupt):
            show("\n")
            return
        if message == "/quit":
            return
        if message == "/reset":
            histories = _new(models, system)
            show("The conversation begins again.\n")
        elif message.startswith("/"):
            show(f"{message.split()[0]}: unknown. {HELP}\n")
        elif message:
            for name, stream in models.items():
                show(f"{name}: ")
                histories[name] = _turn(stream, histories[name], message, show)


def _turn(stream: Stream, history: Messages, message: str, show: Callable[[str], None]) -> Messages:
    asked = [*history, {"role": "user", "content": message}]
    said = ""
    try:
        for piece in stream(asked):
            said += piece
            show(piece)
    except KeyboardInterrupt:
        show(" [stopped]\n")
        return history
    except Exception as error:
        if getattr(error, "exit_code", None) is None:
            raise
        show(f"error: {error}\n")
        return history
    show("\n")
    return [*asked, {"role": "assistant", "content": said.strip()}] if said.strip() else history


def _new(models: Mapping[str, Stream], system: str | None) -> dict[str, Messages]:
    return {name: [] if system is None else [{"role": "system", "content": system}] for name in models}
