"""The batch as a file to edit, CSV for spreadsheets or JSON Lines, and the decision in an edited file.

| edit | meaning |
|---|---|
| `keep` = no, or a deleted row | drop the example |
| `keep` = pin | pin it |
| an added row with an `id` of the pool | pin that example; with `keep` = no, drop it permanently |
| an added row with an `id` and a `response`, for an example without one | answer it |

Spreadsheets read text that begins with = + - @ (some also after white space, or full-width) as a formula, and ids of digits alone as
a number. Such text is written with an apostrophe in front and ids with a #; both are removed when the file is read.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from al.errors import ConfigError, DataError
from al.excerpt import counted
from al.review.batch import Batch
from al.review.decision import Decision, parse_decision, read_decision
from al.run.atomic import replaced

KEEP = {"yes": "yes", "y": "yes", "true": "yes", "1": "yes", "": "yes", "no": "no", "n": "no", "false": "no", "0": "no"}
KEEP |= {"pin": "pin"}
# Some programs trim white space and marks without width; the full-width signs are those of East Asian keyboards.
_STARTS = r"(?:[\t\r\n]|[\s\x00-\x1f\ufeff\u200b-\u200f]*[=+\-@＝＋－＠])"
_GUARDED, _FORMULA = re.compile(f"'+{_STARTS}"), re.compile(f"'*{_STARTS}")
_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class EditedRow:
    """One row of an edited file. `line`: where it begins. `proposal`: its origin, empty for a row written by hand."""

    line: int
    keep: str
    id: str
    proposal: str
    prompt: str | None
    response: str | None


def guard(text: str) -> str:
    """`text` in a form that no spreadsheet reads as a formula; `unguard` reverses it."""
    return f"'{text}" if _FORMULA.match(text) else text


def unguard(text: str) -> str:
    """The original of a text written by `guard`."""
    return text[1:] if _GUARDED.match(text) else text


def batch_rows(batch: Batch, taken_out: Set[str] = frozenset()) -> Iterator[dict[str, Any]]:
    """The exported row of each proposed example, in pick order; those whose id is in `taken_out` are not to be kept."""
    names = [entry["name"] for entry in batch.quotas]
    for start in range(0, len(batch.picked), 2000):
        for record in batch.records(batch.picked[start : start + 2000]):
            scores = {name: record[name] for name in batch.scores if name != "length"}
            yield {
                "keep": "no" if record["id"] in taken_out else "yes",
                "id": record["id"],
                "cluster": record["cluster"],
                "cluster_name": names[record["cluster"]],
                "source": record["source"],
                "tokens": record["tokens"],
                **{k: round(v, 4) if v is not None and np.isfinite(v) else None for k, v in scores.items()},
                "reason": batch.why(record),
                "proposal": batch.proposal.fingerprint,
                "prompt": record["prompt"],
                "response": record["response"],
            }


def write_batch(batch: Batch, path: Path, taken_out: Set[str] = frozenset()) -> int:
    """Write the batch to `path`, whole or not at all; returns the number of examples. `taken_out`: as for `batch_rows`.

    Raises:
        ConfigError: neither .csv nor .jsonl. DataError: the file cannot be written, or exists.
    """
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise ConfigError(f"--export {path}: expected a name that ends in .csv or .jsonl.")
    if path.exists():
        raise DataError(f"--export {path}: this file exists and may contain edits; name another one, or remove it.")
    try:
        # Excel reads a CSV as UTF-8 only if it begins with a byte order mark.
        encoding = "utf-8-sig" if path.suffix.lower() == ".csv" else "utf-8"
        with replaced(path) as temporary, temporary.open("w", encoding=encoding, newline="") as handle:
            count = (_write_csv if path.suffix.lower() == ".csv" else _write_jsonl)(
                handle, batch_rows(batch, taken_out)
            )
    except OSError as error:
        raise DataError(f"--export {path}: cannot be written ({error.strerror}).") from None
    return count


def _write_csv(handle: Any, rows: Iterable[dict[str, Any]]) -> int:
    writer, count = None, 0
    for row in rows:
        count += 1
        if writer is None:
            writer = csv.DictWriter(handle, list(row))
            writer.writeheader()
        row |= {name: f"#{row[name]}" for name in ("id", "proposal")}
        writer.writerow({name: guard(value) if isinstance(value, str) else value for name, value in row.items()})
    return count


def _write_jsonl(handle: Any, rows: Iterable[dict[str, Any]]) -> int:
    count = 0
    for row in rows:
        count += 1
        handle.write(json.dumps(row, ensure_ascii=False) + "\n")
    return count


def read_approval(path: Path, batch: Batch) -> tuple[Decision, list[str]]:
    """(decision of a file, notes to print). The file is an edited export or a decision as JSON.

    Raises:
        DataError: it cannot be read, or names something that does not exist; with file and line.
    """
    if path.suffix.lower() == ".json":
        return read_decision(path), []
    rows = list(_read(path))
    _check_proposal(path, rows, batch.proposal.fingerprint)
    known = set(batch.pool.ids.tolist())
    seen: dict[str, int] = {}
    for row in rows:
        if row.id not in known:
            raise DataError(
                f"{path}:{row.line}: no example of the pool has the id {row.id!r}. Copy ids from an export."
            )
        if row.id in seen:
            raise DataError(f"{path}:{row.line}: {row.id} is already in line {seen[row.id]}; remove one of the two.")
        seen[row.id] = row.line
    return _decide(path, rows, batch)


def _decide(path: Path, rows: list[EditedRow], batch: Batch) -> tuple[Decision, list[str]]:
    proposed = batch.pool.ids[batch.picked].tolist()
    ours, listed = set(proposed), {row.id for row in rows}
    if ours and not ours & listed:
        raise DataError(
            f"{path}: contains none of the {len(ours):,} proposed examples; is it the export of another round?"
        )
    waiting = set(batch.pool.ids[~batch.pool.labelled].tolist())
    answers = {row.id: row.response for row in rows if row.id in waiting and (row.response or "").strip()}
    further = [row for row in rows if row.id not in ours and row.id not in answers]
    deleted = [name for name in proposed if name not in listed]
    drop = [row.id for row in rows if row.keep == "no" and row.id not in answers] + deleted
    pin = [row.id for row in rows if row.keep == "pin" and row.id not in answers]
    pin += [row.id for row in further if row.keep == "yes"]
    _check_pins(path, [row for row in rows if row.id in set(pin)], batch)
    document = {"proposal": batch.proposal.fingerprint, "drop": drop, "pin": pin, "answers": answers}
    notes = [f"dropped, because the file lacks them: {counted(len(deleted), 'row')} of the batch"] if deleted else []
    edited = _edited(rows, batch)
    if edited:
        notes.append(
            f"{counted(len(edited), 'edited text')}, first in line {edited[0]}: edits are ignored, and the pool's text is trained on. "
            "Import corrected examples with `pool import` and drop these."
        )
    return parse_decision(document, str(path)), notes


def _check_proposal(path: Path, rows: list[EditedRow], proposal: str) -> None:
    """Raises DataError for an export of another proposal: missing rows would be dropped permanently, added rows pinned."""
    for row in rows:
        if row.proposal not in ("", proposal):
            raise DataError(
                f"{path}:{row.line}: is an export of another proposal ({row.proposal[:40]}) than this round's ({proposal}): the config, "
                "the pool or the budget changed since. Restore them, or export and edit this proposal."
            )


def _check_pins(path: Path, rows: list[EditedRow], batch: Batch) -> None:
    """Raises DataError with the line of the first example that may not be picked."""
    for row in rows:
        try:
            batch.check(Decision(pin=[row.id]))
        except DataError as error:
            raise DataError(f"{path}:{row.line}: {error}") from None


def _edited(rows: list[EditedRow], batch: Batch) -> list[int]:
    """Lines of labelled examples whose texts differ from the pool's. White space is ignored, because spreadsheets change line ends."""
    rows = [row for row in rows if row.prompt is not None and row.response is not None]
    at = batch.rows_of([row.id for row in rows])
    lines = []
    for row, index, record in zip(rows, at.tolist(), batch.records(at), strict=True):
        same = all(
            (a or "").split() == b.split()
            for a, b in ((row.prompt, record["prompt"]), (row.response, record["response"]))
        )
        if not same and batch.pool.labelled[index] and (row.prompt or row.response):
            lines.append(row.line)
    return lines


