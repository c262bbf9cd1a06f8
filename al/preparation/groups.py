"""What the budget is spread over where it is not clusters of embeddings: the values of a field, or kinds of prompt.

The groups are published as a clustering, so that quotas, reasons and the report treat them as any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.config import Config
from al.pool.store import Pool
from al.preparation.pool_state import load_embeddings
from al.run.artifacts import Artifact, write_json
from al.run.session import Session
from selection.cluster import describe, measure_groups, project
from selection.config import KindsConfig
from selection.kinds import AGREED, Kinds, find_kinds, sources_agree, split_sources, unevenness
from selection.strategy import by_default, resolve

WITHOUT = "without the field"
"""Name of the group of examples that do not have the field."""
LONGEST_NAME = 80


LEAST_PER_SOURCE = 8
"""Examples of a source on average, from which on the default goes by sources; a field with a value for each row is no source."""


def spread_over(clusters: Artifact) -> str:
    """What a clustering spreads the budget over: clusters, field, wording or kinds (`groups` of `Strategy`)."""
    return clusters.json("clusters.json").get("spread_over", "clusters")


def groups_of_strategy(session: Session, pool: Artifact, embeddings: Artifact) -> Artifact | None:
    """The groups that the config's strategy spreads the budget over; None for clusters of embeddings.

    The default strategy without a target goes by sources where there are several and they say something of the examples' kinds, else
    by kinds of prompt where these are uneven.
    """
    over = resolve(session.config.select).groups
    if over != "clusters":
        return group_examples(session, pool, embeddings, over)
    if not may_choose_groups(session.config):
        return None
    names, _ = field_values(Pool.open(pool.path), session.config.select.by)
    if enough_sources(len(names), pool.json("pool.json")["examples"]):
        found = group_examples(session, pool, embeddings, "kinds")
        if found.json("clusters.json")["quality"]["sources_agree"] >= AGREED:
            return found
    found = group_examples(session, pool, embeddings, "wording")
    return found if found.json("clusters.json")["quality"]["unevenness"] >= session.config.kinds.uneven else None


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
    """Whether the config leaves it to the pool what the budget is spread over: the default strategy, without a target."""
    return by_default(config.select) and not config.target.files


def enough_sources(sources: int, examples: int) -> bool:
    """Whether there are several sources, of several examples each."""
    return 2 <= sources <= examples / LEAST_PER_SOURCE


def groups_notices(config: Config, clusters: Artifact) -> list[str]:
    """A note on why the default strategy goes by sources or by kinds of prompt; none where it does not."""
    over = spread_over(clusters)
    if not may_choose_groups(config) or over not in ("kinds", "wording"):
        return []
    found = clusters.json("clusters.json")
    quality = found["quality"]
    if over == "wording":
        return [
            f"the default strategy spreads the budget over {found['k']} kinds of prompt (kind_uniform), because the pool holds them "
            f"unevenly ({quality['unevenness']:.2f} nats, asked {config.kinds.uneven:g}); nothing is measured for the quotas"
        ]
    split = f", split into {found['k']} kinds of prompt" if found["k"] > quality["sources"] else ""
    return [
        f"the default strategy spreads the budget over {quality['sources']} sources{split} (source_kinds), because examples come from "
        f"several sources that differ (agreement with kinds of prompt {quality['sources_agree']:.2f}); nothing is measured for the quotas"
    ]


def group_examples(session: Session, pool: Artifact, embeddings: Artifact, over: str) -> Artifact:
    """Groups as a clustering: names, sizes, quality by embeddings, places on the report's map. `over`: field, wording or kinds."""
    config = session.config

    def build(out: Path, scratch: Path) -> None:
        """Write the groups in the form of a clustering."""
        reader, vectors = Pool.open(pool.path), load_embeddings(embeddings)
        with session.progress("cluster", len(reader), "examples") as progress:
            assignment, names, facts = _groups(reader, over, config)
            progress(len(reader))
        centroids, distance, quality = measure_groups(vectors, assignment, len(names), config.seed)
        x, y = project(vectors).T
        table = pa.table({"cluster": assignment.astype(np.int32), "distance": distance, "x": x, "y": y})
        pq.write_table(table, out / "clusters.parquet")
        np.save(out / "centroids.npy", centroids)
        facts = {"k": len(names), "names": names, "quality": quality | facts, "spread_over": over}
        write_json(out / "clusters.json", facts)

    params: dict[str, Any] = {"spread_over": over, "seed": config.seed}
    params |= {"by": config.select.by} if over != "wording" else {}
    params |= {"kinds": config.kinds.model_dump(mode="json")} if over != "field" else {}
    inputs = {"pool": pool, "embeddings": embeddings}
    return session.run.stage("clusters", version=4, inputs=inputs, params=params, build=build, label="cluster")


def _groups(reader: Pool, over: str, config: Config) -> tuple[np.ndarray, list[str], dict[str, Any]]:
    """(n,) group of each row from 0 on, the groups' names, and what to record of how they were found."""
    values, field = field_values(reader, config.select.by) if over != "wording" else ([], np.zeros(len(reader), int))
    if over == "field":
        return field, values, {"by": config.select.by}
    prompts = reader.texts(np.arange(len(reader)), part="prompt")
    kinds = _kinds(reader.path, config.kinds, config.seed)
    facts: dict[str, Any] = {"kinds": len(kinds.shared)}
    groups = kinds.of
    if over == "wording":
        facts |= {"unevenness": round(unevenness(groups), 4)}
    if over == "kinds":
        groups, per_source = split_sources(field, kinds)
        facts |= {"by": config.select.by, "sources": len(values), "kinds_per_source": round(per_source, 2)}
        facts |= {"sources_agree": round(sources_agree(field, kinds, config.seed), 4)}
    count = int(groups.max()) + 1
    if over == "kinds" and count == len(values):
        return groups, values, facts
    names = describe(prompts, groups, count)
    if len(values) > 1:
        source = np.zeros(count, dtype=int)
        source[groups] = field
        names = [f"{values[s]}: {name}" for s, name in zip(source, names, strict=True)]
    return groups, names, facts


@lru_cache(maxsize=1)
def _kinds(pool: Path, config: KindsConfig, seed: int) -> Kinds:
    """Kinds of prompt of a pool, which never changes. Kept, because the default may group by sources and kinds, and then by kinds alone."""
    reader = Pool.open(pool)
    return find_kinds(reader.texts(np.arange(len(reader)), part="prompt").held(), config, seed)


def field_values(reader: Pool, name: str) -> tuple[list[str], np.ndarray]:
    """The values of a metadata field in order of their first row, and the place (n,) of each row's value in that list.

    `source` is where an example came from, a field of its own or its file; any other name is a field of the rows. Lists and objects count
    as their JSON text. Examples without the field make one group.
    """
    if name == "source":
        texts, code = np.unique(reader.sources, return_inverse=True)
        return [str(text) or WITHOUT for text in texts], code
    place: dict[str, int] = {}
    code = np.empty(len(reader), dtype=np.int64)
    for start in range(0, len(reader), 4096):
        rows = np.arange(start, min(start + 4096, len(reader)))
        for row, entry in zip(rows, reader.metadata(rows), strict=True):
            code[row] = place.setdefault(_text(entry.get(name)), len(place))
    return list(place), code


def _text(value: Any) -> str:
    if value is None or value == "":
        return WITHOUT
    return (value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False))[:LONGEST_NAME]
