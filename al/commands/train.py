"""`train`: plain fine-tuning without selection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from al.commands.options import Options
from al.excerpt import counted
from al.pool.identity import sources_config
from al.round.fine_tune import fine_tune
from al.run.progress import stop_on_signals
from al.run.session import Session
from al.run.store import Run


def plain_fine_tuning(options: Options, datasets: tuple[str, ...]) -> dict[str, Any]:
    """Fine-tune on all examples in `datasets`. Returns the training report and the holdout metrics next to the base's."""
    config = options.load_config()
    config = config.model_copy(update={"pool": sources_config(config.pool, datasets, None, config.pool.strict)})
    stop_on_signals()
    with Run.create_or_open(options.run_path or Path("runs") / f"train-{Path(datasets[0]).stem.split('.')[0]}") as run:
        return fine_tune(Session(run, config, options.as_json, pool_named=True))


def describe_fine_tuning(document: dict[str, Any]) -> str:
    """The result of plain fine-tuning as text for the terminal."""
    training = document["training"]
    lines = [
        f"trained on {counted(document['examples'], 'example')}: {counted(training['steps'], 'step')}, "
        f"{counted(training['tokens'], 'token')}, "
        f"{training['tokens_per_s']:,.0f} tokens/s, loss {training['first_loss']:.3f} → {training['last_loss']:.3f}"
    ]
    for name, metrics in document["evaluation"]["models"].items():
        lines.append(
            f"  {name:<9} NLL {metrics['macro_nll']:.3f} macro, {metrics['micro_nll']:.3f} micro; exact match {metrics['micro_em']:.1%}"
        )
    return "\n".join([*lines, f"adapter: {document['adapter']}"])
