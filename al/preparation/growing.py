"""What the round before settled about a pool stays settled when the pool has grown: a stage then works on new examples alone.

The stage names the earlier artifact as its input `earlier`. If that one is lost, or was made with other parameters, all examples are new.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from al.pool.store import Pool, locate
from al.run.artifacts import Artifact
from al.run.store import Run


def made_alike(
    artifact: Artifact, inputs: Mapping[str, Artifact], params: Mapping[str, Any], follows: str = "earlier"
) -> bool:
    """Whether `artifact` was made from just these, whatever artifact it `follows`."""
    made = {role: key for role, key in artifact.manifest["inputs"].items() if role != follows}
    return (
        made == {role: source.fingerprint for role, source in inputs.items()} and artifact.manifest["params"] == params
    )


def earlier_of(
    run: Run,
    before: Artifact | None,
    inputs: Mapping[str, Artifact],
    params: Mapping[str, Any],
    holds: Callable[[Artifact], bool],
) -> Artifact | None:
    """The artifact that a stage goes on from: `before`, that of the round before, if it `holds` for what the pool has become; what it went
    on from itself, if it was made from just these inputs and is what is asked for; None: all is made new."""
    if before is None:
        return None
    if made_alike(before, inputs, params):
        return run.find(before.stage, before.manifest["inputs"].get("earlier") or "")
    return before if before.manifest["params"] == params and holds(before) else None


def as_input(earlier: Artifact | None) -> dict[str, Artifact]:
    """`earlier` as an input of a stage; none where all is made new, so that the fingerprint is what it always was."""
    return {} if earlier is None else {"earlier": earlier}


def goes_on(run: Run, earlier: Artifact, pool: Artifact, embeddings: Artifact) -> bool:
    """Whether `earlier`, made of a pool and its embeddings, is about the first examples of `pool` as the same embedder sees them."""
    seen = run.find("embeddings", earlier.manifest["inputs"]["embeddings"])
    if seen is None or seen.manifest["params"] != embeddings.manifest["params"]:
        return False
    return grew_from(run, pool, earlier.manifest["inputs"]["pool"])


def grew_from(run: Run, pool: Artifact, version: str) -> bool:
    """Whether the pool version of this fingerprint is one that `pool` grew from, and is still there with all between."""
    older: Artifact | None = pool
    while older is not None and older.fingerprint != version:
        older = run.find("pool", older.manifest["inputs"].get("previous") or "")
    return older is not None and older.fingerprint != pool.fingerprint


def known_rows(run: Run, earlier: Artifact, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the examples with these `keys` (n,) were in the pool version of `earlier`: (n,) row there, (n,) bool whether there at all."""
    version = run.find("pool", earlier.manifest["inputs"]["pool"])
    assert version is not None, "`goes_on` has found it"
    return locate(Pool.open(version.path).keys, keys)
