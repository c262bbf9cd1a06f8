"""Repairs on import: they change the text, and so the id of the example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from al.config.cleaning import CleanConfig
from al.pool.formats import RowError, Turn
from al.pool.pii import masker

ENCODING, PII = "repaired_encoding", "masked_pii"
"""Counts of changed examples; `masked_pii_<kind>` counts the places of each kind of personal data."""


class Repair:
    """Applies `clean.repair_encoding` and `clean.mask_pii`, in this order, to the texts of an example."""

    def __init__(self, clean: CleanConfig):
        """Load the packages that the switches need. Raises ConfigError if one is not installed."""
        self.identity = clean.repairs()
        self._decode = _encoding_fixer() if clean.repair_encoding else None
        self._mask = None
        if clean.entities:
            self._mask = masker(clean.entities)

    def apply(self, turns: list[Turn], adjusted: Counter[str]) -> list[Turn]:
        """The repaired turns of one example; `adjusted` counts the changes."""
        tally: Counter[str] = Counter()
        repaired = [type(turn)((turn[0], self._text(turn[1], tally))) for turn in turns]
        _count_example(tally, adjusted)
        return repaired

    def texts(self, texts: list[str]) -> list[str]:
        """The repaired accepted answers. They are not counted: an example counts by its turns."""
        return [self._text(text, Counter()) for text in texts]

    def fields(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """The other fields of a row with all text in them repaired; field names do not change. Not counted either.

        Raises:
            RowError: invalid_json, nested too deeply.
        """
        try:
            return {name: self._value(value) for name, value in metadata.items()}
        except RecursionError:
            raise RowError("invalid_json", "nested too deeply") from None

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value, Counter())
        if isinstance(value, dict):
            return {name: self._value(item) for name, item in value.items()}
        return [self._value(item) for item in value] if isinstance(value, list) else value

    def _text(self, text: str, tally: Counter[str]) -> str:
        if self._decode is not None and not text.isascii():
            fixed = self._decode(text)
            tally[ENCODING] += fixed != text
            text = fixed
        if self._mask is not None:
            text, kinds = self._mask(text)
            for kind, count in kinds.items():
                tally[f"{PII}_{kind.lower()}"] += count
        return text


def make_repair(clean: CleanConfig) -> Repair | None:
    """The repairs that `clean` asks for, or None, so that nothing is loaded or called."""
    return Repair(clean) if clean.repairs() else None


def _count_example(tally: Counter[str], adjusted: Counter[str]) -> None:
    masked = {name: count for name, count in tally.items() if name.startswith(PII)}
    adjusted.update(masked)
    if masked:
        adjusted[PII] += 1
    if tally[ENCODING]:
        adjusted[ENCODING] += 1


def _encoding_fixer() -> Callable[[str], str]:
    """The text with ftfy's repair of wrong decoding only. Curly quotes, ligatures, full-width letters and escaped HTML do not
    change, because all of them are correct in some pool."""
    import ftfy

    config = ftfy.TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        fix_surrogates=False,
        remove_control_chars=False,
        normalization=None,
        explain=False,
    )
    return lambda text: ftfy.fix_text(text, config)
