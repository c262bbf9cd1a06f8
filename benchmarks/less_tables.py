"""The section of docs/benchmarks.md on score `less` and a peer, from the record of less_agreement.py."""

from __future__ import annotations

from typing import Any

from common import table

FORMS = {"adamw": "AdamW's step, m̂ / (√v̂ + ε)", "less": "LESS's code, m / √(v + ε)"}


def less_agreement(record: dict[str, Any], provenance: str) -> str:
    """Agreement of score `less` with a peer, for both forms of Adam."""
    rows = []
    for row in record["rows"]:
        ways = [("exact gradients", [row["unprojected"]]), ("projected, as in a round", row["projected"])]
        for name, found in ways:
            spans = [_span([one[key] for one in found]) for key in ("score", "pairs")]
            worst = max(one["largest_difference"] for one in found)
            rows.append([FORMS[row["form"]], name, *spans, f"{worst:.2g}"])
    peer, own = record["peer"], record["rows"][1]["unprojected_against_the_peers_own_form"]
    return "\n".join(
        [
            "## Score `less` and a peer",
            f"{provenance}; peer: " + ", ".join(f"{name} {version}" for name, version in peer.items()),
            "",
            f"LESSAttributor of dattri-llm, with the same SmolLM2-135M, adapter of {record['steps']} steps and state of Adam, in float32; "
            f"{record['candidates']} candidates against {record['targets']} target examples. Spearman correlation of the score (mean "
            "cosine to the targets) and of all pairs, over three seeds of the projection, and the largest difference of a cosine:",
            "",
            table(["form", "Winnow's gradients", "score", "pairs", "largest difference"], rows),
            "",
            "The peer's map is AdamW's: bias correction, ε outside the root, weight decay left out, both sides of length 1 over the whole "
            "adapter. It has no form with ε inside the root, so LESS's was put into its table of optimizers for the second half; "
            "gradients, capture and cosine stay the peer's. Without that, Winnow's `less` form has a correlation of "
            f"{own['score']:.3f} (pairs {own['pairs']:.3f}) with the peer.",
        ]
    )


def _span(values: list[float]) -> str:
    low, high = (f"{value:.4f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
