"""Whether the control has said enough: what earlier rounds' comparison with random decides about the next one.

The control costs as much training as the selection. It is an experiment: once its answer is clear, the next rounds can do without it; while
it is open, every round trains it. The answer is that of the report's verdict, in the metric that decides there, with a margin wider than
the report's, because every round tests it again until it is clear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from al.report.reading.verdict import comparisons, deciding, headline, losses
from al.run import rounds
from al.run.session import Session
from selection.strategy import by_default

WIDER = 2.576 / 1.96
"""From the reach of a 95% interval to that of a 99% interval."""

Answer = Literal["pays", "costs", "open"]


@dataclass(frozen=True)
class Standing:
    """What round `number`, the last one with a control, says of selecting against random, and the first sentence of its report."""

    answer: Answer
    number: int
    headline: str


def standing_after(number: int, summary: Mapping[str, Any]) -> Standing | None:
    """What one round says: clear where the 99% interval of the deciding metric leaves zero out. A gain at the cost of a significant loss in
    another metric stays open. None without a control."""
    found = next((c for c in comparisons(summary, deciding(summary)) if c.against == "control"), None)
    if found is None:
        return None
    answer: Answer = "open"
    if found.value is not None and found.low is not None and found.high is not None:
        sign = -1 if "nll" in found.metric else 1  # of a gain
        ends = sorted(sign * (found.value + WIDER * (end - found.value)) for end in (found.low, found.high))
        if ends[0] > 0 and not losses(summary, "control"):
            answer = "pays"
        elif ends[1] < 0:
            answer = "costs"
    return Standing(answer, number, headline(summary))


def standing(session: Session, number: int) -> Standing | None:
    """What the last finished round before `number` that had a control says; None if none had one, or if the strategy or the base is another
    one since."""
    now = session.config.model_dump(mode="json")
    for earlier in reversed([entry for entry in rounds.all_rounds(session.run) if entry.number < number]):
        if any(earlier.config.get(part) != now[part] for part in ("select", "model")):
            return None
        if rounds.recorded(session.run, earlier.number, "report") is None:
            continue
        if found := standing_after(earlier.number, rounds.read_summary(session.run, earlier.number)):
            return found
    return None


def with_control_decided(session: Session, number: int) -> tuple[Session, list[str]]:
    """The session of round `number` with `control: auto` decided, and a note on it where the control has said enough.

    Where selecting lost to random, the default strategy picks at random, and there is nothing left to compare.
    """
    config = session.config
    if config.control != "auto":
        return session, []
    found = standing(session, number)
    if found is None or found.answer == "open":
        return session.with_config(config.model_copy(update={"control": True})), []
    changes: dict[str, object] = {"control": False}
    note = f"no control in this round, because round {found.number} has the answer: {found.headline}"
    if found.answer == "costs" and by_default(config.select):
        changes["select"] = config.select.model_copy(update={"strategy": "random"})
        note += ". The default strategy therefore picks at random; --strategy NAME selects all the same"
    return session.with_config(config.model_copy(update=changes)), [f"{note}. --set control=true trains one"]
