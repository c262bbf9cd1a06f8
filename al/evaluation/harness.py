"""The same questions through EleutherAI's lm-evaluation-harness (package lm-eval, the extra `lm-eval`), offline.

The harness gets the run's model as it is in memory, with an adapter, and tasks over local files: `<group>_choice`, the likelihood of
options, and `<group>_written`, judged by al.evaluation.questions. Their templates are configs/lm_eval/*.yaml. A group is a task group
of `evaluate.groups` or of presets (conversation, QA and reasoning, as in the NeurIPS efficiency challenge), "all" for other sources.

The harness tokenizes text. A prompt is written in the run's chat template and left out if its text does not give the same tokens again.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from al.config import CONFIG_DIR
from al.errors import EnvironmentProblem
from al.evaluation.asked import Asked
from al.evaluation.generations import prompt_tokens
from al.evaluation.questions import judge_answers
from al.run.artifacts import Artifact, write_json
from al.run.session import Session

FILE = "results.json"
METRICS = {"acc": "likelihood", "acc_bytes": "likelihood_norm", "score": "score"}
"""The harness' names of metrics, and ours."""
Rows = dict[str, list[dict[str, Any]]]


def run_harness(session: Session, asked: Asked, adapter: Artifact | None, label: str) -> Artifact:
    """Measure base (adapter None) or base + adapter. Publishes `results.json`: {"tasks": {task: {"group", "examples", metric: {"value",
    "stderr"}}}, "left_out": prompts whose text gives other tokens}.

    Raises:
        EnvironmentProblem: lm-eval is not installed.
    """
    evaluate, language_model = _harness()
    template = {
        name: (CONFIG_DIR / "lm_eval" / f"{name}.yaml").read_text(encoding="utf-8") for name in ("choice", "written")
    }

    def build(out: Path, scratch: Path) -> None:
        """Write the tasks' files, run the harness, and write its results."""
        rows, left_out = task_rows(session, asked)
        tasks = [_task(session, asked, name, found, template, scratch) for name, found in rows.items()]
        from trainer.forward import compute_dtype
        from trainer.model import plain_attention

        with session.adapter(adapter) as model, plain_attention(model):
            name_of_dtype = str(compute_dtype(model)).removeprefix("torch.")
            mixed = None if name_of_dtype == "float32" else name_of_dtype
            harness_model = language_model(
                pretrained=model.eval(),
                tokenizer=copy.deepcopy(session.tokenizer),
                add_bos_token=False,
                batch_size=8,
                mixed_precision_dtype=mixed,
            )
            found = evaluate(model=harness_model, tasks=tasks, bootstrap_iters=1000, log_samples=False) if tasks else {}
        write_json(out / FILE, {"tasks": _results(found, rows), "left_out": left_out})

    return session.run.stage(
        "lm_eval",
        version=1,
        inputs={"adapter": adapter},
        params={
            "model": session.model_params(),
            "asked": asked.digest,
            "groups": dict(asked.groups),
            "templates": template,
            "max_new_tokens": session.config.generate.max_new_tokens,
        },
        build=build,
        label=label,
    )


def task_rows(session: Session, asked: Asked) -> tuple[Rows, int]:
    """{task: its rows}, and how many prompts were left out because their text gives other tokens."""
    rows: Rows = {}
    left_out = 0
    for i, ids in enumerate(prompt_tokens(session.models, asked.conversations)):
        prompt = session.tokenizer.decode(ids or [], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if not ids or session.tokenizer.encode(prompt, add_special_tokens=False) != ids:
            left_out += 1
            continue
        question, group = asked.questions[i], asked.groups.get(asked.sources[i], "all").lower()
        row = {"id": asked.ids[i], "prompt": prompt}
        rows.setdefault(f"{group}_written", []).append({**row, "reference": question.accepted[0]})
        if question.responses:
            options = {"choices": list(question.responses), "right": list(question.right)}
            rows.setdefault(f"{group}_choice", []).append({**row, **options})
    return rows, left_out


def _task(
    session: Session,
    asked: Asked,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    template: Mapping[str, str],
    folder: Path,
) -> dict[str, Any]:
    """A task of the harness: the template with its name and data, and for written answers with their ends and their judge."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    kind = name.rpartition("_")[2]
    task = yaml.safe_load(template[kind])
    task |= {"task": name, "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(folder / "cache")}}
    if kind == "written":
        ends = [session.tokenizer.decode([token]) for token in sorted(session.template.end_ids)]
        task["generation_kwargs"] |= {"until": ends, "max_gen_toks": session.config.generate.max_new_tokens}
        task["process_results"] = _judge(asked, session.config.evaluate.run_code)
    return task


def _judge(asked: Asked, run_code: bool) -> Callable[[Mapping[str, Any], Sequence[str]], dict[str, float]]:
    questions = dict(zip(asked.ids, asked.questions, strict=True))

    def judged(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
        """The score of one answer, as the harness asks for it."""
        return {"score": judge_answers([results[0].strip()], [questions[doc["id"]]], run_code)[0].score}

    return judged


def _results(found: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
    """Values and standard errors by task and metric, by our names."""
    tasks = {}
    for name, values in sorted((found.get("results") or {}).items()):
        entry: dict[str, Any] = {"group": name.rpartition("_")[0], "examples": len(rows[name])}
        for key, value in values.items():
            metric, _, _ = key.partition(",")
            if metric in METRICS:
                stderr = values.get(key.replace(metric, f"{metric}_stderr", 1))
                known = stderr if isinstance(stderr, float) else None
                entry[METRICS[metric]] = {"value": float(value), "stderr": known}
        tasks[name] = entry
    return tasks


def _harness() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The harness' `simple_evaluate` and its model for transformers, kept from the network."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_EVALUATE_OFFLINE="1")
    try:
        from lm_eval.evaluator import simple_evaluate
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise EnvironmentProblem(
            f"--lm-eval needs lm-evaluation-harness ({error}): pip install 'lm-eval>=0.4.13'"
        ) from error
    return simple_evaluate, HFLM
