"""The part of a summary on the review: what people changed in the selection before training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from al.run.artifacts import Artifact

LISTED = 100
"""Examples listed of those that came in and of those that went out; review.json of the selection has all."""


def review_part(roles: Mapping[str, Artifact]) -> dict[str, Any] | None:
    """What was changed, by kind, with the first examples of each; None without a review."""
    selection = roles["selection"]
    if "review.json" not in selection.manifest["files"]:
        return None
    changes = selection.json("review.json")
    counts = {f"{name}_count": len(changes[name]) for name in ("taken_out", "brought_in")}
    return {**changes, **counts, **{name: changes[name][:LISTED] for name in ("taken_out", "brought_in")}}
