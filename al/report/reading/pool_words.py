"""The sentences and cuts that a pool's terminal text and page share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from al.report.reading.values import write

ELLIPSIS = 40  # what "[…1,234 characters…]" takes, about


def by_format(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The entries of `recognised` by format, the format with most rows first."""
    formats: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        formats.setdefault(entry["format"], []).append(entry)
    return dict(sorted(formats.items(), key=lambda item: -sum(entry["rows"] for entry in item[1])))


def length_sentences(lengths: Mapping[str, Any]) -> list[str]:
    """What becomes of examples over `tokens.max_length`, what is trained on, and what the template refuses; [] without tokens."""
    if lengths["unit"] != "tokens":
        return []
    status = lengths["over_status"]
    dropped = sum(count for name, count in status.items() if name != "truncated")
    fate = {
        "skip": "they are left out",
        "truncate": f"{status.get('truncated', 0):,} are cut there, {dropped:,} are left out as no response is left",
        "truncate_turns": f"{status.get('truncated', 0):,} are cut after the last whole response, {dropped:,} are left out",
    }[lengths["overlength"]]
    over = f"{lengths['over']:,} of {lengths['of']:,} ({write(lengths['over'] / max(1, lengths['of']), 'percent')})"
    limit = f"tokens.max_length = {lengths['max_length']:,}"
    sentences = [
        f"Over the limit {limit}: {over}"
        + (f"; {fate} (tokens.overlength = {lengths['overlength']})." if lengths["over"] else ".")
    ]
    sentences.append(
        f"Trained on: {write(lengths['trained_share'], 'percent')} of the tokens, with the template '{lengths['template']}' of "
        f"{PurePath(lengths['tokenizer']).name}."
    )
    if lengths["refused"]:
        sentences.append(
            f"The template refuses {lengths['refused']:,} examples, which are never trained on; the first: {lengths['refused_why']}."
        )
    return sentences


def near_sentence(near: Mapping[str, Any] | None) -> str:
    """Near-duplicates in words; a run searches for them in its first round."""
    if near is None:
        return "Near-duplicates: a run's first round searches for them (dedup.threshold)."
    return f"Near-duplicates: {near['count']:,} examples, at cosine {near['threshold']:g} or more (dedup.threshold)."


def refusal_sentence(refusals: Mapping[str, Any]) -> str:
    """Refusals in words, with the switch that drops them."""
    share = write(refusals["count"] / max(1, refusals["of"]), "percent")
    return (
        f"{refusals['count']:,} of {refusals['of']:,} responses checked ({share}) refuse to answer; "
        "clean.refusals: drop leaves such examples out."
    )


def visible_segments(example: Mapping[str, Any], total: int) -> list[dict[str, Any]]:
    """An example's stretches, or its messages where it was not rendered, shortened to about `total` characters."""
    messages = ({"text": f"{message['role']}: {message['content']}\n", "target": 0} for message in example["messages"])
    return shorten_segments(example["segments"] or list(messages), total)


def shorten_segments(segments: Sequence[Mapping[str, Any]], total: int) -> list[dict[str, Any]]:
    """Segments (`text`, `target`) with the middles of the longest left out, so that about `total` characters stay."""
    long = _fair_limit([len(segment["text"]) for segment in segments], total)
    return [{**segment, "text": _shortened(segment["text"], long)} for segment in segments]


def _fair_limit(lengths: Sequence[int], total: int) -> int:
    """The limit for each of several texts under which together they have `total` characters, or no limit where they have fewer."""
    left = total
    for place, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - place)
        if length > share:
            return max(share, 2 * ELLIPSIS)
        left -= length
    return max(lengths, default=0)


def _shortened(text: str, limit: int) -> str:
    """The text, its middle left out where it is longer than `limit` characters by more than saying so takes."""
    if len(text) <= limit + ELLIPSIS:
        return text
    head = limit * 2 // 3
    return f"{text[:head]} […{len(text) - limit:,} characters…] {text[head - limit :]}"
