"""For every preset a few rows with exactly the fields that its card shows, written for these tests, and repositories that hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from al.pool.preset_table import Preset

Row = dict[str, Any]


def openai(*said: str) -> list[Row]:
    return [{"content": text, "role": ("user", "assistant")[i % 2]} for i, text in enumerate(said)]


def shared(*said: str) -> list[Row]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(said)]


def oasst(identity: str, parent: str | None, text: str, rank: int | None) -> Row:
    return {
        "message_id": identity, "parent_id": parent, "user_id": "u", "created_date": "2023-02-05T14:23:50", "text": text,
        "role": "assistant" if parent else "prompter", "lang": "en", "review_count": 3, "review_result": True,
        "deleted": False, "rank": rank, "synthetic": False, "model_name": None, "detoxify": None,
        "message_tree_id": "m1", "tree_state": "ready_for_export", "emojis": None, "labels": None,
    }  # fmt: skip


_ALPACA = {"instruction": "Say A.", "input": "", "output": "A"}
_FLAN = {
    "inputs": "Say A.",
    "targets": "A",
    "_template_idx": 1,
    "_task_source": "CoT",
    "_task_name": "x",
    "_template_type": "zs_opt",
}
_SQUAD = {
    "id": "1",
    "title": "T",
    "context": "It is A.",
    "question": "What?",
    "answers": {"text": ["A"], "answer_start": [6]},
}
_ARC = {"id": "1", "question": "Which?", "choices": {"text": ["one", "two"], "label": ["A", "B"]}, "answerKey": "A"}
_OASST = [oasst("m1", None, "Say A.", None), oasst("m2", "m1", "B", 1), oasst("m3", "m1", "A", 0)]

ROWS: dict[str, list[Row]] = {
    "databricks-dolly-15k": [{"instruction": "Say A.", "context": "", "response": "A", "category": "open_qa"}],
    "oasst1": _OASST,
    "oasst2": _OASST,
    "openassistant-guanaco": [{"text": "### Human: Say A.### Assistant: A"}],
    "lima": [{"conversations": ["Say A.", "A"], "source": "stackexchange"}],
    "no_robots": [{"prompt": "Say A.", "prompt_id": "1", "messages": openai("Say A.", "A"), "category": "Chat"}],
    "aya": [{"inputs": "Say A.", "targets": "A", "language": "English", "language_code": "eng",
             "annotation_type": "original-annotations", "user_id": "u"}],
    "alpaca-cleaned": [_ALPACA],
    "alpaca": [{**_ALPACA, "text": "### Instruction:\nSay A.\n\n### Response:\nA"}],
    "self-instruct": [{"prompt": "Say A.", "completion": "A"}],
    "ultrachat_200k": [{"prompt": "Say A.", "prompt_id": "1", "messages": openai("Say A.", "A")}],
    "tulu-3-sft-mixture": [{"id": "1", "messages": openai("Say A.", "A"), "source": "ai2-adapt-dev/x"}],
    "tulu-v2-sft-mixture": [{"dataset": "cot", "id": "1", "messages": openai("Say A.", "A")}],
    "openhermes-2.5": [{"custom_instruction": None, "topic": None, "model_name": None, "model": None, "skip_prompt_formatting": False,
                        "category": None, "conversations": [{**turn, "weight": None} for turn in shared("Say A.", "A")],
                        "views": None, "language": None, "id": None, "title": None, "idx": None, "hash": None, "avatarUrl": None,
                        "system_prompt": None, "source": "airoboros2.2"}],
    "sharegpt": [{"id": "1", "conversations": shared("Say A.", "A")}],
    "wildchat": [{"conversation_hash": "h", "model": "gpt-4", "timestamp": "t", "turn": 1, "language": "English",
                  "conversation": [{**turn, "language": "English", "redacted": False, "toxic": False, "turn_identifier": 1}
                                   for turn in openai("Say A.", "A")], "toxic": False, "redacted": False}],
    "lmsys-chat-1m": [{"conversation_id": "1", "model": "vicuna-13b", "conversation": openai("Say A.", "A"), "turn": 1,
                       "language": "English", "openai_moderation": [{"flagged": False}], "redacted": False}],
    "hh-rlhf": [{"chosen": "\n\nHuman: Say A.\n\nAssistant: A", "rejected": "\n\nHuman: Say A.\n\nAssistant: B"}],
    "hermes-function-calling": [{"id": "1", "conversations": [{"from": "system", "value": "<tools>[]</tools>"},
                                                              *shared("Say A.", "A")],
                                 "tools": "[]", "category": "c", "subcategory": "s", "task": "t"}],
    "squad": [_SQUAD],
    "squad_v2": [_SQUAD, {**_SQUAD, "id": "2", "question": "Who?", "answers": {"text": [], "answer_start": []}}],
    "boolq": [{"question": "is it A", "answer": True, "passage": "It is A."}],
    "sciq": [{"question": "Which?", "distractor3": "x", "distractor1": "y", "distractor2": "z", "correct_answer": "A", "support": ""}],
    "arc-challenge": [_ARC],
    "arc-easy": [_ARC],
    "openbookqa": [{"id": "1", "question_stem": "Which?", "choices": _ARC["choices"], "answerKey": "A"}],
    "commonsense_qa": [{**_ARC, "question_concept": "c"}],
    "mmlu": [{"question": "Which?", "subject": "x", "choices": ["one", "two", "three", "four"], "answer": 0}],
    "truthful_qa": [{"type": "Adversarial", "category": "Fiction", "question": "Which?", "best_answer": "A", "correct_answers": ["A"],
                     "incorrect_answers": ["B"], "source": "https://example.org"}],
    "Open-Platypus": [{"input": "", "output": "A", "instruction": "Say A.", "data_source": "scienceqa"}],
    "open-platypus-people": [
        {"input": "", "output": "B", "instruction": "Say B.", "data_source": "airoboros"},
        {"input": "", "output": "A", "instruction": "Say A.", "data_source": "scienceqa"},
    ],
    "natural-instructions": [{"task_name": "task1", "id": "task1-1", "definition": "Say it.", "inputs": "A", "targets": "A"}],
    **{name: [_FLAN] for name in ("flan-cot", "flan-2021", "flan-t0", "flan-niv2")},
    "slimorca": [{"conversations": [{**turn, "weight": None} for turn in shared("Say A.", "A")]}],
    "openorca": [{"id": "flan.1", "system_prompt": "", "question": "Say A.", "response": "A"}],
    "code_alpaca": [_ALPACA],
    "magicoder-oss-instruct": [{"lang": "python", "raw_index": 1, "index": 1, "seed": "s", "openai_fingerprint": "f",
                                "problem": "Say A.", "solution": "A"}],
    "magicoder-evol-instruct": [{"instruction": "Say A.", "response": "A"}],
    "mbpp": [{"task_id": 1, "text": "Say A.", "code": "A", "test_list": ["assert True"], "test_setup_code": "",
              "challenge_test_list": []}],
    "gsm8k": [{"question": "Say A.", "answer": "A"}],
    "MetaMathQA": [{"type": "MATH_AnsAug", "query": "Say A.", "original_question": "Say A.", "response": "A"}],
    "numinamath-cot": [{"source": "synthetic_math", "problem": "Say A.", "solution": "A", "messages": openai("Say A.", "A")}],
}  # fmt: skip


def write_repository(root: Path, preset: Preset) -> None:
    """The preset's repository under `root`, laid out as on the hub, each of its splits with the preset's rows."""
    repository = root / preset.path
    repository.mkdir(parents=True, exist_ok=True)
    for split in {preset.split, preset.test or preset.split}:
        rows = ROWS[preset.name] if split == preset.split else [changed(row) for row in ROWS[preset.name]]
        if preset.files is not None:
            write_rows(
                repository
                / preset.files.format(split=split).replace("*.parquet", "0000.parquet").replace("*", "a.parquet"),
                rows,
            )
        else:
            write_rows(repository / (preset.config or "data") / f"{split}-00000-of-00001.parquet", rows)
    if preset.config is not None:
        splits = sorted({preset.split, preset.test or preset.split})
        files = [{"split": split, "path": f"{preset.config}/{split}-*"} for split in splits]
        header = yaml.safe_dump({"configs": [{"config_name": preset.config, "data_files": files}]})
        (repository / "README.md").write_text(f"---\n{header}---\n# A card\n")


def changed(row: Row) -> Row:
    """The row with another text, so that splits can be distinguished."""
    return json.loads(json.dumps(row).replace("Say A.", "Repeat A.").replace("Which?", "Which one?"))


def write_rows(path: Path, rows: list[Row]) -> None:
    """Rows as Parquet, JSON Lines or a JSON array, by the file's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
