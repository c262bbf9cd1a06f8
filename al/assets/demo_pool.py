"""The demo pool: about a thousand rows of the community tasks in the `evals` wheel (MIT), one JSONL file per task.

The recipe gives the same bytes on every machine:

1. Of every task in `TASKS`, the wanted number of rows in the order of a hash of their line, without rows that lack
   an answer, repeat a question or have more than about `LONGEST` tokens. Only `input` and `ideal` are kept.
2. Faults that occur in real pools, generated here and marked with a field `made`: near-duplicates (`REPHRASINGS`), exact
   duplicates in another file, rows without an answer, over-long rows; and `BROKEN` lines, which cannot be read.

Folders that the wheel's LICENSE.md lists as not MIT are not read. LICENSE.md is copied with the rows.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

Row = dict[str, Any]

DATA = "evals/registry/data/"
LICENSE = "evals-3.0.1.post1.dist-info/LICENSE.md"
NOT_MIT = ("text_compression", "steganography", "schelling_point", "ballots", "sandbagging", "theory_of_mind",
           "already_said_that")  # fmt: skip
LONGEST = 160  # estimated tokens; the demo drops longer examples
LINES_READ = 30_000  # per task; one file has 280,000

# Tasks and the number of rows of each. A name means DATA/name.jsonl or DATA/name/samples.jsonl.
TASKS = {
    # labels
    "food": 28, "event_categories": 24, "product-matching/zeroshot": 16, "soc_codes": 40, "syntax-check": 8,
    "regex-match": 16, "color_theory/complementary": 8, "portuguese-sarcasm": 16, "russian_sarcasm": 8,
    "categorize_with_distractors": 16,
    # facts
    "cissp-study-questions": 20, "medmcqa": 20, "utah_real_estate": 16, "test_comp_sci/questions": 8,
    "aba_mrpc_true_false": 16, "born_first/born_first": 16, "compare-countries-area": 16, "mandaliof-table": 8,
    "music_theory_scale_modes": 12, "map-electronic-component-part-to-fact": 8, "security_guide": 8,
    "financial-derivatives/questions": 8,
    # reasoning
    "quartz": 60, "crepe": 20, "logic-statements/logic-statements": 16, "logical_counting": 32, "escher_sentences": 12,
    "ambiguous-sentences": 12, "which_is_heavier/which_is_heavier": 16, "rectangles": 12,
    "counterfactual-reasoning/counterfactual_reasoning_samples": 8,
    # maths and code
    "positive-binary-operations": 36, "formal_logic/formal_logic_expressions": 16, "determinant": 12,
    "next-val-series/next-val-series": 12, "missing_operators": 8, "recurrence-relation": 16,
    "beam_analysis/beam-analysis": 8, "sort_numeric": 12, "css-selectors/verbal": 8, "crontab": 8,
    "python_list_comprehension": 8, "smiles_to_formula": 12,
    # words
    "anagrams": 16, "first-letters": 16, "last_word_nth": 16, "swap-words": 12, "partially_solved_crossword_clues": 10,
    "syllables_long_words/long_word_samples": 20, "bigrams": 8,
    # languages
    "french-lexicon": 12, "spanish-lexicon": 36, "dutch-rhymes": 8, "italian_rhyme": 8, "swedish-spelling": 10,
    "math_polish": 10, "spanish_feminine_noun_masculine_article": 8,
    "indonesian_numbers/indonesian_numbers": 12, "korean_romanization": 8,
    "japanese_number_reading/japanese_number_reading": 10, "japanese_approval": 8, "latin_grammar": 8,
    "thirty_six_stratagems": 8, "sindarin_fluency/sindarin_nouns": 10,
    "skill_acquisition/miskito/variants/miskito_test_translation": 20, "manga-translation/bubbles": 12,
    # dates
    "imperial_date_to_string": 36, "european_date_format_challenge": 12,
}  # fmt: skip

# Tasks whose questions keep their meaning when rephrased, and tasks whose rows may be repeated in another file.
REPHRASED = {"quartz": 5, "soc_codes": 4, "crepe": 3, "logical_counting": 3, "event_categories": 2,
             "cissp-study-questions": 2, "aba_mrpc_true_false": 1}  # fmt: skip
REPHRASINGS: tuple[Callable[[str], str], ...] = (
    str.lower,
    lambda question: f"{question.rstrip(' .?!')} ...",
    lambda question: f"Question: {question}",
    lambda question: re.sub(r"\b(the|a|an) ", "", question, count=1),
    lambda question: question.replace(" ", "  ", 3).replace(",", " ,"),
)
REPEATED = {"quartz": "crepe", "imperial_date_to_string": "european_date_format_challenge",
            "spanish-lexicon": "french-lexicon", "anagrams": "swap-words",
            "first-letters": "last_word_nth"}  # fmt: skip
UNANSWERED = ("soc_codes", "spanish-lexicon", "anagrams", "quartz", "positive-binary-operations", "food", "medmcqa",
              "swap-words", "imperial_date_to_string", "logical_counting")  # fmt: skip
OVER_LONG = ("quartz", "soc_codes", "imperial_date_to_string", "crepe", "logical_counting", "event_categories")
JOINED = 16  # questions in one over-long row

BROKEN = {
    "crepe": '{"input": [{"role": "user", "content": "Is this line complete?"}], "ideal": "No',
    "food": '{"input": [{"role": "user", "content": "Is a brick a food item?"}]}',
    "regex-match": '{"input": [{"role": "user", "content": "   "}], "ideal": "Yes."}',
    "born_first": '{"input": 1789, "ideal": ["Y", {"answer": "N"}]}',
    "rectangles": '{"input": [{"role": "narrator", "content": "A = ([0, 1], [0, 1])"}], "ideal": "Yes"}',
    "determinant": '{"input": [{"role": "user", "content": ["[[1, 0], [0, 1]]"]}], "ideal": "1.00"}',
    "swap-words": '["Swap the words in this string", "string this in words the Swap"]',
    "italian_rhyme": '{"prompt_text": "pane, cane", "rhymes": true}',
}


_TOKENS = re.compile(r"[A-Za-z]+|\S")


def build_demo_pool(wheel: Path, directory: Path) -> None:
    """Write the pool's files into the existing, empty `directory`."""
    with zipfile.ZipFile(wheel) as archive:
        spare = {file_stem(task): _usable_rows(archive, task) for task in TASKS}
        files = {file_stem(task): list(islice(spare[file_stem(task)], count)) for task, count in TASKS.items()}
        _add_faults(files, spare)
        (directory / "LICENSE.md").write_bytes(archive.read(LICENSE))
    for stem, rows in files.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        if stem in BROKEN:
            lines.insert(3, BROKEN[stem])
        (directory / f"{stem}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def file_stem(task: str) -> str:
    """Name of a task's file: its first folder."""
    return task.split("/")[0]


def estimated_tokens(messages: list[Mapping[str, str]]) -> float:
    """Estimated tokens of a conversation under SmolLM2's chat template: 0.9 to 1.4 times the true number."""
    if messages[0]["role"] != "system":
        # The template puts a system message first.
        return 20 + estimated_tokens([{"role": "system", "content": ""}, *messages])
    total = 0.0
    for message in messages:
        total += 5 + message["content"].count("\n")
        for piece in _TOKENS.findall(message["content"]):
            total += 1.2 if piece > "\x7f" else 1 if len(piece) == 1 else 1.4 + max(0, len(piece) - 7) / 3
    return total


def _usable_rows(archive: zipfile.ZipFile, task: str) -> Iterator[Row]:
    """The usable rows of a task, each question once, in the order of a hash of their lines."""
    if file_stem(task) in NOT_MIT:
        raise ValueError(f"{task}: not under the MIT licence")
    names = (f"{DATA}{task}.jsonl", f"{DATA}{task}/samples.jsonl")
    with archive.open(next(name for name in names if name in archive.NameToInfo)) as stream:
        lines = [line.strip() for line in islice(stream, LINES_READ)]
    seen = set()
    for line in sorted(lines, key=lambda line: blake2b(line, key=task.encode()[:64]).digest()):
        row = _row(line)
        if row is not None and (question := json.dumps(row["input"])) not in seen:
            seen.add(question)
            yield row


def _row(line: bytes) -> Row | None:
    """Input (as messages) and ideal of a line, or None if one is missing or the line is too long."""
    try:
        found = json.loads(line)
        messages, ideal = found["input"], found["ideal"]
    except (ValueError, KeyError):
        return None
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    answers = ideal if isinstance(ideal, list) else [ideal]
    texts = [*(message.get("content") for message in messages), *answers]
    if not answers or not all(isinstance(text, str) and text.strip() for text in texts):
        return None
    messages = [{"role": message["role"], "content": message["content"]} for message in messages]
    whole = [*messages, {"role": "assistant", "content": answers[0]}]
    usable = messages[-1]["role"] != "assistant" and estimated_tokens(whole) <= LONGEST
    return {"input": messages, "ideal": ideal} if usable else None


def _add_faults(files: dict[str, list[Row]], spare: Mapping[str, Iterator[Row]]) -> None:
    """Append the faults of real pools: repeated, rephrased, unanswered and over-long rows."""
    rephrased = [(stem, files[stem][index]) for stem, count in REPHRASED.items() for index in range(count)]
    repeated = [(target, files[stem][0]) for stem, target in REPEATED.items()]
    for number, (stem, row) in enumerate(rephrased):
        files[stem].append({**_rephrase(row, number), "made": "near_duplicate"})
    for target, row in repeated:
        files[target].append({**row, "made": "exact_duplicate"})
    for number, stem in enumerate(UNANSWERED):
        files[stem].append({**next(spare[stem]), "ideal": None if number % 4 else "", "made": "unanswered"})
    for stem in OVER_LONG:
        files[stem].append({**_join(list(islice(spare[stem], JOINED))), "made": "over_long"})


def _rephrase(row: Row, number: int) -> Row:
    """The row with its last message rephrased by the first rule, counted from `number`, that changes it."""
    *before, last = row["input"]
    rules = [REPHRASINGS[(number + turn) % len(REPHRASINGS)] for turn in range(len(REPHRASINGS))]
    content = next(text for rule in rules if (text := rule(last["content"])) != last["content"])
    return {"input": [*before, {**last, "content": content}], "ideal": row["ideal"]}


def _join(rows: list[Row]) -> Row:
    """One row that asks the questions of all rows."""
    questions = "\n\n".join(row["input"][-1]["content"] for row in rows)
    replies = [row["ideal"][0] if isinstance(row["ideal"], list) else row["ideal"] for row in rows]
    return {"input": [*rows[0]["input"][:-1], {"role": "user", "content": questions}], "ideal": "\n".join(replies)}
