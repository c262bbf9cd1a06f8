r"""Whether a written answer is right: numbers, choices, yes or no, expressions and short texts are compared by what they say.

    kind     the accepted answers are                     what is read from a written answer
    number   numbers, or end with `#### n` or             the number after the first `####`, in the last \boxed{…}, after the last
             `\boxed{n}`                                  "answer is", or else the last one; compared as exact fractions
    choice   the letter or the text of an option          the letter or the text of one option
    yes_no   yes, no, true or false                       the first of these words, or the one after the last "answer is"
    boxed    expressions in `\boxed{…}`                   the expression in the last \boxed{…}, without spaces
    text     short texts of any other kind                all of it, in lower case, without punctuation and articles
    rouge_l  texts of more than LONGEST_SHORT_TEXT words  all of it; the score is ROUGE-L (al/evaluation/rouge.py), not right or wrong
    code     programs with tests in the metadata          the program; right if the tests pass (al/evaluation/code.py)

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

from al.evaluation.rouge import rouge_l

LONGEST_SHORT_TEXT = 5
"""Words. Two people seldom write the same longer answer, so its exact match says little."""
MARK = "####"
_MARKED = re.compile(r"####[\s*$€£¥]*(?=[-−]?[$\d.\\])")
"""The mark with a number after it: `#### Step 1` is a heading."""
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_CONCLUSION = re.compile(r"\banswer\s*(?:is|:|=)\s*", re.IGNORECASE)
_CLAUSE = re.compile(r"\n|(?<=[\w)}\]%])[.;](?=\s|$)")
_FRACTION = re.compile(
    r"(-?)\s*\\[dt]?frac\s*(?:\{\s*(-?\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))"  # \frac{3}{4}, \frac34
)
_NUMBER = re.compile(
    r"(?<![\w.])-?[$€£¥]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:e[+-]?\d{1,3})?(?:\s*/\s*\d+)?", re.IGNORECASE
)
_AROUND = re.compile(r"^[\s$€£¥*_`'\"(=≈~]+|[\s$€£¥%*_`'\".,;:!?)°]+$")
_LATEX = re.compile(r"\\(?:text|mathrm|mathbf)\s*\{([^{}]*)\}|\\(?:left|right|[!;:]|(?=[$%]))|(?<!\d)\\,|\\,(?!\d)")
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|\\,|[\u00a0\u2009\u202f])(?=\d{3}(?!\d))")
_LARGEST_EXPONENT = 300
"""Larger ones are not read as numbers: an exact fraction of 1e999999 would fill the memory."""
_YES_NO = re.compile(r"\b(not\s+|\w+n['’]t\s+)?(yes|no|true|false)\b", re.IGNORECASE)
_TRUTH = {"yes": True, "true": True, "no": False, "false": False}
_LETTER = re.compile(r"^\W*([A-Za-z])\W*$")
_LEADING_LETTER = re.compile(r"^[\s*_`\"']*(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])[).:](?=[\s*]|$))")
_NAMED_LETTER = re.compile(
    r"(?i:answer|option|choice)\s*(?i:is|:|=)?\s*(?i:option\s+)?[(\[*\"'$]*"
    r"(?:([A-Za-z])(?=[)\].,;:!?*\"'$]|\s*$)|([B-HJ-Z])(?=\s))",
    re.MULTILINE,
)
"""A letter that ends its clause, or a capital that is no word: "the answer is a warm drink" names no option."""
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_BETWEEN_WORDS = re.compile(r"(?<!\d)[.,:]|[.,:](?!\d)|[!\"#$'();?@\[\\\]_`{}]")
_WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class Verdict:
    """`score`: 1 if the answer is an accepted one, else 0; ROUGE-L (0 to 1) for `rouge_l`. `kind`: how they were compared. `read`: what
    was read from the answer, None if nothing of its kind was found."""

    score: float
    kind: str
    read: str | None

    @property
    def right(self) -> bool:
        """Whether the answer is an accepted one."""
        return self.score == 1.0


def judge(written: str, accepted: Sequence[str], options: Sequence[str] = (), kind: str | None = None) -> Verdict:
    """Compare a written answer with the `accepted` ones; `options` are the choices of a multiple-choice question, in order.

    Args:
        kind: how to compare; None for what `answer_kind` infers.

    Raises:
        ValueError: nothing is accepted, or the kind is not one that texts alone decide.
    """
    if not accepted:
        raise ValueError("judge: expected at least one accepted answer, found none.")
    kind = kind or answer_kind(accepted, options)
    if kind == "rouge_l":
        return Verdict(max(rouge_l(written, text) for text in accepted), kind, written.strip() or None)
    readers: dict[str, Callable[[str], object]] = {
        "number": final_number,
        "yes_no": truth,
        "choice": lambda text: chosen(text, options),
        "boxed": expression,
        "text": normalised,
    }
    if kind not in readers:
        raise ValueError(f"judge: expected a kind of {', '.join(readers)} or rouge_l, found {kind!r}.")
    found = readers[kind](written)
    right = found is not None and any(found == readers[kind](text) for text in accepted)
    return Verdict(float(right), kind, None if found is None else str(found))


def answer_kind(accepted: Sequence[str], options: Sequence[str] = ()) -> str:
    """`choice`, `number`, `yes_no`, `boxed`, `rouge_l` or `text`: the first that all accepted answers are of."""
    if options and all(_is_option(text, options) for text in accepted):
        return "choice"
    if all(_is_number(text) for text in accepted):
        return "number"
    if all(text.strip().rstrip(".").lower() in _TRUTH for text in accepted):
        return "yes_no"
    if all(expression(text) is not None for text in accepted):
        return "boxed"
    return "rouge_l" if all(count_words(text) > LONGEST_SHORT_TEXT for text in accepted) else "text"


def count_words(text: str) -> int:
    """Words of two letters and more: a formula has none."""
    return len(_WORD.findall(text))


def _is_option(text: str, options: Sequence[str]) -> bool:
    """Whether a text is the letter or the words of an option, or both, and nothing else."""
    at = chosen(text, options)
    if at is None:
        return False
    letter = chr(ord("A") + at)
    return normalised(text) in (normalised(letter), normalised(options[at]), normalised(f"{letter}. {options[at]}"))


def _is_number(text: str) -> bool:
    """Whether a text is a number and nothing else, or says at its end that a number is its answer."""
    boxed = _last_boxed(text)
    if MARK in text:
        return final_number(text) is not None
    bare = _AROUND.sub("", _AROUND.sub("", _cleaned(text if boxed is None else boxed)))
    return bool(_NUMBER.fullmatch(bare)) and _exact(bare) is not None


def final_number(text: str) -> Fraction | None:
    """The number that a text gives as its answer, exact; None if there is none.

    Thousands are separated by commas or narrow spaces, decimals by a point; `3/4` and `\\frac{3}{4}` are fractions; currency signs, units
    and percent signs are ignored, so 50% is 50. Where the answer is a calculation (`3 * 4 = 12`), its result counts.
    """
    if MARK in text:
        marked = _MARKED.search(text)
        return _result(_cleaned(text[marked.end() :] if marked else text.rpartition(MARK)[2]))
    boxed = _last_boxed(text)
    if boxed is not None:
        return _last(_cleaned(boxed))
    parts = _CONCLUSION.split(text)
    found = _result(_cleaned(parts[-1])) if len(parts) > 1 else None
    return _last(_cleaned(text)) if found is None else found


def _cleaned(text: str) -> str:
    """With plain minus signs and thousands, LaTeX's fractions as `3/4`, and without the commands that only set type."""
    text = _THOUSANDS.sub("", text.replace("−", "-").replace("–", "-"))
    text = _FRACTION.sub(lambda m: f" {m[1]}{m[2] or m[3]}/{m[4] or m[5]} ", text)
    return _LATEX.sub(lambda m: m[1] or "", text)


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


