"""A review decision as a JSON document: checked field by field and sorted, so equal decisions are equal bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from al.errors import DataError

LONGEST_ANSWER = 1_000_000
LONGEST_NOTE = 20_000


def _clean(text: str) -> str:
    """`text` if it can be stored. Raises ValueError."""
    if "\0" in text:
        raise ValueError(f"holds a NUL at character {text.index(chr(0)) + 1}")
    return text


def _answer(text: str) -> str:
    if not text.strip():
        raise ValueError("the answer is empty; remove the entry instead")
    return _clean(text)


Id = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""An example's id: 16 lowercase hexadecimal digits."""
Cluster = Annotated[int, Field(ge=0, le=2**31 - 1)]
Ids = Annotated[list[Id], AfterValidator(lambda ids: sorted(set(ids)))]
Answer = Annotated[str, Field(max_length=LONGEST_ANSWER), AfterValidator(_answer)]
Name = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_clean)]


class Decision(BaseModel, extra="forbid", frozen=True):
    """One review. Every field is optional; an empty decision approves the proposal unchanged."""

    format: Literal[1] = Field(1, description="Version of this document's format.")
    proposal: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{20}$",
        description="Fingerprint of the reviewed selection; if given, it must be the round's.",
    )
    drop: Ids = Field(default=[], description="Ids of examples not to train on, in this round or a later one.")
    pin: Ids = Field(default=[], description="Ids of examples to train on; any that may be picked.")
    ban_clusters: Annotated[list[Cluster], AfterValidator(lambda c: sorted(set(c)))] = Field(
        default=[], description="Clusters whose current members are not trained on, in this round or a later one."
    )
    ban_sources: Annotated[list[Name], AfterValidator(lambda s: sorted(set(s)))] = Field(
        default=[], description="Sources whose current members are not trained on, in this round or a later one."
    )
    quotas: dict[Cluster, Annotated[int, Field(ge=0, le=2**53)]] = Field(
        default={}, description="Total picked from a cluster, in the budget's unit (examples or tokens)."
    )
    answers: dict[Id, Answer] = Field(
        default={}, description="Responses to examples without one, by id. They enter the pool in the next round."
    )
    edits: dict[Id, Answer] = Field(
        default={},
        description="Corrected responses by id. The example as it is stays out, in this round and later ones; with the corrected "
        "response it enters the pool in the next round.",
    )
    note: Annotated[str, Field(max_length=LONGEST_NOTE), AfterValidator(_clean)] = Field(
        default="", description="The reason for the decision; shown in the report."
    )

    @model_validator(mode="after")
    def _no_contradiction(self) -> Decision:
        if both := sorted(set(self.drop) & set(self.pin)):
            raise ValueError(f"{both[0]} is in both drop and pin; remove it from one")
        for name in ("drop", "pin"):
            if both := sorted(set(self.edits) & set(getattr(self, name))):
                raise ValueError(f"{both[0]} is in both edits and {name}; remove it from one")
        if both := sorted(set(self.ban_clusters) & set(self.quotas)):
            raise ValueError(f"group {both[0]} is banned and has a quota; remove it from ban_clusters or quotas")
        return self

    def document(self) -> dict[str, Any]:
        """The decision as sorted JSON values. Without edits it has no such field: it is then byte for byte that of earlier versions."""
        values = self.model_dump(mode="json")
        if not self.edits:
            del values["edits"]
        return {k: dict(sorted(v.items())) if isinstance(v, dict) else v for k, v in values.items()}

    @property
    def removed(self) -> list[str]:
        """Ids of examples that are not trained on as they are: dropped, or replaced by an edited one."""
        return sorted({*self.drop, *self.edits})

    @property
    def changes_nothing(self) -> bool:
        """Whether the decision approves the proposal unchanged."""
        return not (self.removed or self.pin or self.ban_clusters or self.ban_sources or self.quotas)


def parse_decision(values: Any, where: str) -> Decision:
    """Check a document; `where` names it in errors.

    Raises:
        DataError: not a decision; the message names the field and the value found.
    """
    try:
        return Decision.model_validate(values)
    except ValidationError as error:
        raise DataError(f"{where}: not a review decision: " + "; ".join(_explain(e) for e in error.errors())) from None


def read_decision(path: Path) -> Decision:
    """As `parse_decision`, from a JSON file. Raises DataError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}).") from None
    return parse_decision(values, str(path))


def _explain(entry: Any) -> str:
    key = ".".join(str(part) for part in entry["loc"])
    found = "" if entry["type"] in ("value_error", "extra_forbidden") else f", found {str(entry['input'])[:80]!r}"
    return f"`{key}`: {entry['msg']}{found}" if key else f"{entry['msg']}{found}"
