"""What the budget is spread over where it is not clusters of embeddings: the values of a field, or kinds of prompt.

The groups are published as a clustering, so that quotas, reasons and the report treat them as any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.config import Config, parse
from al.pool.store import Part, Pool, locate
from al.preparation.grown_clusters import Growth, own_clustering, publish_clustering
from al.preparation.pool_state import load_embeddings
from al.run import rounds
from al.run.artifacts import Artifact, write_json
from al.run.session import Session
from al.run.store import Run
from selection.cluster import describe, measure_added, measure_groups
from selection.config import KindsConfig
from selection.kinds import (
    AGREED,
    SMALLEST,
    Kinds,
    find_kinds,
    most_alike,
    sources_agree,
    split_sources,
    unevenness,
)
from selection.plane import on_plane, principal_plane
from selection.strategy import by_default, resolve
from selection.vectors import blocks

WITHOUT = "without the field"
"""Name of the group of examples that do not have the field."""
CHOSEN = ("default", "source_kinds", "kind_uniform")
"""Strategies that the default one comes to where it chooses what the budget is spread over."""
PARTS: tuple[Part, Part] = ("prompt", "response")
OPEN = "open conversation"
"""What the name of a group begins with whose kinds are topics and not tasks."""
LONGEST_NAME = 80
GROWN_VERSION = 5
"""Of groups that new examples were added to. Version 4 put prompts that are worded as no kind into the first kind."""

LEAST_PER_SOURCE = 8
"""Examples of a source on average, from which on the default goes by sources; a field with a value for each row is no source."""


def spread_over(clusters: Artifact) -> str:
    """What a clustering spreads the budget over: clusters, field, wording or kinds (`groups` of `Strategy`)."""
    return clusters.json("clusters.json").get("spread_over", "clusters")


def groups_of_strategy(session: Session, pool: Artifact, embeddings: Artifact, number: int | None) -> Artifact | None:
    """The groups that the config's strategy spreads the budget over; None for clusters of embeddings.

    The default strategy without a target goes by sources where there are several and they say something of the examples' kinds, else
    by kinds of prompt where these are uneven. What it chose last stays, unless groups are made again.

    Args:
        number: the round, whose groups are those of an earlier round where these hold on; None: groups are made again.
    """
    over = resolve(session.config.select).groups
    if over != "clusters":
        return group_examples(session, pool, embeddings, over, number)
    if not may_choose_groups(session.config):
        return None
    chosen = None if number is None else chosen_before(session.run, session.config, number)
    if chosen is not None:
        return None if chosen == "clusters" else group_examples(session, pool, embeddings, chosen, number)
    names, _ = field_values(Pool.open(pool.path), session.config.select.by)
    if enough_sources(len(names), pool.json("pool.json")["examples"]):
        found = group_examples(session, pool, embeddings, "kinds")
        if found.json("clusters.json")["quality"]["sources_agree"] >= AGREED:
            return found
    found = group_examples(session, pool, embeddings, "wording")
    return found if found.json("clusters.json")["quality"]["unevenness"] >= session.config.kinds.uneven else None


def chosen_before(run: Run, config: Config, number: int) -> str | None:
    """What the default strategy last chose to spread the budget over (`spread_over`) in a round before `number`; None if it has not chosen
    yet, or by other settings than those of `config`.

    Only rounds whose selection used it count. Where `control: auto` made the default pick at random, the config of the round names the
    default, but the clusters are those of random picks.
    """
    for entry in reversed([entry for entry in rounds.all_rounds(run) if entry.number < number]):
        then, used = parse(entry.config, f"{run.path}/run.db"), rounds.recorded(run, entry.number, "selection")
        strategy = "default" if used is None else used.manifest["params"]["select"]["strategy"]
        if not may_choose_groups(then) or strategy not in CHOSEN:
            continue
        clusters = own_clustering(run, rounds.recorded(run, entry.number, "clusters"))
        alike = (then.select.by, then.kinds) == (config.select.by, config.kinds)
        return spread_over(clusters) if alike and clusters is not None else None
    return None


def describe_groups(found: Mapping[str, Any]) -> str:
    """What groups are, with their number, from their clusters.json: "68 sources", "40 kinds of prompt", "48 clusters of embeddings"."""
    over, quality, k = found.get("spread_over", "clusters"), found["quality"], found["k"]
    by = quality.get("by", "source")
    values = "sources" if by == "source" else f"values of {by}"
    if over == "clusters":
        return f"{k:,} clusters of embeddings"
    if over == "wording":
        return f"{k:,} kinds of prompt"
    if over == "kinds" and k > quality["sources"]:
        return f"{k:,} kinds of prompt in {quality['sources']:,} {values}"
    return f"{k:,} {values}"


def may_choose_groups(config: Config) -> bool:
    """Whether the config leaves it to the pool what the budget is spread over: the default strategy for tasks, without a target."""
    return by_default(config.select) and config.goal == "tasks" and not config.target.files


def enough_sources(sources: int, examples: int) -> bool:
    """Whether there are several sources, of several examples each."""
    return 2 <= sources <= examples / LEAST_PER_SOURCE


def groups_notices(config: Config, clusters: Artifact) -> list[str]:
    """A note on why the default strategy goes by sources or by kinds of prompt; none where it does not."""
    over = spread_over(clusters)
    if not may_choose_groups(config) or over not in ("kinds", "wording"):
        return []
    found = clusters.json("clusters.json")
    quality, grown = found["quality"], found.get("growth", {"added": 0})["added"] > 0
    if over == "wording":
        holds = "held them unevenly when they were found" if grown else "holds them unevenly"
        return [
            f"the default strategy spreads the budget over {found['k']} kinds of prompt (kind_uniform), because the pool {holds} "
            f"({quality['unevenness']:.2f} nats, asked {config.kinds.uneven:g}){_open(quality)}; nothing is measured for the quotas"
        ]
    split = f", split into {found['k']} kinds of prompt" if found["k"] > quality["sources"] else ""
    then = " when they were found" if grown else ""
    return [
        f"the default strategy spreads the budget over {quality['sources']} sources{split} (source_kinds), because examples come from "
        f"several sources that differ (agreement with kinds of prompt {quality['sources_agree']:.2f}{then}); nothing is measured for "
        "the quotas"
    ]


def _open(quality: dict[str, Any]) -> str:
    share = quality.get("open_share", 0)
    return f"; {share:.0%} of the pool is open conversation, which counts as one kind" if share else ""


def group_examples(
    session: Session, pool: Artifact, embeddings: Artifact, over: str, number: int | None = None
) -> Artifact:
    """Groups as a clustering: names, sizes, quality by embeddings, places on the report's map. `over`: field, wording or kinds. With
    `number`, those of an earlier round than that where they hold on."""
    config = session.config
    params: dict[str, Any] = {"spread_over": over, "seed": config.seed}
    params |= {"by": config.select.by} if over != "wording" else {}
    params |= {"kinds": config.kinds.model_dump(mode="json")} if over != "field" else {}

    def build(out: Path, scratch: Path) -> None:
        """Write the groups in the form of a clustering."""
        reader, vectors = Pool.open(pool.path), load_embeddings(embeddings)
        with session.progress("cluster", len(reader), "examples") as progress:
            found = _groups(reader, over, config)
            progress(len(reader))
        centroids, distance, quality = measure_groups(vectors, found.of, len(found.names), config.seed)
        plane = principal_plane(vectors)
        x, y = on_plane(vectors, plane).T
        table = pa.table({"cluster": found.of.astype(np.int32), "distance": distance, "x": x, "y": y})
        pq.write_table(table, out / "clusters.parquet")
        np.save(out / "centroids.npy", centroids)
        np.save(out / "plane.npy", plane)
        _save_kinds(out, found)
        facts = {"k": len(found.names), "names": found.names, "quality": quality | found.facts, "spread_over": over}
        write_json(out / "clusters.json", facts)

    def grow(growth: Growth, out: Path, scratch: Path) -> None:
        """Write the groups of before with the new examples in them, and new groups for new values of the field."""
        with session.progress("cluster", len(growth.new), "examples") as progress:
            found = _added(growth, over, config)
            progress(len(growth.new))
        before = np.load(growth.earlier.path / "centroids.npy")
        centroids, distance = measure_added(growth.vectors, found.of, before, len(found.names))
        _save_kinds(out, found)
        growth.write(out, found.of, distance, centroids, found.names, found.facts, found.unlike)

    return publish_clustering(session, pool, embeddings, number, params, build, grow, GROWN_VERSION)


def _added(growth: Growth, over: str, config: Config) -> _Grouped:
    """The groups with what is new in them: a new example joins the group of its value of the field; of several groups of that value, the
    one with its kind of prompt, else the largest. A new value makes a new group; so do prompts of a value that are worded as no kind."""
    reader, names = Pool.open(growth.pool.path), list(growth.document["names"])
    if not len(growth.new):
        return _Grouped(np.empty(0, dtype=np.int32), names, {}, growth.kinds)
    by = config.select.by if over != "wording" else None
    values, of_group, of_new = _values(reader, growth, by)
    before = int(of_group.max()) + 1
    names += values[before:]
    size = np.bincount(growth.cluster[growth.cluster >= 0], minlength=len(of_group))
    largest = np.full(len(values), -1)
    for group in np.argsort(size, kind="stable"):
        largest[of_group[group]] = group
    largest[before:] = np.arange(len(of_group), len(names))
    found, kinds, unlike = largest[of_new], growth.kinds, np.zeros(len(growth.new), dtype=bool)
    if kinds is not None:
        prompts = reader.texts(np.arange(len(reader)), part="prompt")
        kinds[growth.new], unlike = most_alike(prompts, kinds, growth.new, config.seed)
        found = _of_their_kind(growth, kinds, of_group, of_new, found)
        many = np.bincount(of_new[unlike], minlength=len(values)) >= SMALLEST
        many[before:] = False
        own = unlike & many[of_new] & (config.kinds.k == "auto")
        if own.any():
            kinds[growth.new[own]] = kinds.max() + 1
            found[own] = len(names) + np.cumsum(many)[of_new[own]] - 1
            named = [values[code] if before > 1 else "" for code in np.flatnonzero(many)]
            names += _new_names(growth, prompts, found, named, len(names))
    size = np.bincount(np.concatenate([growth.cluster[growth.cluster >= 0], found]), minlength=len(names))
    facts = _facts_now(over, values, kinds, names, size)
    return _Grouped(found.astype(np.int32), names, facts, kinds, int(unlike.sum()))


def _of_their_kind(
    growth: Growth, kinds: np.ndarray, of_group: np.ndarray, of_new: np.ndarray, otherwise: np.ndarray
) -> np.ndarray:
    """(m,) the group that holds earlier examples of each new example's value and kind; `otherwise` (m,) where there are none."""
    old = np.flatnonzero(growth.cluster >= 0)
    pairs, first = np.unique(of_group[growth.cluster[old]] * (kinds.max() + 1) + kinds[old], return_index=True)
    at, known = locate(pairs, of_new * (kinds.max() + 1) + kinds[growth.new])
    return np.where(known, growth.cluster[old][first[at]], otherwise)


