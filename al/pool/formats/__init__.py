"""Row formats: how a raw row (a dict) becomes examples.

A format is one function with the `row_format` decorator. Detection uses only the row's field names, so a file
may mix formats, and detection costs one lookup per distinct set of names. The first match wins, in order of
definition, more specific formats first: exports (`exported`), conversations (`chat`), trees, single questions
(`single`), all others (`plain`).
"""

from al.pool.formats import exported, chat, trees, single, plain  # noqa: I001, F401  (the order in which formats are tried)
from al.pool.formats.base import FORMATS, Example, Format, Gathering, Row, RowError, Turn, row_format
from al.pool.formats.detect import detect, recognise, unknown_row
from al.pool.formats.turns import ROLES, read_turns

__all__ = [
    "FORMATS",
    "ROLES",
    "Example",
    "Format",
    "Gathering",
    "Row",
    "RowError",
    "Turn",
    "detect",
    "read_turns",
    "recognise",
    "row_format",
    "unknown_row",
]
