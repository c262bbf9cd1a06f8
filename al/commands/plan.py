"""`plan`: estimates memory, time and disk of the next round, and what fits in a time or on a card that is not here."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from al.budget import parse_budget, parse_time
from al.commands.options import Options
from al.config import Config
from al.engine.engine import Engine
from al.excerpt import counted
from al.planning.cards import REHEARSED_RANKS, UNCERTAINTY, Card, find_card, machine_of
from al.planning.cost import GIB
from al.planning.downloads import downloads
from al.planning.embedder import embedder_size
from al.planning.gpus import gpus_of, speedup
from al.planning.limits import (
    costs_of_ranks,
    largest_rank,
    longest_sequence,
    rounds_in,
    settings_that_fit,
    usable_bytes,
)
from al.planning.machine import probe_machine
from al.planning.model_shape import model_shape
from al.planning.needs import cache_if_hub_is_silent, check_device
from al.planning.plan import estimate
from al.planning.pool_estimate import PoolEstimate, estimate_pool
from al.program import PROGRAM
from al.report.reading.pool_words import visible_segments
from al.report.text.pool import MARKS
from al.round.standing import with_control_decided
from al.run import rounds
from al.run.ownership import is_run
from al.run.progress import duration
from al.run.store import Run
from al.run.work_time import work_seconds
from trainer.decoder.retention import RESERVE

SHOWN_SHARE = 0.01
"""Of the time of a round: stages that take less are shown together."""
SEARCHED_WELL = 2_000
"""Examples that a longer search is recommended to look at."""
FIRST_SHOWN, FIRST_LINES = 600, 6
"""Characters of the first example that are shown, and lines; line ends of a text with more of them are shown as signs."""


def plan_round(
    options: Options, budget: str, gpu: str | None = None, until: str | None = None, search: str | None = None
) -> dict[str, Any]:
    """Estimate the next round of a run (new or existing) under `budget`.

    Args:
        gpu: plan for this card (`al.planning.cards.find_card`) instead of the machine here, which then needs no GPU.
        until: a limit of time for all rounds, as of `run --until`; the plan then has "until": {"seconds", "spent", "rounds", "tokens"}.
        search: a time to look for near-duplicates in a pool that no round has looked through; None: a few seconds.

    Raises:
        UserError or TrainerError: an unknown card, no GPU here, a source or a model that cannot be read.
    """
    config, request = options.load_config(), parse_budget(budget)
    limit = parse_time(until, "--until") if until is not None else None
    seconds = parse_time(search, "--search") if search is not None else None
    card = find_card(gpu) if gpu is not None else None
    if card is None:
        check_device(config)
    directory = options.run_directory()
    if card is None:
        machine = probe_machine(config)
    else:
        machine = machine_of(card, 4 if config.model.compute_dtype == "float32" else 2)
    with cache_if_hub_is_silent(config):
        pool = estimate_pool(config, directory, named=bool(options.pool), search=seconds)
        shape = model_shape(config.model, config.lora, machine.bytes_per_value)
        embedder_size(config.embed)  # kept: the estimate asks for it again
    number, spent = 1, 0.0
    basis = (
        {"control": "trained in this round; later ones do without once it has said enough"}
        if config.control == "auto"
        else {}
    )
    if is_run(directory):
        with Run.read(directory) as run:
            number, spent = rounds.next_number(run), work_seconds(directory)
            config, said = with_control_decided(config, run, number)
        basis = {"control": said[0]} if said else basis
    gpus = gpus_of(config, Engine()) if card is None else _gpus_named(config)
    document = estimate(config, request, pool, shape, machine, number, gpus)
    largest = largest_rank(config, shape, machine)
    document["limits"] = {
        "usable_gib": round(usable_bytes(machine) / GIB, 2),
        "rank": config.lora.r,
        "largest_rank": largest,
        "ranks": costs_of_ranks(config, shape, machine, largest),
        "sequence": config.train.pack_length,
        "longest_sequence": longest_sequence(config, shape, machine),
        "settings": settings_that_fit(config, shape, machine),
    }
    document["downloads"] = downloads(config, shape)
    document["card"] = None if card is None else card.title
    document["uncertainty"] = None if card is None else UNCERTAINTY
    document["basis"] = (
        _basis(card, pool, shape.published, config.lora.r, machine.kind) | _embedder_basis(config, pool) | basis
    )
    if gpus > 1:
        document["basis"]["gpus"] = speedup(config, gpus).described()
    document["until"] = None
    if limit is not None:
        known = replace(pool, new_to_embed=0, new_to_map=0, new=0)
        later = estimate(config, request, known, shape, machine, max(number, 1) + 1, gpus)
        count = rounds_in(document, later, limit - spent)
        tokens = (count > 0) * document["round"]["tokens"] + max(count - 1, 0) * later["round"]["tokens"]
        document["until"] = {"seconds": limit, "spent": round(spent, 1), "rounds": count, "tokens": tokens}
        if tokens > pool.examples * pool.mean_tokens:
            document["warnings"].append(
                f"{count} rounds of {request.text} take {counted(tokens, 'token')}, the pool "
                f"has about {pool.examples * pool.mean_tokens:,.0f}: add "
                "data, or run fewer rounds with a larger train.epochs"
            )
    document["needed_there"] = [] if card is None else _local_files(options, config)
    document["inspect"] = _inspect(options, config)
    document["next"] = _next(options, request.text, until, document["limits"]["settings"])
    return document


def _next(options: Options, budget: str, until: str | None, settings: list[str] | None) -> str | None:
    """The command that does what was planned, with the settings that fit; None if nothing fits."""
    if settings is None:
        return None
    command = ["round", "--budget", budget] if until is None else ["run", "--budget", budget, "--until", until]
    changed = [part for value in settings for part in ("--set", value)]
    here = replace(
        options,
        pool=tuple(map(_from_here, options.pool)),
        config_path=options.config_path and Path(_from_here(str(options.config_path))),
        run_path=options.run_path and Path(_from_here(str(options.run_path))),
    )
    return shlex.join([*PROGRAM.split(), *command, *here.as_arguments(), *changed])


def _from_here(typed: str) -> str:
    """An absolute path that lies under the current folder, relative to it; anything else as it was typed."""
    path, folder = Path(typed), Path.cwd()
    return str(path.relative_to(folder)) if path.is_absolute() and path.is_relative_to(folder) else typed


def _local_files(options: Options, config: Config) -> list[str]:
    """The files and folders that the next command names, which have to be on the machine where it runs."""
    named = [*options.pool, *config.target.files, *([str(options.config_path)] if options.config_path else [])]
    named += [name for name in (config.model.name, config.embed.model) if Path(name).is_dir()]
    return [_from_here(name) for name in dict.fromkeys(named) if Path(name).exists()]


def _inspect(options: Options, config: Config) -> str:
    """The command that shows more of how these sources are read."""
    sources = options.pool or (*config.pool.files, *(f"hub:{name}" for name in config.pool.hub))
    rest = replace(options, pool=(), run_path=None).as_arguments()
    return shlex.join([*PROGRAM.split(), "pool", "inspect", *sources, *rest])


def _gpus_named(config: Config) -> int:
    """GPUs of a card that is not here: as many as the config names, else one."""
    named = config.engine.kind != "local" and config.engine.gpus != "auto"
    return int(config.engine.gpus) if named else 1


def _basis(card: Card | None, pool: PoolEstimate, published: bool, rank: int, kind: str) -> dict[str, str]:
    """What each kind of figure rests on."""
    speed = (
        "measured here: the speed of a matrix product and of memory; the share of it that training reaches is that of an H100"
        if card is None
        else f"extrapolated to {card.title} from its specification, at the shares of it that an H100 reaches; not measured on that card: "
        f"expect ±{UNCERTAINTY:.0%}"
    )
    model = {"model": "its published sizes; the hub does not give its config here"} if published else {}
    return {"pool": pool.basis, **model, "memory": _memory_basis(rank, kind), "time": speed}


def _memory_basis(rank: int, kind: str) -> str:
    calculated = "calculated from the model's shape"
    if kind != "cuda":
        return calculated
    other = "" if rank in REHEARSED_RANKS else f", not for rank {rank}"
    return (
        f"{calculated}; checked in the memory of a 24 GB card for Mistral-7B with rank {' and '.join(map(str, REHEARSED_RANKS))}, "
        f"on an H200 limited to that memory (docs/benchmarks.md){other}"
    )


def _embedder_basis(config: Config, pool: PoolEstimate) -> dict[str, str]:
    """A line where texts are still to be embedded by a model whose size cannot be read here."""
    if not pool.new_to_embed or embedder_size(config.embed).known:
        return {}
    return {"embed": f"as all-MiniLM-L6-v2 takes: the size of {config.embed.model} cannot be read here"}


def describe_plan(document: dict[str, Any]) -> str:
    """The text of a plan for the terminal: the answer in one line, then what it rests on."""
    pool, planned, basis = document["pool"], document["round"], document["basis"]
    about = "" if pool["exact"] else "about "
    lines = [
        _answer(document),
        f"pool      {about}{counted(pool['examples'], 'example')}, {pool['mean_tokens']:.0f} tokens each on average",
        f"          {_pickable(document)}",
        *_first(document),
        f"model     {document['model']}, {planned['lora_parameters']:,} trainable parameters (LoRA adapter)",
        f"round     {counted(planned['examples'], 'example')}, {counted(planned['tokens'], 'token')}, epochs: {planned['epochs']:g}, "
        f"{counted(planned['steps'], 'step')}",
        f"memory    {document['peak_gib']:.2f} GiB at peak" + _room(document),
    ]
    lines += [f"            {value:>8.3f}  {name}" for name, value in document["memory_gib"].items() if value >= 0.001]
    lines += _fits(document["limits"])
    lines.append(
        f"time      {duration(document['total_seconds'])} ({document['tokens_per_s']:,.0f} training tokens/s expected)"
    )
    lines += [f"            {duration(value):>8}  {name}" for name, value in _longest(document["seconds"])]
    lines += _download(document["downloads"])
    lines.append(f"disk      {document['disk_gib']:.2f} GiB")
    if (until := document["until"]) is not None:
        spent = f", {duration(until['spent'])} spent" if until["spent"] else ""
        lines.append(
            f"until     {counted(until['rounds'], 'round')} in {duration(until['seconds'])}{spent}: {counted(until['tokens'], 'token')}"
        )
    lines += [f"basis     {name}: {text}" for name, text in basis.items()]
    lines += [f"warning   {text}" for text in document["warnings"]]
    if document["next"] is None:
        return "\n".join(lines)
    if document["needed_there"]:
        lines.append(f"there     {', '.join(document['needed_there'])} must be on the machine with the card")
    return "\n".join([*lines, f"next      {document['next']}"])


def _longest(seconds: dict[str, float]) -> list[tuple[str, float]]:
    """The stages that take a noticeable part of the time, and the sum of the others."""
    least = max(0.5, SHOWN_SHARE * sum(seconds.values()))
    shown = [(name, value) for name, value in seconds.items() if value >= least]
    rest = sum(value for value in seconds.values() if value < least)
    return shown + [("all else", rest)] * (rest >= 0.5)


def _download(wanted: list[dict[str, Any]]) -> list[str]:
    """What is downloaded first, and that its time is not in the plan."""
    sizes = ["size not known" if one["bytes"] is None else f"{one['bytes'] / 1e9:.1f} GB" for one in wanted]
    named = [
        f"{one['name']} ({'this machine has it' if one['here'] else size})"
        for one, size in zip(wanted, sizes, strict=True)
    ]
    return [f"download  {', '.join(named)}: not in the time, which depends on the connection"] * bool(wanted)


def _answer(document: dict[str, Any]) -> str:
    """Whether the round fits, how long it takes and what it trains on, with how sure that is."""
    limits, planned, uncertainty = document["limits"], document["round"], document["uncertainty"]
    settings, about = limits["settings"], "" if document["pool"]["exact"] else "about "
    where = (
        document["card"] or {"cuda": "the GPU here", "cpu": "this machine without a GPU"}[document["device"]["kind"]]
    )
    if document["gpus"]["count"] > 1:
        where += f" (each of {document['gpus']['count']} GPUs)"
    fits = f"{'Fits' if settings == [] else 'Does not fit'} {where}: {document['peak_gib']:.1f} of {limits['usable_gib']:.1f} usable GiB"
    fits = f"{_too_few(document)}{fits}"
    change = f", but does with {' '.join(f'--set {value}' for value in settings)}" if settings else ""
    speed = "speed measured here" if uncertainty is None else f"assumed, ±{uncertainty:.0%}"
    return (
        f"{fits}{change}. About {duration(document['total_seconds'])} ({speed}) for "
        f"{counted(planned['examples'], 'example')}, {about}{counted(planned['tokens'], 'token')}."
        + " Near-duplicates are not counted."
        * (document["pool"]["selectable_is"] == "unknown")
    )


def _room(document: dict[str, Any]) -> str:
    """The memory that training may use, and what of the device's is kept free."""
    total, usable = document["device"]["memory_gib"], document["limits"]["usable_gib"]
    room = f", of {usable:.1f} GiB that training may use on {document['card'] or document['device']['kind']}"
    room += f", on each of {document['gpus']['count']} GPUs" * (document["gpus"]["count"] > 1)
    return f"{room}: {total:.1f} GiB less {RESERVE:.0%} for libraries and fragmentation" if usable < total else room


