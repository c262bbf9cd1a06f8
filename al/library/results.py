"""What the functions of `import al` return. Tables are read from the run when they are asked for, as `pyarrow.Table`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class ImportedPool:
    """A pool version of a run, as `import_pool` leaves it."""

    run: Path
    """The run directory."""
    version: int
    """From 1; each import that adds something makes one more."""
    added: bool
    """Whether this import made the version: sources that are in the pool already add nothing."""
    examples: int
    """All of this version."""
    labelled: int
    """Examples with a response. The others can be answered (`label`) and are not trained on."""
    duplicates: int
    """Rows that repeated another one and were merged with it."""
    quarantined: Mapping[str, int]
    """Rows that could not be read, by reason."""
    sources: Mapping[str, int]
    """Examples by source."""
    notes: tuple[str, ...] = ()
    """Lines that the command prints on stderr even with --json."""
    document: Mapping[str, Any] = field(repr=False)
    """All counts, as `pool import --json` prints them."""

    def table(self) -> pa.Table:
        """Every example of this version, sorted by id: id, source, messages, metadata and more. As large as the pool.

        Raises:
            RunStateError: the run or its pool is missing or damaged.
        """
        from al.library.reading import pool_table

        return pool_table(self.run, self.version)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the next round would take."""

    examples: int
    """To be picked."""
    tokens: int
    """Of these, as the trainer counts them."""
    steps: int
    """Optimizer steps of the training."""
    peak_gib: float
    """Memory of the device at its peak, in GiB."""
    seconds: float
    """All work of the round, its control and its evaluation."""
    seconds_by_work: Mapping[str, float]
    """The same by kind of work: score, train, evaluate, …"""
    disk_gib: float
    """What the round writes, in GiB."""
    rounds_until: int | None
    """How many rounds fit in `until`; None if it was not given."""
    warnings: tuple[str, ...] = ()
    """What does not fit, or does not go together."""
    notes: tuple[str, ...] = ()
    """Lines that the command prints on stderr even with --json."""
    document: Mapping[str, Any] = field(repr=False)
    """The whole plan, as `plan --json` prints it, with what each figure rests on."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """A finished round of a run."""

    run: Path
    """The run directory."""
    number: int
    """From 1."""
    budget: str
    """As it was asked for."""
    examples: int
    """Picked in this round."""
    tokens: int
    """Of the picked examples."""
    verdict: str
    """Whether the selection beat the base model, the previous round and the random control, in a sentence."""
    metrics: Mapping[str, Mapping[str, float]]
    """{"base", "previous", "selected", "control": {metric: value}} on the test examples. NLL is in nats per token."""
    differences: Mapping[str, Mapping[str, Mapping[str, float]]]
    """{"selected - control", …: {metric: {"value", "low", "high", "p"}}}, with 95% intervals of a paired bootstrap over test examples."""
    report: Path
    """The page of the round."""
    adapter: Path | None
    """The folder of the LoRA adapter, for PEFT; None where it is gone."""
    notes: tuple[str, ...] = ()
    """Lines that the command prints on stderr even with --json."""
    summary: Mapping[str, Any] = field(repr=False)
    """All numbers of the report (summary.json)."""

    def outcomes(self) -> pa.Table:
        """What became of each example of the pool: a row per example with id, source, cluster, tokens, `outcome` (picked, or why not),
        `pick` (place in the order of picking, -1 for others), `why` and the scores.

        Raises:
            RunStateError: the run or the round's selection is missing or damaged.
        """
        from al.library.reading import outcome_table

        return outcome_table(self.run, self.number)

    def picks(self) -> pa.Table:
        """The rows of `outcomes` that were picked, in the order of picking, with their `messages`.

        Raises:
            RunStateError: as `outcomes`.
        """
        from al.library.reading import pick_table

        return pick_table(self.run, self.number)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Strategies side by side on one pool, each with several seeds."""

    run: Path
    """The directory of the comparison."""
    baseline: str
    """The strategy that the others are compared with: random."""
    verdict: str
    """Which strategies beat the baseline, in a sentence."""
    strategies: Mapping[str, Mapping[str, Any]]
    """By name: "final" {metric: mean with 95% interval over seeds}, "difference" from the baseline, paired by seed, "seconds", …"""
    page: Path
    """The HTML page of the comparison."""
    notes: tuple[str, ...] = ()
    """Lines that the command prints on stderr even with --json."""
    document: Mapping[str, Any] = field(repr=False)
    """The whole comparison, as `compare --json` prints it."""

    def table(self) -> pa.Table:
        """A row per strategy, seed and round: strategy, seed, round, examples, tokens, response_tokens and the test metrics."""
        from al.library.reading import run_table

        return run_table(self.document)
