r"""Whether a written answer is right: numbers, choices, yes or no, and short texts are compared by what they say, not by their letters.

    kind     the accepted answers are                      what is read from a written answer
    number   numbers, or end with `#### n` or `\boxed{n}`  the number after the last `####`, in the last \boxed{…}, after the last
                                                           "answer is", or else the last one; compared as exact fractions
    choice   the letter or the text of an option           the letter or the text of one option
    yes_no   yes, no, true or false                        the first of these words, or the one after the last "answer is"
    text     anything else                                 all of it, in lower case, without punctuation and articles

The kind is that of the accepted answers, so a model cannot gain by writing something else. Numbers follow GSM8K's rule (Cobbe et al. 2021,
arXiv 2110.14168: the number after `####`) and MATH's (Hendrycks et al. 2021, arXiv 2103.03874: the last \boxed{…}); texts follow SQuAD's
normalisation (Rajpurkar et al. 2016, arXiv 1606.05250).
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

MARK = "####"
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_CONCLUSION = re.compile(r"\banswer\s*(?:is|:|=)\s*", re.IGNORECASE)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_NUMBER = re.compile(
    r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:e[+-]?\d{1,3})?(?:\s*/\s*\d+)?", re.IGNORECASE
)
_AROUND = re.compile(r"^[\s$€£¥*_`'\"(=≈~]+|[\s$€£¥%*_`'\".,;:!?)°]+$")
_LARGEST_EXPONENT = 300
"""Larger ones are not read as numbers: an exact fraction of 1e999999 would fill the memory."""
_YES_NO = re.compile(r"\b(yes|no|true|false)\b", re.IGNORECASE)
_TRUTH = {"yes": True, "true": True, "no": False, "false": False}
_LETTER = re.compile(r"^\s*[(\[]?([A-Za-z])[)\].:]?\s*$")
_LEADING_LETTER = re.compile(r"^\s*(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])[).:](?=\s|$))")
_NAMED_LETTER = re.compile(
    r"(?i:answer|option|choice)\s*(?i:is|:|=)?\s*[(\[]?(?:([A-Za-z])(?=[)\].,;:!?]|\s*$)|([B-HJ-Z])(?=\s))",
    re.MULTILINE,
)
"""A letter that ends its clause, or a capital that is no word: "the answer is a warm drink" names no option."""
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Verdict:
    """`right`: whether the answer is an accepted one. `kind`: how they were compared. `read`: what was read from the answer, None if
    nothing of its kind was found."""

    right: bool
    kind: str
    read: str | None


def judge(written: str, accepted: Sequence[str], options: Sequence[str] = ()) -> Verdict:
    """Compare a written answer with the `accepted` ones; `options` are the choices of a multiple-choice question, in order.

    Raises:
        ValueError: nothing is accepted.
    """
    if not accepted:
        raise ValueError("judge: expected at least one accepted answer, found none.")
    kind = kind_of(accepted, options)
    read: Callable[[str], object] = {
        "number": final_number,
        "yes_no": truth,
        "choice": lambda text: chosen(text, options),
        "text": plain,
    }[kind]
    found = read(written)
    right = found is not None and any(found == read(text) for text in accepted)
    return Verdict(right, kind, None if found is None else str(found))


def kind_of(accepted: Sequence[str], options: Sequence[str] = ()) -> str:
    """`choice`, `number`, `yes_no` or `text`: the first that all accepted answers are of."""
    if options and all(chosen(text, options) is not None for text in accepted):
        return "choice"
    if all(_is_number(text) for text in accepted):
        return "number"
    if all(text.strip().rstrip(".").lower() in _TRUTH for text in accepted):
        return "yes_no"
    return "text"


def _is_number(text: str) -> bool:
    """Whether a text is a number and nothing else, or says at its end that a number is its answer."""
    if MARK in text or _BOXED.search(text):
        return final_number(text) is not None
    bare = _AROUND.sub("", text)
    return bool(_NUMBER.fullmatch(bare) or _FRACTION.fullmatch(bare)) and final_number(bare) is not None


def final_number(text: str) -> Fraction | None:
    """The number that a text gives as its answer, exact; None if there is none.

    Thousands are separated by commas, decimals by a point; `3/4` and `\\frac{3}{4}` are fractions; currency signs, units and percent signs
    are ignored, so 50% is 50.
    """
    text = text.replace("−", "-").replace("–", "-")
    if MARK in text:
        return _first(text.rpartition(MARK)[2])
    boxed = _last_boxed(text)
    if boxed is not None:
        return _last(boxed)
    parts = _CONCLUSION.split(text)
    found = _first(parts[-1]) if len(parts) > 1 else None
    return _last(text) if found is None else found


def _last_boxed(text: str) -> str | None:
    """What is in the last `\\boxed{…}`, braces inside it matched."""
    found = [match.end() for match in _BOXED.finditer(text)]
    if not found:
        return None
    depth, start = 1, found[-1]
    for at in range(start, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[start:at]
    return text[start:]


def _numbers(text: str) -> list[str]:
    return [
        match.group().strip()
        for match in _NUMBER.finditer(_FRACTION.sub(r" \1/\2 ", text))
        if match.group().strip("- ")
    ]


def _first(text: str) -> Fraction | None:
    return next((value for found in _numbers(text) if (value := _exact(found)) is not None), None)


def _last(text: str) -> Fraction | None:
    return next((value for found in reversed(_numbers(text)) if (value := _exact(found)) is not None), None)


def _exact(number: str) -> Fraction | None:
    """The value of one number as `_NUMBER` finds it; None for x/0 and for exponents that no answer has."""
    over, _, under = number.replace(",", "").replace(" ", "").partition("/")
    exponent = re.search(r"e([+-]?\d+)$", over, re.IGNORECASE)
    if (exponent and abs(int(exponent[1])) > _LARGEST_EXPONENT) or (under and int(under) == 0):
        return None
    return Fraction(over) / (int(under) if under else 1)


def truth(text: str) -> bool | None:
    """Whether a text says yes (or true); None if it says neither. What follows the last "answer is" counts, else the first such word."""
    conclusion = _YES_NO.search(_CONCLUSION.split(text)[-1]) or _YES_NO.search(text)
    return None if conclusion is None else _TRUTH[conclusion[1].lower()]


def chosen(text: str, options: Sequence[str]) -> int | None:
    """Index of the option that a text chooses: by its letter (`B`, `(B)`, `B. tea`, `the answer is B`), or by its words if exactly one
    option is the text, or is in it. None if no option or several are named."""
    letters = [match[1] for match in (_LETTER.match(text),) if match]
    letters += [match[1] or match[2] for match in (_LEADING_LETTER.match(text),) if match]
    letters += [match[1] or match[2] for match in list(_NAMED_LETTER.finditer(text))[-1:]]
    words = plain(text)
    same = [index for index, option in enumerate(options) if plain(option) == words]
    if len(same) == 1:
        return same[0]
    for letter in letters:
        index = ord(letter.upper()) - ord("A")
        if index < len(options):
            return index
    inside = [
        index
        for index, option in enumerate(options)
        if (o := plain(option)) and re.search(rf"\b{re.escape(o)}\b", words)
    ]
    return inside[0] if len(inside) == 1 else None


def plain(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())
