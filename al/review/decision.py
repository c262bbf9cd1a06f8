"""What a review decides, as a JSON document: checked field by field, sorted, so that equal decisions are equal bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from al.errors import DataError

LONGEST_ANSWER = 1_000_000
LONGEST_NOTE = 20_000


def _clean(text: str) -> str:
    """Text that can be stored. Raises ValueError."""
    if "\0" in text:
        raise ValueError(f"holds a NUL at character {text.index(chr(0)) + 1}")
    return text


def _answer(text: str) -> str:
    if not text.strip():
        raise ValueError("the answer is empty; leave the example out instead")
    return _clean(text)


Id = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""An example's id: 16 lowercase hexadecimal digits."""
Cluster = Annotated[int, Field(ge=0, le=2**31 - 1)]
Ids = Annotated[list[Id], AfterValidator(lambda ids: sorted(set(ids)))]
Answer = Annotated[str, Field(max_length=LONGEST_ANSWER), AfterValidator(_answer)]
Name = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_clean)]


class Decision(BaseModel, extra="forbid", frozen=True):
    """One review. Nothing in it is required; an empty one approves the proposal as it is."""

    format: Literal[1] = Field(1, description="Version of this document's format.")
    proposal: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{20}$",
        description="Fingerprint of the selection that was read; checked against the round's where it is given.",
    )
    drop: Ids = Field(default=[], description="Ids of examples that are not trained on, in this round or a later one.")
    pin: Ids = Field(default=[], description="Ids of examples that are trained on; any that can be picked.")
    ban_clusters: Annotated[list[Cluster], AfterValidator(lambda c: sorted(set(c)))] = Field(
        default=[], description="Clusters whose present members are not trained on, in this round or a later one."
    )
    ban_sources: Annotated[list[Name], AfterValidator(lambda s: sorted(set(s)))] = Field(
        default=[], description="Sources whose present members are not trained on, in this round or a later one."
    )
    quotas: dict[Cluster, Annotated[int, Field(ge=0, le=2**53)]] = Field(
        default={}, description="How much is picked of a cluster, in the budget's unit (examples or tokens)."
    )
    answers: dict[Id, Answer] = Field(
        default={}, description="Responses to examples without one, by id. They are in the pool from the next round on."
    )
    note: Annotated[str, Field(max_length=LONGEST_NOTE), AfterValidator(_clean)] = Field(
        default="", description="Why; shown in the report."
    )

    @model_validator(mode="after")
    def _no_contradiction(self) -> Decision:
        if both := sorted(set(self.drop) & set(self.pin)):
            raise ValueError(f"{both[0]} is in both drop and pin; take it out of one")
        if both := sorted(set(self.ban_clusters) & set(self.quotas)):
            raise ValueError(f"cluster {both[0]} is banned and has a quota; take it out of ban_clusters or quotas")
        return self

    def document(self) -> dict[str, Any]:
        """The decision as sorted JSON values."""
        values = self.model_dump(mode="json")
        return {k: dict(sorted(v.items())) if isinstance(v, dict) else v for k, v in values.items()}

    @property
    def changes_nothing(self) -> bool:
        """Whether the proposal is approved as it is."""
        return not (self.drop or self.pin or self.ban_clusters or self.ban_sources or self.quotas)


def parse_decision(values: Any, where: str) -> Decision:
    """Check a document; `where` names it in errors.

    Raises:
        DataError: not a decision, with the field and what was found.
    """
    try:
        return Decision.model_validate(values)
    except ValidationError as error:
        raise DataError(f"{where}: not a review decision: " + "; ".join(_explain(e) for e in error.errors())) from None


def read_decision(path: Path) -> Decision:
    """As `parse_decision`, of a JSON file. Raises DataError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}).") from None
    return parse_decision(values, str(path))


def _explain(entry: Any) -> str:
    key = ".".join(str(part) for part in entry["loc"])
    found = "" if entry["type"] in ("value_error", "extra_forbidden") else f", found {str(entry['input'])[:80]!r}"
    return f"`{key}`: {entry['msg']}{found}" if key else f"{entry['msg']}{found}"
