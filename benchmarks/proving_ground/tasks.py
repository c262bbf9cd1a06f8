"""Tasks of the proving ground: every usable row of the published files as messages, by the task it belongs to.

A row is {"messages": [{"role", "content"}, ...], "accepted": [answer, ...]}; the last message is the response. Rows longer than
`study_pools.LONGEST` estimated tokens are left out. The order inside a task is a hash of the row, the same on every machine.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from al.assets.demo_pool import estimated_tokens
from benchmarks.study_pools import LONGEST, evals_tasks, read, shuffled

Row = dict[str, Any]
Tasks = dict[str, list[Row]]

P3_DATA_SETS = (
    "adversarial_qa", "ag_news", "amazon_polarity", "app_reviews", "cnn_dailymail", "common_gen", "commonsense_qa", "cosmos_qa",
    "dbpedia_14", "dream", "duorc", "gigaword", "glue_mrpc", "glue_qqp", "imdb", "kilt_tasks_hotpotqa", "multi_news", "paws",
    "qasc", "quarel", "quartz", "quoref", "ropes", "rotten_tomatoes", "samsum", "sciq", "social_i_qa", "trec", "wiki_bio",
    "wiki_hop", "wiki_qa", "wiqa", "xsum", "yelp_review_full",
)  # fmt: skip
"""Data sets of P3 by the first part of their templates' names."""


def conversation(prompt: str, response: str, accepted: Iterable[str] = ()) -> Row:
    """A row of one turn; `accepted` answers count as right as well as the response."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    return {"messages": messages, "accepted": [response, *(a for a in accepted if a != response)]}


def usable(row: Row) -> bool:
    """Whether every message has text and the row is short enough."""
    return all(m["content"].strip() for m in row["messages"]) and estimated_tokens(row["messages"]) <= LONGEST


def evals(wheel: Path) -> Tasks:
    """The community tasks inside the evals wheel (MIT), by file."""
    found = {}
    for name, rows in evals_tasks(wheel):
        tasks = []
        for row in rows:
            answers = row["ideal"] if isinstance(row["ideal"], list) else [row["ideal"]]
            messages = [*row["input"], {"role": "assistant", "content": answers[0]}]
            tasks.append({"messages": messages, "accepted": answers})
        found[f"evals/{name}"] = tasks
    return found


def p3(data: Path) -> Tasks:
    """P3 by template (at most 200 rows each)."""
    found = defaultdict(list)
    for row in read(data / "p3_t0_train_50k.jsonl.gz"):
        made = conversation(str(row["prompt"]), str(row["completion"]).strip())
        if usable(made):
            found[f"p3/{row['template']}"].append(made)
    return {task: _once(shuffled(rows, "proving-ground")) for task, rows in sorted(found.items())}


def p3_data_set(task: str) -> str:
    """The data set that a P3 template belongs to: "p3/imdb_Reviewer_Enjoyment" → "p3/imdb"."""
    template = task.removeprefix("p3/")
    return "p3/" + next(name for name in P3_DATA_SETS if template.startswith(name))


def gsm8k(data: Path) -> Tasks:
    """Grade-school word problems (MIT)."""
    rows = (conversation(r["question"], r["answer"]) for r in read(data / "gsm8k_train.jsonl.gz"))
    return {"gsm8k": _once(shuffled(filter(usable, rows), "proving-ground"))}


def instructions(data: Path) -> Tasks:
    """Code, roleplay, chats and seed tasks by file; tool use by the tools that a row may use."""
    found: Tasks = defaultdict(list)
    for task, file in (("code", "code_alpaca"), ("roleplay", "gpteacher_roleplay"), ("tools", "gpteacher_toolformer")):
        for row in read(data / f"{file}.json.gz"):
            made = conversation("\n".join(filter(None, (row["instruction"], row["input"]))), row["response"])
            found[f"{task}/{_tools(row['instruction'])}" if task == "tools" else task].append(made)
    for row in read(data / "self_instruct_seed_tasks.jsonl.gz"):
        for instance in row["instances"][:1]:
            found["seeds"].append(
                conversation("\n".join(filter(None, (row["instruction"], instance["input"]))), instance["output"])
            )
    for row in read(data / "sharegpt_dummy.json.gz"):
        roles = {"human": "user", "gpt": "assistant"}
        messages = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"][:2]]
        if [m["role"] for m in messages] == ["user", "assistant"]:
            found["chats"].append({"messages": messages, "accepted": [messages[-1]["content"]]})
    return {task: _once(shuffled(filter(usable, rows), "proving-ground")) for task, rows in sorted(found.items())}


def _tools(instruction: str) -> str:
    """Names of the tools that a row's instruction offers, "search+weather"."""
    named = re.search(r"toolformer access: ([a-z, ]+)", instruction)
    return "+".join(sorted(part.strip() for part in named.group(1).split(","))) if named else "none"


def _once(rows: Iterable[Row]) -> list[Row]:
    """The rows without those whose prompt came before."""
    seen: dict[str, Row] = {}
    for row in rows:
        seen.setdefault(json.dumps(row["messages"][:-1]), row)
    return list(seen.values())
