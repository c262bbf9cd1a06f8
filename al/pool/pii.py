"""Masks personal data that Presidio's pattern recognizers find (extra `pii`). Without a language model, names, places and postal
addresses are not found. Card numbers, IBANs and wallets need a valid checksum, e-mail addresses a known top-level domain, phone
numbers a valid numbering plan and the usual notation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from al.errors import ConfigError

Masker = Callable[[str], tuple[str, Counter[str]]]


class Kind(NamedTuple):
    """How one kind is found: Presidio's class and arguments, a cheap pattern that a text must match first (Presidio costs a
    thousand times more), the minimum score, and a pattern that the matched text must match."""

    recognizer: str
    hint: str
    sure: float = 0.5
    arguments: dict[str, Any] = {}
    holds: str = ""


KINDS = {
    "EMAIL_ADDRESS": Kind("EmailRecognizer", r"@"),
    # Presidio's own eight regions and leniency match `3000-1500=` and 0.621371 as phone numbers in 22 of 1,319 gsm8k problems; ours none.
    # Numbers that begin with + are found in the plans of all countries.
    "PHONE_NUMBER": Kind(
        "PhoneRecognizer",
        r"(?:\d[ ().\-/\xa0]{0,3}){7}",
        sure=0.4,  # Presidio's score for a valid number without context words
        arguments={"supported_regions": ("US", "GB"), "leniency": 2},
        holds=r"^\+|\d[ ().\-/\xa0]+\d",
    ),
    "CREDIT_CARD": Kind("CreditCardRecognizer", r"(?:\d[ -]?){12}"),
    "IBAN_CODE": Kind("IbanRecognizer", r"[A-Za-z]{2}\d{2}"),
    "IP_ADDRESS": Kind(
        "IpRecognizer", r"\d\.\d+\.\d|:[0-9A-Fa-f]{0,4}:", holds=r"\d\.\d|(?:[0-9A-Fa-f]+:+){2}"
    ),  # no `a::b`, `[1::2]`
    "US_SSN": Kind("UsSsnRecognizer", r"\d{3}[- .]\d\d[- .]\d{4}"),
    "CRYPTO": Kind("CryptoRecognizer", r"\b(?:bc1|[13])[A-Za-z0-9]{25}"),
    "MAC_ADDRESS": Kind(
        "MacAddressRecognizer", r"[0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-]|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\."
    ),
}


def masker(entities: Sequence[str]) -> Masker:
    """A function from a text to (the text with every match of `entities`, keys of KINDS, replaced by `<KIND>`; number of matches
    by kind).

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        from presidio_analyzer import RecognizerResult
        from presidio_anonymizer import AnonymizerEngine

        finders = [(entity, re.compile(KINDS[entity].hint), _recognizer(entity)) for entity in entities]
    except ImportError as error:
        raise ConfigError(
            f"clean.mask_pii needs Presidio, which is not installed (no module {error.name}): pip install 'winnow-al[pii]', "
            "or pip install presidio-analyzer presidio-anonymizer; or set clean.mask_pii to false."
        ) from None
    engine = AnonymizerEngine()

    def matches(text: str) -> list[RecognizerResult]:
        """All matches of `entities` in `text` with a sufficient score."""
        return [
            match
            for entity, hint, recognizer in finders
            if hint.search(text)
            for match in recognizer.analyze(text, [entity]) or ()
            if match.score >= KINDS[entity].sure and re.search(KINDS[entity].holds, text[match.start : match.end])
        ]

    def mask(text: str) -> tuple[str, Counter[str]]:
        """Replace all matches; returns the text and the number of replacements by kind."""
        found = matches(text)
        if not found:
            return text, Counter()
        masked = engine.anonymize(text, found)
        return masked.text, Counter(item.entity_type for item in masked.items)

    return mask


def _recognizer(entity: str) -> Any:
    from presidio_analyzer import predefined_recognizers

    kind = KINDS[entity]
    recognizer = getattr(predefined_recognizers, kind.recognizer)
    return (_offline(recognizer) if entity == "EMAIL_ADDRESS" else recognizer)(**kind.arguments)


def _offline(parent: Any) -> Any:
    """Presidio's e-mail recognizer with the domain list that ships with tldextract; the original downloads a newer list."""
    import tldextract

    domains = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

    class Email(parent):
        def validate_result(self, pattern_text: str) -> bool:
            """Whether the matched address has a known top-level domain."""
            return domains(pattern_text).fqdn != ""

    return Email