def _too_few(document: dict[str, Any]) -> str:
    """The sentence to begin with where the round cannot pick, or may not be able to pick, as many examples as are asked for; else ""."""
    pool, planned = document["pool"], document["round"]
    most, least, asked = pool["selectable"], pool["selectable_at_least"], planned["examples"]
    if planned["unit"] != "examples" or asked <= least:
        return ""
    if asked > most:
        about = {"counted": "only ", "searched": "only about ", "sample": "at most about "}.get(
            pool["selectable_is"], "at most "
        )
        return f"Cannot run: {about}{most:,} of {counted(asked, 'example')} can be picked. "
    if pool["selectable_is"] == "sample":
        found = pool["near_duplicates"]
        return (
            f"May stop: {counted(asked, 'example')} are asked for, and about {least:,} to {most:,} can be picked, by {found['searched']:,} "
            f"searched for near-duplicates (--search {_search_time(found)} says more). "
        )
    return ""


def _search_time(found: dict[str, Any]) -> str:
    """A time after which the bounds are near each other: that of SEARCHED_WELL examples, or of all."""
    wanted = min(found["of"], SEARCHED_WELL)
    return f"{max(1, math.ceil(found['seconds'] * wanted / found['searched'] / 60))}min"


def _pickable(document: dict[str, Any]) -> str:
    """How many examples a round can pick from, and what that rests on."""
    pool, planned = document["pool"], document["round"]
    most, least, known, held = (
        pool[name] for name in ("selectable", "selectable_at_least", "selectable_is", "held_out")
    )
    if known == "counted":
        return (
            f"{counted(most, 'example')} can be picked; dev, test, near-duplicates, earlier picks and what was left out or removed "
            "are not counted"
        )
    if known == "searched":
        near = pool["near_duplicates"]["of"] - held - most
        return f"about {counted(most, 'example')} can be picked; {held:,} become dev and test, {near:,} are near-duplicates"
    if known == "sample":
        found = pool["near_duplicates"]
        which = "of the first rows of each file " if found["in_order"] else ""
        left = f"{least:,} to {most:,}" if least < most else f"{most:,}"
        return (
            f"about {left} can be picked; {held:,} become dev and test, the others are near-duplicates, by a search of "
            f"{found['searched']:,} random examples {which}(dedup.threshold); the first round counts them"
        )
    stops = (
        f"it stops before training if fewer than {planned['examples']:,} are left"
        if planned["unit"] == "examples"
        else "it takes all that are left if the budget is larger"
    )
    if planned["number"] > 1:
        return f"the round picks none of dev, test, earlier picks and near-duplicates; {stops}"
    why = f": {pool['not_searched']}" if pool.get("not_searched") else ""
    return (
        f"up to {most:,} can be picked, {held:,} become dev and test; near-duplicates are not subtracted{why}; {stops}"
    )


