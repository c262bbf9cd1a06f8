"""The pools of the selection study, as files: what to pick from, what to tune on (dev), what is read once (test), what to aim at.

    python benchmarks/study_pools.py --data DIR --evals WHEEL --out DIR

`DIR` holds P3, GSM8K, Code Alpaca, GPTeacher, ShareGPT and self-instruct files; `WHEEL` is evals==3.0.1.post1. Every random choice is a
hash of the row, so the pools are the same on every machine.

    evals    the community tasks in their natural proportions: two tasks are half of it, hundreds have a dozen rows
    p3       294 templates of about equal size
    target   p3, code, roleplay, tool use and 2,000 rows of GSM8K; dev and test are GSM8K. `missing` is the same without the 2,000
    chat     code, roleplay, tool use, chats and seed tasks; nothing is ever tuned on it
    *-noisy  the same pool with the answers of a tenth of its rows exchanged, and near-duplicates of three rows in ten added
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from al.assets.demo_pool import DATA, NOT_MIT, REPHRASINGS, estimated_tokens

Row = dict[str, Any]
Parts = dict[str, list[Row]]
"""Rows by part: pool, dev, test, and target where there is one."""

LONGEST = 512
"""Tokens, estimated; longer rows are left out."""
EVALS_SIZE, EVALS_LEAST = 59_000, 12
"""Rows of the evals pool, and the fewest of a task; smaller tasks are left out."""
HELD = {"dev": 2, "test": 5}
"""Rows of each task held out, where results are averaged over tasks."""
EXCHANGED, REPEATED = 0.10, 0.30


def draw(row: Row, purpose: str) -> float:
    """A number in [0, 1) that belongs to the row."""
    text = json.dumps(row, sort_keys=True).encode()
    return int.from_bytes(blake2b(text, digest_size=8, key=purpose.encode()).digest(), "big") / 2**64


def shuffled(rows: Iterable[Row], purpose: str) -> list[Row]:
    """The rows in the order of their draw."""
    return sorted(rows, key=lambda row: draw(row, purpose))


def evals(wheel: Path) -> Parts:
    """Tasks in proportion to their size; each gives `HELD` rows first."""
    tasks = {name: rows for name, rows in evals_tasks(wheel) if len(rows) >= EVALS_LEAST + sum(HELD.values())}
    parts, rest = hold_out(tasks)
    share = EVALS_SIZE / sum(map(len, rest.values()))
    for rows in rest.values():
        parts["pool"] += rows[: max(EVALS_LEAST, round(share * len(rows)))]
    return parts


def evals_tasks(wheel: Path) -> Iterator[tuple[str, list[Row]]]:
    """Every task with its usable rows, each question once, in random order."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            path = name.removeprefix(DATA)
            if name.startswith(DATA) and name.endswith(".jsonl") and path.split("/")[0] not in NOT_MIT:
                yield path.removesuffix(".jsonl"), list(_usable(archive, name))


def _usable(archive: zipfile.ZipFile, name: str) -> Iterator[Row]:
    seen = set()
    with archive.open(name) as stream:
        lines = sorted(stream, key=lambda line: blake2b(line, digest_size=8).digest())
    for line in lines[: 4 * EVALS_SIZE]:
        row = _evals_row(line)
        if row is not None and (question := json.dumps(row["input"])) not in seen:
            seen.add(question)
            yield row


def _evals_row(line: bytes) -> Row | None:
    try:
        found = json.loads(line)
        messages, ideal = found["input"], found["ideal"]
    except (ValueError, KeyError, TypeError):
        return None
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    answers = ideal if isinstance(ideal, list) else [ideal]
    try:
        texts = [*(message["content"] for message in messages), *answers]
        messages = [{"role": message["role"], "content": message["content"]} for message in messages]
    except (KeyError, TypeError):
        return None
    if not answers or not all(isinstance(text, str) and text.strip() for text in texts):
        return None
    if not messages or messages[-1]["role"] == "assistant":
        return None
    whole = [*messages, {"role": "assistant", "content": answers[0]}]
    return {"input": messages, "ideal": ideal} if estimated_tokens(whole) <= LONGEST else None


def hold_out(tasks: Mapping[str, list[Row]]) -> tuple[Parts, dict[str, list[Row]]]:
    """The first rows of each task for dev and test, which carry the task's name; and what is left of each."""
    parts: Parts = {"pool": [], "dev": [], "test": []}
    rest = {}
    for task, rows in tasks.items():
        start = 0
        for part, count in HELD.items():
            parts[part] += [{**row, "task": task} for row in rows[start : start + count]]
            start += count
        rest[task] = [{**row, "kind": task} for row in rows[start:]]
    return parts, rest


def p3(data: Path) -> Parts:
    """Templates alike; whoever reads these takes rows that share a held-out row's text out of the pool."""
    tasks = defaultdict(list)
    for row in read(data / "p3_t0_train_50k.jsonl.gz"):
        task = str(row.pop("template"))
        if fits(row, "prompt", "completion"):
            tasks[task].append({"prompt": row["prompt"], "completion": row["completion"]})
    parts, rest = hold_out({task: shuffled(rows, "p3") for task, rows in sorted(tasks.items()) if len(rows) > 20})
    parts["pool"] = [row for rows in rest.values() for row in rows]
    return parts


def mixed(data: Path) -> dict[str, list[Row]]:
    """Code, roleplay and tool use, by task."""
    files = {"code": "code_alpaca", "roleplay": "gpteacher_roleplay", "tools": "gpteacher_toolformer"}
    found = {}
    for task, file in files.items():
        rows = [
            {"instruction": r["instruction"], "input": r["input"], "output": r["response"]}
            for r in read(data / f"{file}.json.gz")
        ]
        found[task] = shuffled((row for row in rows if fits(row, "instruction", "input", "output")), task)
    return found


