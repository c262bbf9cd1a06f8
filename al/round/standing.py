"""Whether another control is worth its training: what earlier rounds' comparison with random decides about the next one.

The control is an experiment that costs as much training as the selection. A round has one until one of these holds:

    pays     selecting beat random in the metric of the verdict
    safe     what selecting can cost is less than what the control's examples would bring, if the model were trained on them instead
    costs    selecting lost to random, in two controls in a row: one training that went wrong looks the same

`docs/strategies.md` has what this rule did on the first rounds of the proving ground.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from al.config import Config, parse, same_question
from al.report.reading.values import lookup, write
from al.report.reading.verdict import Comparison, comparisons, deciding, headline, losses, nll_metric
from al.run import rounds
from al.run.store import Run
from selection.strategy import by_default

WIDER = 2.576 / 1.96
"""From the reach of a 95% interval to that of a 99% interval: the question is asked in every round until the answer is clear."""
HALVED = 0.5
"""Of what the learning curve promises for the control's examples, the part that is counted: on the proving ground it promised up to 2.3
times too much."""

Answer = Literal["pays", "safe", "costs", "open"]


@dataclass(frozen=True)
class Evidence:
    """One comparison with the control.

    Attributes:
        gain: what selecting gained in the deciding metric, with the ends of its 95% interval; more is better. None without an interval.
        nll_gain: the same in NLL, nats.
        lost: whether selecting lost significantly in a metric that counts examples as the deciding one does (macro or micro).
        worth: NLL in nats that as many random examples as another control takes would gain. None where it is not known.
    """

    gain: tuple[float, float, float] | None
    nll_gain: tuple[float, float, float] | None
    lost: bool
    worth: float | None

    @property
    def answer(self) -> Answer:
        """What it says by itself; `standing` asks for a second one before selecting counts as lost."""
        if self.gain is not None:
            value, low, high = self.gain
            if value + WIDER * (low - value) > 0 and not self.lost:
                return "pays"
            if value + WIDER * (high - value) < 0:
                return "costs"
        if self.nll_gain is not None and self.worth is not None and not self.lost and self.nll_gain[1] > -self.worth:
            return "safe"
        return "open"


@dataclass(frozen=True)
class Standing:
    """What round `number`, the last one with a control, says of selecting against random, and the words for it."""

    answer: Answer
    number: int
    why: str


def worth_of_examples(base: float, trained: float, examples: int, more: int) -> float:
    """NLL that `more` random examples would gain after `examples`, halved (HALVED), where NLL falls linearly in log(1 + examples).

    Args:
        base, trained: NLL of the base and of the adapter trained on `examples` random examples, nats.
    """
    return HALVED * (base - trained) * math.log1p(more / (1 + examples)) / math.log1p(examples)


def standing_after(number: int, summary: Mapping[str, Any]) -> Standing | None:
    """What one round says; None without a control."""
    metric = deciding(summary)
    found = _against_control(summary, metric)
    if found is None:
        return None
    nll, lost = _against_control(summary, nll_metric(summary)), losses(summary, "control", metric.partition("_")[0])
    evidence = Evidence(_gain(found), nll and _gain(nll), bool(lost), _worth(summary, nll_metric(summary)))
    return Standing(evidence.answer, number, _why(evidence, headline(summary)))


def standing(config: Config, run: Run, number: int) -> Standing | None:
    """What the rounds before `number` that had a control say; None if none had one, or if it is another question since."""
    lost = None
    for earlier in reversed([entry for entry in rounds.all_rounds(run) if entry.number < number]):
        if not same_question(parse(earlier.config, f"{run.path}/run.db"), config):
            break
        if rounds.recorded(run, earlier.number, "report") is None:
            continue
        found = standing_after(earlier.number, rounds.read_summary(run, earlier.number))
        if found is None:
            continue
        if found.answer != "costs":
            return replace(lost, answer="open") if lost else found
        if lost:
            return lost
        lost = found
    return replace(lost, answer="open") if lost else None


def with_control_decided(config: Config, run: Run, number: int) -> tuple[Config, list[str]]:
    """The config of round `number` with `control: auto` decided, and a note on it where another control is not worth its training.

    Where selecting lost to random twice, the default strategy picks at random, and there is nothing left to compare.
    """
    if config.control != "auto":
        return config, []
    found = standing(config, run, number)
    if found is None or found.answer == "open":
        return config.model_copy(update={"control": True}), []
    changes: dict[str, object] = {"control": False}
    note = f"no control in this round, because round {found.number} has the answer: {found.why}"
    if found.answer == "costs" and by_default(config.select):
        changes["select"] = config.select.model_copy(update={"strategy": "random"})
        note += ". The default strategy therefore picks at random; --strategy NAME selects all the same"
    return config.model_copy(update=changes), [f"{note}. --set control=true trains one"]


def _against_control(summary: Mapping[str, Any], metric: str) -> Comparison | None:
    return next((c for c in comparisons(summary, metric) if c.against == "control"), None)


def _gain(found: Comparison) -> tuple[float, float, float] | None:
    """(value, low, high) with the sign of a gain."""
    if found.value is None or found.low is None or found.high is None:
        return None
    value, low, high = found.value, found.low, found.high
    return (-value, -high, -low) if "nll" in found.metric else (value, low, high)


def _worth(summary: Mapping[str, Any], metric: str) -> float | None:
    """`worth_of_examples` for a control as large as this round's."""
    base, control = (lookup(summary, "evaluation", "models", name, metric) for name in ("base", "control"))
    picked = lookup(summary, "budget", "examples") or 0
    before = sum(entry.get("examples") or 0 for entry in summary.get("learning_curve") or [])
    if base is None or control is None or not picked:
        return None
    return worth_of_examples(base, control, before + picked, picked)


def _why(evidence: Evidence, verdict: str) -> str:
    if evidence.answer != "safe" or evidence.nll_gain is None:
        return verdict
    low = evidence.nll_gain[1]
    bound = f"it gains at least {write(low, 'nll')}" if low > 0 else f"it costs at most {write(-low, 'nll')}"
    return (
        f"{verdict}. But {bound} nats of NLL (95% interval), and as many random examples as another control takes would gain about "
        f"{write(evidence.worth, 'nll')}"
    )