def _first(document: dict[str, Any]) -> list[str]:
    """How the first example is read, as the model would see it; nothing for a pool that is imported already."""
    example = document["pool"]["first"]
    if example is None:
        return []
    shown = "".join(
        f"{left}{part['text']}{right}"
        for part in visible_segments(example, FIRST_SHOWN)
        for left, right in [MARKS.get(part["target"], ("", ""))]
    ).strip()
    if shown.count("\n") > FIRST_LINES:
        shown = shown.replace("\n", " ⏎ ")
    trained = "⟦the response⟧ and ⟪the token that ends it⟫" if example["segments"] else "the last message"
    if example["messages"][-1]["role"] != "assistant":
        trained = "nothing, it has no response"
    template = (
        "its tokenizer's chat template" if example["template"] == "tokenizer" else f"the template {example['template']}"
    )
    head = f"as the model sees it, with {template}" if example["segments"] else "as it is read"
    lines = [f"{head}; trained on: {trained}", *shown.splitlines()]
    lines += [f"kept as metadata: {', '.join(example['kept'])}"] * bool(example["kept"])
    lines += [f"{example['note']}."] * bool(example["note"])
    lines.append(f"more of them: {document['inspect']}")
    return [f"{'' if at else 'first':<10}{line}" for at, line in enumerate(lines)]