def expression(text: str) -> str | None:
    """The expression in the last `\\boxed{…}` without spaces and commands that only set type; None if there is none."""
    boxed = _last_boxed(text)
    if boxed is None:
        return None
    spelled = re.sub(r"\\[dt]frac", r"\\frac", _LATEX.sub(lambda m: m[1] or "", boxed))
    return re.sub(r"\s|\$|\.$", "", spelled) or None


def _numbers(text: str) -> list[str]:
    return [match.group().strip() for match in _NUMBER.finditer(text) if match.group().strip("-$€£¥ ")]


def _result(text: str) -> Fraction | None:
    """The number that a conclusion names first, or what its first clause says that it equals."""
    clause = next((part for part in _CLAUSE.split(text) if _first(part) is not None), text)
    found = _first(clause.rpartition("=")[2]) if "=" in clause else None
    return _first(clause) if found is None else found


def _first(text: str) -> Fraction | None:
    return next((value for found in _numbers(text) if (value := _exact(found)) is not None), None)


def _last(text: str) -> Fraction | None:
    return next((value for found in reversed(_numbers(text)) if (value := _exact(found)) is not None), None)


def _exact(number: str) -> Fraction | None:
    """The value of one number as `_NUMBER` finds it; None for x/0 and for exponents that no answer has."""
    over, _, under = re.sub(r"[,\s$€£¥]", "", number).partition("/")
    exponent = re.search(r"e([+-]?\d+)$", over, re.IGNORECASE)
    if (exponent and abs(int(exponent[1])) > _LARGEST_EXPONENT) or (under and int(under) == 0):
        return None
    return Fraction(over) / (int(under) if under else 1)


def truth(text: str) -> bool | None:
    """Whether a text says yes (or true, or not false); None if it says neither. What follows the last "answer is" counts, else the first
    such word."""
    found = _YES_NO.search(_CONCLUSION.split(text)[-1]) or _YES_NO.search(text)
    return None if found is None else _TRUTH[found[2].lower()] != bool(found[1])


def chosen(text: str, options: Sequence[str]) -> int | None:
    """Index of the option that a text chooses: by its letter (`B`, `(B)`, `B. tea`, `the answer is B`), or by its words if exactly one
    option is the text, or is in it (not as a part of another one). None if no option or several are named."""
    letters = [match[1] for match in (_LETTER.match(text),) if match]
    letters += [match[1] or match[2] for match in (_LEADING_LETTER.match(text),) if match]
    letters += [match[1] or match[2] for match in list(_NAMED_LETTER.finditer(text))[-1:]]
    words, said = normalised(text), [normalised(option) for option in options]
    same = [index for index, option in enumerate(said) if option == words]
    if len(same) == 1:
        return same[0]
    for letter in letters:
        index = ord(letter.upper()) - ord("A")
        if index < len(options):
            return index
    named = {index: option for index, option in enumerate(said) if option and _inside(option, words)}
    whole = [i for i, option in named.items() if not any(_inside(option, o) for j, o in named.items() if j != i)]
    return whole[0] if len(whole) == 1 else None


def _inside(words: str, text: str) -> bool:
    return bool(re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text))


def normalised(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces. Where there are digits, signs and separators of numbers stay: -5 is not
    5, nor 0.5 05. A text of nothing but punctuation and articles keeps them: `a` and `)` are answers too."""
    bare = " ".join(text.lower().split())
    words = _BETWEEN_WORDS.sub("", bare) if re.search(r"\d", bare) else bare.translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", words).split()) or bare