def _read(path: Path) -> Iterator[EditedRow]:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".jsonl"):
        raise ConfigError(f"--approve {path}: expected an exported .csv or .jsonl, or a decision as .json.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            yield from (_read_csv if suffix == ".csv" else _read_jsonl)(path, handle)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}). Save it as CSV UTF-8.") from None


def _read_csv(path: Path, handle: Any) -> Iterator[EditedRow]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    first = handle.readline()
    handle.seek(0)
    delimiter = max(",;\t", key=first.count)  # spreadsheets write the list separator of their language
    reader = csv.DictReader(handle, delimiter=delimiter, strict=True)
    missing = {"id", "keep"} - set(reader.fieldnames or [])
    if missing:
        raise DataError(
            f"{path}:1: expected the columns keep and id, found {', '.join(reader.fieldnames or ['none'])[:200]}."
        )
    line = reader.line_num + 1
    try:
        for values in reader:
            texts = {k: unguard(v) for k, v in values.items() if isinstance(k, str) and isinstance(v, str)}
            if any(text.strip() for text in texts.values()):
                yield _row(path, line, texts)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{line}: not valid CSV ({error}).") from None


def _read_jsonl(path: Path, handle: Any) -> Iterator[EditedRow]:
    for line, text in enumerate(handle, 1):
        if not text.strip():
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:  # a ValueError: an integer of thousands of digits
            raise DataError(f"{path}:{line}: not valid JSON ({error}).") from None
        if not isinstance(values, dict):
            raise DataError(f"{path}:{line}: expected an object with an id, found {type(values).__name__}.")
        if isinstance(values.get("keep"), bool):
            values["keep"] = "yes" if values["keep"] else "no"
        yield _row(path, line, values)


def _row(path: Path, line: int, values: dict[str, Any]) -> EditedRow:
    keep, name = values.get("keep", ""), values.get("id")
    if not isinstance(keep, str) or keep.strip().lower() not in KEEP:
        raise DataError(f"{path}:{line}: keep: expected yes, no or pin, found {str(keep)[:40]!r}.")
    text = name.strip().removeprefix("#").lower() if isinstance(name, str) else str(name)
    if not _ID.fullmatch(text):
        raise DataError(f"{path}:{line}: id: expected 16 hexadecimal digits as exported, found {text[:40]!r}.")
    texts = (values.get(field) if isinstance(values.get(field), str) else None for field in ("prompt", "response"))
    proposal = str(values.get("proposal") or "").strip().removeprefix("#")
    return EditedRow(line, KEEP[keep.strip().lower()], text, proposal, *texts)