def _fits(limits: dict[str, Any]) -> list[str]:
    """Whether it fits as configured, what the ranks cost, and the longest sequence."""
    rank, largest, length, settings = (
        limits[name] for name in ("rank", "largest_rank", "longest_sequence", "settings")
    )
    if settings is None:
        return ["fits      no: no rank, pack length or batch is small enough. Choose a smaller model or more memory"]
    cost = {one["rank"]: one for one in limits["ranks"]}
    fits = "as configured" if not settings else f"only with {' '.join(f'--set {value}' for value in settings)}"
    most = f"the largest rank that fits is {largest:,}" if largest else "no rank fits"
    most += " with the other settings as they are" if settings else ""
    ranks = ", ".join(
        f"{number:,}: {one['lora_gib']:.1f} GiB and {one['tokens_per_s']:,} tokens/s" for number, one in cost.items()
    )
    lengths = (
        f"sequences up to {counted(length, 'token')} fit" if length else "no sequence length fits with these settings"
    )
    return [
        f"fits      {fits}; rank {rank:,} takes {cost[rank]['lora_gib']:.1f} GiB for LoRA weights and optimizer; {most}",
        *[f"          by rank {ranks}"] * (len(cost) > 1),
        f"          {lengths} (configured: {limits['sequence']:,})",
    ]
