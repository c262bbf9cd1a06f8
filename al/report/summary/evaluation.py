"""The part of summary.json on evaluation: test and dev compared, by source and task group, written answers, answers side by side."""

from __future__ import annotations

from typing import Any

import numpy as np

from al.evaluation.asked import ask_holdout
from al.evaluation.deciding import deciding_metric
from al.evaluation.generations import side_by_side, task_groups
from al.evaluation.judged import judged_answers
from al.evaluation.stage import compare_models
from al.report.summary.facts import RoundFacts
from selection.holdout import DEV, TEST

MODELS = ("base", "previous", "selected", "control")


def evaluation(facts: RoundFacts) -> dict[str, Any]:
    """{"decides", "evaluation", "dev", "answers", "generations"} of the round."""
    evaluated, answered, written = (
        {name: facts.roles[f"{role}.{name}"] for name in MODELS if f"{role}.{name}" in facts.roles}
        for role in ("evaluate", "answers", "generations")
    )
    settings, seed = facts.session.config.evaluate, facts.session.config.seed
    split = np.load(facts.prepared.split.path / "split.npy")
    groups = task_groups(facts.session, facts.pool, np.flatnonzero((split == TEST) | (split == DEV)))
    test = compare_models(evaluated, TEST, settings.bootstrap, seed, groups)
    dev = compare_models(evaluated, DEV, settings.bootstrap, seed)
    asked = ask_holdout(facts.session, facts.prepared)
    answers = judged_answers(answered, asked, settings.bootstrap, seed) if answered else None
    response_tokens = np.asarray(facts.tokens.target_counts)[split == TEST]
    return {
        "decides": deciding_metric(bool(answers and answers["leads"]), response_tokens, facts.session.config.goal),
        "evaluation": {"split": "test", **test},
        "dev": {key: dev[key] for key in ("examples", "models", "differences")},
        "answers": answers,
        "generations": side_by_side(facts.pool, written, groups) if written else None,
    }
