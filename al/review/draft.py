"""The draft of a review: one JSON file, replaced as a whole with every change, so that a crash loses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from al.errors import DataError
from al.review.decision import Decision, read_decision
from al.run.atomic import replaced

DRAFT = "draft.json"


def find_draft(folder: Path, proposal: str) -> tuple[Decision | None, str | None]:
    """(draft of `folder` for this proposal or None, reason why an existing draft cannot be used or None)."""
    path = folder / DRAFT
    if not path.exists():
        return None, None
    try:
        draft = read_decision(path)
    except DataError as error:
        return None, f"cannot be read ({error})"
    return (draft, None) if draft.proposal == proposal else (None, "is on another proposal")


def load_draft(folder: Path, proposal: str) -> tuple[Decision, str | None]:
    """(draft to continue, note to print or None). A damaged draft, or one of another proposal, is set aside."""
    draft, why = find_draft(folder, proposal)
    if why is None:
        return draft or Decision(proposal=proposal), None
    aside = _set_aside(folder)
    return Decision(proposal=proposal), f"the review's draft {why}; it is kept as {aside} and a new one is started"


def supersede_draft(folder: Path, decision: Decision) -> str | None:
    """Make a decision from elsewhere the draft, because it is more recent. An older draft is set aside; returns a note, or None."""
    if not (folder / DRAFT).exists() or find_draft(folder, decision.proposal or "")[0] == decision:
        return None
    aside = _set_aside(folder)
    save_draft(folder, decision)
    return f"the draft of the review page is older than this decision and differs from it; it is kept as {aside}"


def _set_aside(folder: Path) -> str:
    aside = next(p for i in range(1, 10_000) if not (p := folder / f"draft-{i}.json").exists())
    (folder / DRAFT).rename(aside)
    return aside.name


def save_draft(folder: Path, decision: Decision) -> None:
    """Replace the draft file of `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with replaced(folder / DRAFT) as temporary:
        temporary.write_text(json.dumps(decision.document(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def changed(decision: Decision, kind: str, key: str, value: Any) -> dict[str, Any]:
    """The document of a draft after one change; a `value` of None or false undoes it.

    Args:
        kind: "drop" or "pin" (key: an id), "ban_cluster", "ban_source", "quota" (key: a cluster), "answer" or "edit" (key: an id), "note".
    """
    document = {"edits": {}, **decision.document()}
    lists = {"drop": "drop", "pin": "pin", "ban_cluster": "ban_clusters", "ban_source": "ban_sources"}
    if kind in lists:
        entry: Any = _cluster(key) if kind == "ban_cluster" else key
        rest = [other for other in document[lists[kind]] if other != entry]
        document[lists[kind]] = [*rest, entry] if value else rest
        other = {"drop": "pin", "pin": "drop"}.get(kind)
        if other and value:  # the later change counts
            document[other] = [name for name in document[other] if name != key]
        if other and value:
            document["edits"].pop(key, None)
        if kind == "ban_cluster" and value:
            document["quotas"].pop(str(entry), None)
    elif kind in ("quota", "answer", "edit"):
        field, entry = ("quotas", str(_cluster(key))) if kind == "quota" else (f"{kind}s", key)
        if isinstance(value, bool):
            raise DataError(f"{kind}: expected {'a number' if kind == 'quota' else 'text'} or null, found {value}.")
        document[field].pop(entry, None)
        if value is not None and value != "":
            document[field][entry] = value
            if kind == "edit":  # the later change counts
                document |= {name: [other for other in document[name] if other != key] for name in ("drop", "pin")}
    elif kind == "note":
        document["note"] = value or ""
    else:
        raise DataError(
            f"kind: expected drop, pin, ban_cluster, ban_source, quota, answer, edit or note, found {kind!r}."
        )
    return document


def _cluster(key: str) -> int:
    if not key.isdecimal():
        raise DataError(f"cluster: expected a number, found {key!r}.")
    return int(key)
