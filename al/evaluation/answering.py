"""One model's written answers with their verdicts, and how likely it finds each choice: one stage per model.

Likelihood: each choice is put as the response, and the choice of the lowest NLL is the model's (Brown et al. 2020, arXiv 2005.14165,
section 2.4; `acc` of lm-evaluation-harness), or that of the lowest NLL per byte (`acc_bytes`). The end-of-turn token does not count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.engine.models import Models
from al.evaluation.asked import Asked
from al.evaluation.generations import prompt_tokens, write_answers
from al.evaluation.questions import Question, judge_answers
from al.run.artifacts import Artifact, fingerprint
from al.run.session import Session
from al.run.shards import Arrays, finish_shards, read_shards
from trainer.errors import DataError
from trainer.tokens import TokenTable

FILE = "answers.parquet"
VERSION = 1
SHARD = {"cpu": 64, "cuda": 256}
"""Examples that a worker answers at a time, and that a kill costs: about as many answers as the device writes at once."""


def answer(session: Session, asked: Asked, adapter: Artifact | None, label: str) -> Artifact:
    """Let base (adapter None) or base + adapter answer. Publishes `answers.parquet`, a row per example.

    Columns: id, source, part, kind; text (null where prompt and answer do not fit the context), tokens, cut (the answer reached
    `generate.max_new_tokens` without an end), score (0 to 1), read; likelihood and likelihood_norm: 1 where the most likely choice is
    an accepted one, 0 where not, null for questions without choices.
    """

    def build(out: Path, scratch: Path) -> None:
        """Write the answers and their verdicts."""
        written, likely = _finish(session, asked, adapter, scratch, label)
        present = [i for i, found in enumerate(written) if found["text"] is not None]
        verdicts = dict(
            zip(
                present,
                judge_answers(
                    [written[i]["text"] for i in present],
                    [asked.questions[i] for i in present],
                    session.config.evaluate.run_code,
                ),
                strict=True,
            )
        )
        columns = {
            "id": asked.ids,
            "source": asked.sources,
            "part": asked.parts,
            "kind": [question.kind for question in asked.questions],
            "text": pa.array([found["text"] for found in written], pa.string()),
            "tokens": pa.array([found["tokens"] for found in written], pa.int32()),
            "cut": pa.array([found["cut"] for found in written], pa.bool_()),
            "score": pa.array(
                [verdicts[i].score if i in verdicts else None for i in range(len(written))], pa.float64()
            ),
            "read": pa.array([verdicts[i].read if i in verdicts else None for i in range(len(written))], pa.string()),
            "likelihood": pa.array([found and found[0] for found in likely], pa.float64()),
            "likelihood_norm": pa.array([found and found[1] for found in likely], pa.float64()),
        }
        pq.write_table(pa.table(columns), out / FILE)

    return session.run.stage(
        "answers",
        version=VERSION,
        inputs={"adapter": adapter},
        params=_params(session, asked),
        build=build,
        label=label,
    )


def _finish(
    session: Session, asked: Asked, adapter: Artifact | None, scratch: Path, label: str
) -> tuple[list[dict[str, Any]], list[tuple[float, float] | None]]:
    """What `write_answers` and `likelihoods` give for all that is asked, in shards that survive a kill."""
    size, count = SHARD[session.engine.device(session.config)], len(asked.ids)
    choices = np.array([len(question.responses) for question in asked.questions], dtype=np.int64)
    shards = [np.arange(start, min(start + size, count)) for start in range(0, count, size)]
    work = partial(_answer, session.adapter_path(adapter), asked)

    def units(shard: np.ndarray) -> int:
        """The answers and choices of a shard."""
        return len(shard) + int(choices[shard].sum())

    with session.progress(label, count + int(choices.sum()), "answers") as progress:
        paths = finish_shards(session, "answers", work, shards, scratch, progress, "answers.shard", units)
    found = [json.loads(shard["json"].tobytes()) for shard in read_shards(paths)]
    return [one for written, _ in found for one in written], [one for _, likely in found for one in likely]


@contextmanager
def _answer(
    adapter: Path | None, asked: Asked, models: Models
) -> Iterator[Callable[[np.ndarray, Callable[[int], None]], Arrays]]:
    with models.adapter(adapter) as model:

        def run(rows: np.ndarray, progress: Callable[[int], None]) -> Arrays:
            """The answers to the examples at `rows` of what is asked, and how likely their choices are, as JSON in bytes."""
            part = asked.at(rows.tolist())
            written = write_answers(models, model, prompt_tokens(models, part.conversations), progress)
            text = json.dumps([written, likelihoods(models, model, part, progress)])
            return {"json": np.frombuffer(text.encode(), np.uint8)}

        yield run


def answered(session: Session, asked: Asked, adapter: Artifact | None) -> Artifact | None:
    """What `answer` published for this model earlier, or None."""
    made_from = {"adapter": adapter.fingerprint if adapter is not None else ""}
    return session.run.find("answers", fingerprint("answers", VERSION, made_from, _params(session, asked)))


def _params(session: Session, asked: Asked) -> dict[str, Any]:
    limit = session.config.generate.max_new_tokens
    return {"model": session.model_params(), "max_new_tokens": limit, "asked": asked.digest}


def likelihoods(
    models: Models, model: Any, asked: Asked, progress: Callable[[int], None]
) -> list[tuple[float, float] | None]:
    """Per example (1 or 0: the most likely choice is an accepted one, the same by NLL per byte); None without choices that fit."""
    from trainer.measure import measure

    tokenized, owner = [], []
    for i, (messages, question) in enumerate(zip(asked.conversations, asked.questions, strict=True)):
        for response in question.responses:
            try:
                tokenized.append(models.template.tokenize([*messages[:-1], {"role": "assistant", "content": response}]))
            except DataError:  # the prompt's own, which has no answer either
                break
            owner.append(i)
    if not tokenized:
        return [None] * len(asked.ids)
    batch_tokens = models.config.measure.batch_tokens
    found = measure(
        model, TokenTable.build(tokenized), np.arange(len(owner)), batch_tokens=batch_tokens, progress=progress
    )
    by_example: dict[int, list[float]] = {}
    for i, nll in zip(owner, found.nll_total_no_end.tolist(), strict=True):
        by_example.setdefault(i, []).append(nll)
    return [most_likely(question, by_example.get(i, [])) for i, question in enumerate(asked.questions)]


def most_likely(question: Question, nll: Sequence[float]) -> tuple[float, float] | None:
    """Whether the choice of the lowest NLL, and that of the lowest NLL per byte, is an accepted one: 1 or 0 each; None without choices."""
    if not question.responses or len(nll) != len(question.responses):
        return None
    size = [len(response.encode()) for response in question.responses]
    by_sum, by_byte = int(np.argmin(nll)), int(np.argmin(np.array(nll) / size))
    return float(by_sum in question.right), float(by_byte in question.right)
