"""Draw docs/benchmarks.md from the records under benchmarks/results/. `--check` fails when the page is not what the records say."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "benchmarks.md"
HEAD = """# Benchmarks
Drawn by `python benchmarks/render.py` from the JSON records under `benchmarks/results/`; no figure is typed by hand.
"""


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def provenance(record: dict[str, Any], device: str, versions: dict[str, str]) -> str:
    """Where the figures come from."""
    shown = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "peft", "bitsandbytes"))
    return f"{device}; {shown}; {record['date'][:10]}; `{record['command']}`"


def gpu_round(record: dict[str, Any]) -> str:
    """Prediction and measurement of a round on the Mistral-7B shape."""
    planned, measured = record["planned"], record["measured"]
    rows = [
        [
            "peak GPU memory, GiB",
            f"{planned['peak_gib']:.2f}",
            f"{measured['peak_gib']:.2f}",
            f"{record['measured_over_planned']['peak_gib']:.2f}",
        ],
        [
            "training tokens/s",
            f"{planned['tokens_per_s']:,.0f}",
            f"{measured['tokens_per_s']:,.0f}",
            f"{record['measured_over_planned']['tokens_per_s']:.2f}",
        ],
    ]
    scoring, nf4 = record["scoring"], record["nf4"]
    text = [
        "## A round on the Mistral-7B shape",
        provenance(record, record["device"], record["versions"]),
        "",
        f"Random weights; {measured['examples']} examples picked, {measured['tokens']:,} tokens trained in {measured['steps']} steps, "
        f"LoRA r={record['model']['lora_r']}. "
        f"All {nf4['nf4_linear_layers']} linear layers of the decoder are NF4. Scoring: {scoring['measured']} examples, "
        f"{scoring['tokens'] / scoring['seconds']:,.0f} tokens/s with everything around it.",
        "",
        table(["", "`plan` said", "measured", "measured / plan"], rows),
    ]
    return "\n".join(text) + _calibration(record)


def _calibration(record: dict[str, Any]) -> str:
    if "calibration" not in record:
        return ""
    rows = [
        [
            str(e["r"]),
            str(e["packs"] * 2048),
            f"{e['dropout']:g}",
            "no" if e.get("checkpointing") is False else "yes",
            f"{e['planned_gib']:.1f}",
            f"{e['peak_gib']:.1f}",
            f"{e['planned_tokens_per_s']:,.0f}",
            f"{e['tokens_per_s']:,.0f}",
        ]
        for e in record["calibration"]
    ]
    header = [
        "r",
        "tokens a batch",
        "dropout",
        "checkpointing",
        "planned GiB",
        "peak GiB",
        "planned tokens/s",
        "tokens/s",
    ]
    return "\n\nThe same machine over batch sizes and ranks, against `plan`:\n\n" + table(header, rows)


def demo_round(record: dict[str, Any]) -> str:
    """Time, memory and results of the demo's rounds."""
    rows = []
    for entry in record["rounds"]:
        models = entry["evaluation"]["models"]
        rows.append(
            [
                str(entry["round"]),
                f"{entry['seconds']:.0f}",
                f"{entry['peak_resident_gib']:.1f}",
                f"{entry['training']['selected']['tokens_per_s']:,.0f}",
                *(
                    f"{models[name]['micro_nll']:.3f} / {models[name]['micro_em']:.1%}"
                    for name in ("base", "selected", "control")
                ),
            ]
        )
    header = [
        "round",
        "seconds",
        "peak resident GiB",
        "training tokens/s",
        "base NLL / exact match",
        "selected",
        "random control",
    ]
    first = record["rounds"][0]
    where = provenance(record, f"{record['processor']}, {first['device']}", first["versions"])
    return "\n".join(
        [
            "## The demo on a CPU",
            where,
            "",
            f"{first['budget']['examples']} examples a round; micro over {first['evaluation']['examples']} test examples. "
            "One seed proves nothing about a strategy; the report prints the intervals.",
            "",
            table(header, rows),
        ]
    )


def cpu_speed(record: dict[str, Any]) -> str:
    """Speed of the demo's model over dtype and dequantised weights."""
    rows = [
        [
            row["compute_dtype"],
            "kept" if row["cache_dequantized"] else "made on every call",
            f"{row['scoring_tokens_per_s']:,.0f}",
            f"{row['training_tokens_per_s']:,.0f}",
        ]
        for row in record["rows"]
    ]
    where = provenance(record, f"{record['processor']}, {record['threads']} threads", record["versions"])
    header = ["compute dtype", "dequantised weights", "scoring tokens/s", "training tokens/s"]
    return "\n".join(["## SmolLM2-135M in NF4 on a CPU", where, "", table(header, rows)])


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "demo_round": demo_round,
    "cpu_speed": cpu_speed,
    "gpu_round": gpu_round,
}


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, draw in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            parts.append(draw(json.loads(path.read_text(encoding="utf-8"))) + "\n")
    return "\n".join(parts)


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = page()
    if not parser.parse_args().check:
        PAGE.write_text(text, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != text:
        sys.exit("docs/benchmarks.md is not what the records say: run python benchmarks/render.py")


if __name__ == "__main__":
    main()