def _new_names(growth: Growth, prompts: Sequence[str], found: np.ndarray, values: list[str], known: int) -> list[str]:
    """Names of the groups from `known` on, one for each of `values`, by what their prompts are about, after the value where it says one."""
    group = growth.cluster.copy()
    group[growth.new] = found
    names = describe(prompts, group, known + len(values))[known:]
    return [f"{value}: {name}" if value else name for value, name in zip(values, names, strict=True)]


def _facts_now(
    over: str, values: list[str], kinds: np.ndarray | None, names: list[str], size: np.ndarray
) -> dict[str, Any]:
    """What a pool that has grown changes of the facts that `_groups` gives. What groups were chosen for stays: unevenness, agreement."""
    facts: dict[str, Any] = {"kinds": int(kinds.max()) + 1} if kinds is not None else {}
    if over == "kinds":
        facts["sources"] = len(values)
    if over == "wording":
        talk = np.array([name.startswith(f"{OPEN}: ") for name in names])
        facts["open_share"] = round(float(size[talk].sum() / size.sum()), 4)
    return facts


def _values(reader: Pool, growth: Growth, by: str | None) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The values of a field, first those that some group is of, and the codes of each group and of each new example; one value "" without
    a field."""
    groups = len(growth.document["names"])
    if by is None:
        return [""], np.zeros(groups, dtype=int), np.zeros(len(growth.new), dtype=int)
    _, first = np.unique(growth.cluster, return_index=True)
    values, of_group = field_values(reader, by, first[-groups:])
    new, of_new = field_values(reader, by, growth.new)
    place = {value: code for code, value in enumerate(values)}
    code = np.array([place.setdefault(value, len(place)) for value in new])
    return list(place), of_group, code[of_new]


@dataclass(frozen=True)
class _Grouped:
    """`of`: the group from 0 on of each example, `names` of the groups, `facts` of how they were found, `kinds`: the kind of prompt of each
    example of the pool where groups depend on it, else None; `unlike`: how many examples are worded as no kind."""

    of: np.ndarray
    names: list[str]
    facts: dict[str, Any]
    kinds: np.ndarray | None = None
    unlike: int = 0


def _groups(reader: Pool, over: str, config: Config) -> _Grouped:
    """The groups of a whole pool."""
    values, field = field_values(reader, config.select.by) if over != "wording" else ([], np.zeros(len(reader), int))
    if over == "field":
        return _Grouped(field, values, {"by": config.select.by})
    prompts = reader.texts(np.arange(len(reader)), part="prompt")
    kinds = _kinds(reader.path, config.kinds, config.seed)
    facts: dict[str, Any] = {"kinds": len(kinds.shared), "open_share": round(float(kinds.open[kinds.of].mean()), 4)}
    groups = kinds.groups
    if over == "wording":
        facts |= {"unevenness": round(unevenness(groups), 4)}
    if over == "kinds":
        groups, per_source = split_sources(field, kinds)
        facts |= {"by": config.select.by, "sources": len(values), "kinds_per_source": round(per_source, 2)}
        facts |= {"sources_agree": round(sources_agree(field, kinds, config.seed), 4)}
    count = int(groups.max()) + 1
    if over == "kinds" and count == len(values):
        return _Grouped(groups, values, facts)
    names = describe(prompts, groups, count)
    if over == "wording" and kinds.open.any():
        group = int(groups[kinds.open[kinds.of]][0])
        names[group] = f"{OPEN}: {names[group]}"
    if len(values) > 1:
        source = np.zeros(count, dtype=int)
        source[groups] = field
        names = [f"{values[s]}: {name}" for s, name in zip(source, names, strict=True)]
    return _Grouped(groups, names, facts, kinds.of)


def _save_kinds(out: Path, found: _Grouped) -> None:
    if found.kinds is not None:
        np.save(out / "kinds.npy", found.kinds)


@lru_cache(maxsize=1)
def _kinds(pool: Path, config: KindsConfig, seed: int) -> Kinds:
    """Kinds of prompt of a pool, which never changes. Kept, because the default may group by sources and kinds, and then by kinds alone."""
    reader = Pool.open(pool)
    prompts, responses = (reader.texts(np.arange(len(reader)), part=part) for part in PARTS)
    return find_kinds(prompts.held(), config, seed, responses, reader.labelled)


def field_values(reader: Pool, name: str, rows: np.ndarray | None = None) -> tuple[list[str], np.ndarray]:
    """The values of a metadata field, and the place (m,) of the value of each of `rows` (m,) in that list; None: of all rows.

    `source` is where an example came from, a field of its own or its file, in alphabetical order. Any other name is a field of the rows,
    its values in order of their first row. Lists and objects count as their JSON text. Examples without the field make one group.
    """
    rows = np.arange(len(reader)) if rows is None else rows
    if name == "source":
        texts, code = np.unique(reader.sources[rows], return_inverse=True)
        return [str(text) or WITHOUT for text in texts], code
    place: dict[str, int] = {}
    entries = (entry for some in blocks(rows) for entry in reader.metadata(some))
    code = np.array([place.setdefault(_text(entry.get(name)), len(place)) for entry in entries], dtype=np.int64)
    return list(place), code


def _text(value: Any) -> str:
    if value is None or value == "":
        return WITHOUT
    return (value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False))[:LONGEST_NAME]
