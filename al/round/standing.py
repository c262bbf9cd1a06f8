"""Whether the control has said enough: what earlier rounds' comparison with random decides about the next one.

The control costs as much training as the selection. It is an experiment: once its answer is clear, the next rounds can do without it; while
it is open, every round trains it. The answer is the difference in macro NLL on test, with a margin wider than the report's, because it is
looked at after every round until it is clear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from al.report.reading.verdict import Comparison, comparisons
from al.run import rounds
from al.run.session import Session
from selection.strategy import by_default

WIDER = 2.576 / 1.96
"""From the reach of a 95% interval to that of a 99% interval."""

Verdict = Literal["pays", "costs", "open"]


@dataclass(frozen=True)
class Standing:
    """What round `number`, the last one with a control, says of selecting against random; `nll` in nats."""

    verdict: Verdict
    number: int
    nll: Comparison

    def sentence(self) -> str:
        """What was found, with the numbers it rests on."""
        found = {"pays": "beat", "costs": "lost to"}[self.verdict]
        by = f"{abs(self.nll.value or 0):.3f} in macro NLL ({self.nll.low:+.3f} to {self.nll.high:+.3f})"
        return f"in round {self.number} the selection {found} random by {by}"


def standing_after(number: int, nll: Comparison, match: Sequence[Comparison]) -> Standing:
    """The verdict of one round: clear where the 99% interval of NLL leaves zero out. A significant loss of exact match leaves it open.

    Args:
        match: the selection's exact match against the control's, if it was measured.
    """
    if nll.value is None or nll.low is None or nll.high is None:
        return Standing("open", number, nll)
    low, high = (nll.value + WIDER * (end - nll.value) for end in (nll.low, nll.high))
    if high < 0 and not any(c.outcome == "worse" for c in match):
        return Standing("pays", number, nll)
    return Standing("costs" if low > 0 else "open", number, nll)


def standing(session: Session, number: int) -> Standing | None:
    """The verdict of the last finished round before `number` that had a control; None if none had one, or if the strategy or the base is
    another one since."""
    now = session.config.model_dump(mode="json")
    for earlier in reversed([entry for entry in rounds.all_rounds(session.run) if entry.number < number]):
        if any(earlier.config.get(part) != now[part] for part in ("select", "model")):
            return None
        if rounds.recorded(session.run, earlier.number, "report") is None:
            continue
        summary = rounds.read_summary(session.run, earlier.number)
        nll, match = (
            [c for c in comparisons(summary, metric) if c.against == "control"] for metric in ("macro_nll", "macro_em")
        )
        if nll:
            return standing_after(earlier.number, nll[0], match)
    return None


def with_control_decided(session: Session, number: int) -> tuple[Session, list[str]]:
    """The session of round `number` with `control: auto` decided, and a note on it where the control has said enough.

    Where selecting lost to random, the default strategy picks at random, and there is nothing left to compare.
    """
    config = session.config
    if config.control != "auto":
        return session, []
    found = standing(session, number)
    if found is None or found.verdict == "open":
        return session.with_config(config.model_copy(update={"control": True})), []
    changes: dict[str, object] = {"control": False}
    note = f"no control in this round: {found.sentence()}"
    if found.verdict == "costs" and by_default(config.select):
        changes["select"] = config.select.model_copy(update={"strategy": "random"})
        note += "; the default strategy therefore picks at random. --strategy NAME selects all the same"
    return session.with_config(config.model_copy(update=changes)), [f"{note}. --set control=true trains one"]
