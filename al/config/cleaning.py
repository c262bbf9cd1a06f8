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
"""What `clean.mask_pii: true` masks: personal data that is recognised by its form."""


class CleanConfig(BaseModel, extra="forbid", frozen=True):
    """What is repaired on import (it changes text, and with it ids), and which examples are left out. Everything is counted."""

    refusals: Literal["keep", "drop"] = Field(
        default="keep",
        description="drop: an example whose response declines the request (\"I'm sorry, but I can't help with that\") is neither picked "
        "nor drawn for dev or test; outcome `refusal`. A model trained on fewer refusals declines less, also where it should, so "
        "this is yours to decide; `pool inspect` counts them either way. English; other languages are not recognised.",
    )
    languages: list[Annotated[str, Field(pattern="^[a-z]{2}$")]] = Field(
        default=[],
        description="ISO 639-1 codes, such as [en, de]: examples in any other language are neither picked nor drawn for dev or test; "
        "outcome `other_language`. Empty: all languages. A row's own `lang` or `language` is believed, the rest is detected (about "
        "2,500 examples/s); texts too short or too mixed to tell are kept.",
    )
    repair_encoding: bool = Field(
        default=False,
        description="Repair text that was decoded with the wrong character set (`â€™` for `’`) on import, with ftfy. It halves the speed "
        "of importing texts that are not ASCII, and what it changes gets another id: a run that was begun without it cannot go on "
        "with it.",
    )
    mask_pii: bool | list[Entity] = Field(
        default=False,
        description="Replace personal data by its kind (`<EMAIL_ADDRESS>`) on import: true for all kinds but MAC_ADDRESS, or a list of "
        "kinds. Needs the extra `pii`. Found by form and checksum; names and postal addresses are not, and phone numbers take most "
        "of the time. Like repair_encoding it changes ids.",
    )

    @property
    def entities(self) -> tuple[str, ...]:
        """The kinds of personal data to mask, in a fixed order; () for none."""
        if isinstance(self.mask_pii, bool):
            return ENTITIES if self.mask_pii else ()
        return tuple(sorted(set(self.mask_pii)))

    def repairs(self) -> dict[str, Any]:
        """What is repaired on import, as JSON values that belong to a pool's identity; {} for nothing."""
        encoding = {"encoding": True} if self.repair_encoding else {}
        return encoding | ({"pii": list(self.entities)} if self.entities else {})