def target(data: Path, held: bool) -> Parts:
    """GSM8K among much else, or (`held` False) much else alone. Half of what the pool does not get is aimed at, half is dev."""
    train = [row for row in shuffled(read(data / "gsm8k_train.jsonl.gz"), "gsm8k") if fits(row, "question", "answer")]
    test = [row for row in shuffled(read(data / "gsm8k_test.jsonl.gz"), "gsm8k") if fits(row, "question", "answer")]
    pool = p3(data)["pool"]
    for task, rows in mixed(data).items():
        pool += [{**row, "kind": task} for row in rows]
    if held:
        pool += [{**row, "kind": "gsm8k"} for row in train[:2000]]
    named = [{**row, "task": "gsm8k"} for row in train[2000:]]
    tests = [{**row, "task": "gsm8k"} for row in test[:500]]
    return {"pool": pool, "target": named[:300], "dev": named[300:600], "test": tests}


def chat(data: Path) -> Parts:
    """What nothing is tuned on: five files, and results by file."""
    tasks = mixed(data)
    tasks["sharegpt"] = shuffled(
        (
            {"conversations": row["conversations"]}
            for row in read(data / "sharegpt_dummy.json.gz")
            if sum(len(turn["value"]) for turn in row["conversations"]) < 4 * LONGEST
        ),
        "sharegpt",
    )
    seeds = [
        {"instruction": row["instruction"], **instance}
        for row in read(data / "self_instruct_seed_tasks.jsonl.gz")
        for instance in row["instances"][:1]
    ]
    tasks["seeds"] = shuffled((row for row in seeds if fits(row, "instruction", "input", "output")), "seeds")
    parts: Parts = {"pool": [], "dev": [], "test": []}
    for task, rows in tasks.items():
        tenth = len(rows) // 10
        parts["dev"] += [{**row, "task": task} for row in rows[: tenth // 4]]
        parts["test"] += [{**row, "task": task} for row in rows[tenth // 4 : tenth + tenth // 4][:150]]
        parts["pool"] += [{**row, "kind": task} for row in rows[tenth + tenth // 4 :]]
    return parts


ANSWERS = ("ideal", "completion", "output", "answer")
QUESTIONS = ("input", "prompt", "instruction", "question")


def noisy(parts: Parts) -> Parts:
    """Exchange answers within a tenth of the pool, and add rows that say the same in other words; both carry a mark."""
    rows = [dict(row) for row in parts["pool"]]
    hit = [row for row in shuffled(rows, "exchange") if _answer(row)][: round(EXCHANGED * len(rows))]
    before = [row[_answer(row)] for row in hit]
    for row, other in zip(hit, [*before[1:], *before[:1]], strict=True):
        key = _answer(row)
        if json.dumps(other) != json.dumps(row[key]):
            row[key], row["planted"] = (other if key == "ideal" or isinstance(other, str) else other[0]), True
    repeated = shuffled(rows, "repeat")[: round(REPEATED * len(rows))]
    rows += [rephrased(row, number) for number, row in enumerate(repeated)]
    return {**parts, "pool": rows}


def _answer(row: Row) -> str:
    return next((key for key in ANSWERS if key in row), "")


def rephrased(row: Row, number: int) -> Row:
    """The row with its question put differently; a chat gets another first turn."""
    rules: list[Callable[[str], str]] = [
        REPHRASINGS[(number + turn) % len(REPHRASINGS)] for turn in range(len(REPHRASINGS))
    ]
    if "conversations" in row:
        first, *others = row["conversations"]
        return {**row, "conversations": [{**first, "value": _changed(first["value"], rules)}, *others], "made": True}
    key = next(key for key in QUESTIONS if key in row and (key != "input" or isinstance(row["input"], list)))
    if key == "input":
        *before, last = row["input"]
        return {**row, "input": [*before, {**last, "content": _changed(last["content"], rules)}], "made": True}
    return {**row, key: _changed(row[key], rules), "made": True}


def _changed(text: str, rules: list[Callable[[str], str]]) -> str:
    return next((new for rule in rules if (new := rule(text)) != text), text + " ")


def fits(row: Row, *fields: str) -> bool:
    """Whether the row has an answer and is short enough."""
    texts = [str(row.get(field) or "") for field in fields]
    content = [{"role": "user", "content": " ".join(texts[:-1])}, {"role": "assistant", "content": texts[-1]}]
    return (
        bool(texts[-1].strip())
        and bool(re.search(r"\S", content[0]["content"]))
        and estimated_tokens(content) <= LONGEST
    )


def read(path: Path) -> Iterator[Row]:
    """Rows of a .jsonl.gz or .json.gz file."""
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        if path.name.endswith(".json.gz"):
            yield from json.load(handle)
        else:
            yield from map(json.loads, handle)


def write(parts: Parts, directory: Path) -> dict[str, int]:
    """One file per part; returns their numbers of rows."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        with (directory / f"{name}.jsonl").open("w", encoding="utf-8") as handle:
            handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return {name: len(rows) for name, rows in parts.items()}


def main() -> None:
    """Write every pool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--evals", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    made = {
        "evals": evals(arguments.evals),
        "p3": p3(arguments.data),
        "target": target(arguments.data, held=True),
        "missing": target(arguments.data, held=False),
        "chat": chat(arguments.data),
    }
    made |= {f"{name}-noisy": noisy(made[name]) for name in ("evals", "p3", "target")}
    for name, parts in made.items():
        print(name, write(parts, arguments.out / name), flush=True)


if __name__ == "__main__":
    main()
