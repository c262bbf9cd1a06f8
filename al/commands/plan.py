"""`plan`: estimates memory, time and disk of the next round."""

from __future__ import annotations

from typing import Any

from al.budget import parse_budget
from al.commands.options import Options
from al.planning.machine import probe_machine
from al.planning.model_shape import model_shape
from al.planning.plan import KEPT, estimate
from al.planning.pool_estimate import estimate_pool
from al.run import rounds
from al.run.ownership import is_run
from al.run.progress import duration
from al.run.store import Run


def plan_round(options: Options, budget: str) -> dict[str, Any]:
    """Estimate the next round of a run (new or existing) under `budget`."""
    config, request = options.load_config(), parse_budget(budget)
    pool = estimate_pool(config, options.run_directory())
    machine = probe_machine(config)
    shape = model_shape(config.model, config.lora, machine.bytes_per_value)
    number = 1
    if is_run(options.run_directory()):
        with Run.read(options.run_directory()) as run:
            number = rounds.next_number(run)
    return estimate(config, request, pool, shape, machine, number)


def describe_plan(document: dict[str, Any]) -> str:
    """The text of a plan for the terminal."""
    pool, planned, device = document["pool"], document["round"], document["device"]
    about = "" if pool["exact"] else "about "
    lines = [
        f"pool      {about}{pool['examples']:,} examples, {pool['mean_tokens']:.0f} tokens each on average",
        f"round     {planned['examples']:,} examples, {planned['tokens']:,} tokens, {planned['steps']:,} steps, "
        f"{planned['lora_parameters']:,} trainable parameters",
        f"memory    {document['peak_gib']:.2f} GiB at peak on {device['kind']} ({device['memory_gib']:.0f} GiB)",
    ]
    lines += [f"            {value:>8.3f}  {name}" for name, value in document["memory_gib"].items() if value >= 0.001]
    lines.append("layers    " + ", ".join(f"{count} {KEPT[kind]}" for kind, count in document["layers"].items()))
    lines.append(
        f"time      {duration(document['total_seconds'])} ({document['tokens_per_s']:,.0f} training tokens/s expected)"
    )
    lines += [
        f"            {duration(value):>8}  {name}" for name, value in document["seconds"].items() if value >= 0.5
    ]
    lines.append(f"disk      {document['disk_gib']:.2f} GiB")
    return "\n".join([*lines, *(f"warning   {text}" for text in document["warnings"])])
