"""Message trees of OpenAssistant (OASST1, OASST2): the best-ranked thread of each.

Köpf et al. 2023, arXiv 2304.07327: people ranked the replies to a message; 0 is the best. Starting at the first prompt, the reply
of the lowest rank is followed; replies without a rank come last, and ties are broken by message_id. Excluded are
messages that were deleted or rejected by reviewers, with everything below them, and a final prompt without a reply, unless it
is the only message. Messages outside the thread are counted (`replies_not_best`, `replies_turned_down`, `unanswered_turn_cut`).
Only trees with the state `ready_for_export`, or without a state, are used: the others are unfinished or stopped by moderators.

The rows of a file may have any order, so its messages are kept in memory until its end (about 1 KB each; OASST2 has 135,000).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from al.pool.formats.base import Example, Gathering, Row, RowError, Turn, has, has_text, kind, row_format, text
from al.pool.formats.turns import ROLES

READY = "ready_for_export"
_KEPT = ("lang", "message_tree_id", "message_id")
_FLAT = ("message_id", "parent_id", "text", "role")
_READ = frozenset((*_KEPT, *_FLAT, "rank", "deleted", "review_result", "tree_state", "replies"))
"""Fields of a message that place it in the tree, or are kept of the first prompt. The others become lists, one value per turn."""
Message = dict[str, Any]


def _flat_row(row: Row) -> list[Example]:
    raise RowError("wrong_type", "parent_id: the messages of a tree are read together")  # read through Messages instead


class Messages(Gathering):
    """The flat messages of one file, joined into trees at its end."""

    used = _READ

    def __init__(self) -> None:
        self._messages: dict[str, tuple[int, Row]] = {}

    def add(self, row: Row, line: int) -> None:
        """Add one message. Raises RowError: it is unusable, or an earlier one has its message_id."""
        identity = text(row, "message_id")
        _turn(row)
        if identity in self._messages:
            first = self._messages[identity][0]
            raise RowError("duplicate_message", f"message_id: {identity:.60} is also that of line {first}")
        self._messages[identity] = (line, row)

    def finish(self) -> Iterator[tuple[int, Example | RowError, Row]]:
        """One example or error per tree, at the line of its first prompt; an error per message that belongs to no tree."""
        replies: dict[str, list[Row]] = {}
        for _, row in self._messages.values():
            if row.get("parent_id"):
                replies.setdefault(str(row["parent_id"]), []).append(row)

        def replies_of(message: Message) -> list[Message]:
            """The direct replies to a message, in reading order."""
            return replies.get(str(message["message_id"]), [])

        reached: set[str] = set()
        for _, row in self._messages.values():
            if not row.get("parent_id"):
                reached.update(str(message["message_id"]) for message in _below(row, replies_of))
        for line, row in sorted(self._messages.values(), key=lambda entry: entry[0]):
            if not row.get("parent_id"):
                yield line, _tree(row, replies_of), row
            elif str(row["message_id"]) not in reached:
                where = f"{str(row['parent_id']):.60} leads to no first prompt in this file"
                yield line, RowError("missing_parent", f"parent_id: {where}"), row


row_format(
    "oasst",
    "message_id, parent_id, text, role, rank: one message of a tree per row; the best-ranked thread is used",
    has(*_FLAT),
    _FLAT,
    _READ,
    Messages,
)(_flat_row)


@row_format("oasst_tree", "message_tree_id, prompt: {message_id, text, role, replies: […]}: a whole tree",
            has("message_tree_id", "prompt"), ("message_tree_id", "prompt"), ("tree_state",))  # fmt: skip
def _oasst_tree(row: Row) -> list[Example]:
    prompt = row.get("prompt")
    if not isinstance(prompt, dict):
        raise RowError("wrong_type", f"prompt: expected an object with text, role and replies, found {kind(prompt)}")
    found = _tree({**{key: row.get(key) for key in ("tree_state", "message_tree_id")}, **prompt}, _nested_replies)
    if isinstance(found, RowError):
        raise found
    used = ("prompt", "tree_state", "message_tree_id")
    others = {key: value for key, value in row.items() if key not in used}
    return [replace(found, used=used, metadata={**(found.metadata or {}), **others})]


def _nested_replies(message: Message) -> list[Message]:
    replies = message.get("replies") or []
    if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
        raise RowError("wrong_type", f"replies: expected a list of messages, found {kind(replies)}")
    return replies


def _tree(root: Message, replies_of: Callable[[Message], list[Message]]) -> Example | RowError:
    """The best-ranked thread below `root`, or the error why there is none."""
    state = root.get("tree_state")
    thread, adjusted = [root], Counter[str]()
    try:
        size = len(_below(root, replies_of))
        if state not in (None, "", READY):
            why = f"tree_state: {str(state)[:40]}, expected {READY}; its {size} message(s) are excluded"
            return RowError("tree_not_ready", why)
        if _turned_down(root):
            why = f"the tree's first prompt was deleted or rejected; its {size} message(s) are excluded"
            return RowError("turned_down", f"deleted, review_result: {why}")
        while True:
            replies = replies_of(thread[-1])
            usable = sorted((reply for reply in replies if not _turned_down(reply)), key=_order)
            for reply in replies:
                if usable and reply is usable[0]:
                    continue
                code = "replies_turned_down" if _turned_down(reply) else "replies_not_best"
                adjusted[code] += len(_below(reply, replies_of))
            if not usable:
                break
            thread.append(usable[0])
        turns = [_turn(message) for message in thread]
    except RowError as error:
        return error
    if len(turns) > 1 and turns[-1][0] == "user":
        turns, thread = turns[:-1], thread[:-1]
        adjusted["unanswered_turn_cut"] += 1
    left: dict[str, list[Any]] = {}
    for message in thread:
        for key, value in message.items():
            if key not in _READ and has_text(value):
                left.setdefault(f"messages[].{key}", []).append(value)
    return Example(turns, tuple(_READ), [], tuple(adjusted.elements()), _described(root, thread), left=left)


def _described(root: Message, thread: list[Message]) -> dict[str, Any]:
    kept = {key: root[key] for key in _KEPT if root.get(key) is not None}
    return kept if len(thread) == 1 else {**kept, "last_message_id": thread[-1].get("message_id")}


def _below(message: Message, replies_of: Callable[[Message], list[Message]]) -> list[Message]:
    """The messages of the tree from `message` down, itself included."""
    waiting, found = [message], []
    while waiting:
        found.append(waiting.pop())
        waiting += replies_of(found[-1])
    return found


def _turned_down(message: Mapping[str, Any]) -> bool:
    return message.get("deleted") in (True, "true", "True") or message.get("review_result") in (False, "false", "False")


def _order(message: Message) -> tuple[float, str]:
    rank = message.get("rank")
    try:
        return (float("inf") if rank is None or rank == "" else float(rank)), str(message.get("message_id"))
    except (TypeError, ValueError):
        raise RowError("wrong_type", f"rank: expected a number, found {kind(rank)}") from None


def _turn(message: Message) -> Turn:
    role = message.get("role")
    known = ROLES.get(role.strip().lower()) if isinstance(role, str) else None
    if known is None:
        raise RowError("unknown_role", f"role: expected prompter or assistant, found {role!r:.60}")
    return known, text(message, "text")
