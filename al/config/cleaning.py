"""The `clean:` section of the configuration. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

Entity = Literal[
    "EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS", "US_SSN", "CRYPTO", "MAC_ADDRESS"
]
ENTITIES: tuple[str, ...] = (
    "EMAIL_ADDRESS",
    "PHONE_NUMBER",
    "CREDIT_CARD",
    "IBAN_CODE",
    "IP_ADDRESS",
    "US_SSN",
    "CRYPTO",
)
"""The kinds of personal data that `clean.mask_pii: true` masks; all are recognised by their form."""


class CleanConfig(BaseModel, extra="forbid", frozen=True):
    """Repairs on import (they change text and ids), and examples to exclude. All changes are counted."""

    refusals: Literal["keep", "drop"] = Field(
        default="keep",
        description="drop: an example whose response declines the request (\"I'm sorry, but I can't help with that\") is neither picked "
        "nor drawn for dev or test; outcome `refusal`. A model trained on fewer refusals declines less, also where it should; "
        "`pool inspect` counts them with either setting. English only.",
    )
    languages: list[Annotated[str, Field(pattern="^[a-z]{2}$")]] = Field(
        default=[],
        description="ISO 639-1 codes, such as [en, de]: examples in any other language are neither picked nor drawn for dev or test; "
        "outcome `other_language`. Empty: all languages. A row's own `lang` or `language` is used, otherwise it is detected (about "
        "2,500 examples/s). Texts too short or too mixed to decide are kept.",
    )
    repair_encoding: bool = Field(
        default=False,
        description="Repair text that was decoded with the wrong character set (`â€™` for `’`) on import, with ftfy. It halves the "
        "import speed of texts that are not ASCII. Changed examples get another id, so a run started without it cannot continue "
        "with it.",
    )
    mask_pii: bool | list[Entity] = Field(
        default=False,
        description="Replace personal data by its kind (`<EMAIL_ADDRESS>`) on import: true for all kinds but MAC_ADDRESS, or a list of "
        "kinds. Needs the extra `pii`. Detected by form and checksum, so names and postal addresses are not found. Phone numbers "
        "take most of the time. Like repair_encoding it changes ids.",
    )

    @property
    def entities(self) -> tuple[str, ...]:
        """The kinds of personal data to mask, in a fixed order; () for none."""
        if isinstance(self.mask_pii, bool):
            return ENTITIES if self.mask_pii else ()
        return tuple(sorted(set(self.mask_pii)))

    def repairs(self) -> dict[str, Any]:
        """The repairs on import as JSON values, part of a pool's identity; {} for none."""
        encoding = {"encoding": True} if self.repair_encoding else {}
        return encoding | ({"pii": list(self.entities)} if self.entities else {})
