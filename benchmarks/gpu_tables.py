"""Sections of docs/benchmarks.md: several GPUs compared with one, and a smaller card's memory rehearsed."""

from __future__ import annotations

from typing import Any

from common import provenance, table

NAMES = {
    "score": "scoring",
    "embed": "embedding",
    "train": "one training on all GPUs",
    "lineages": "two trainings at the same time",
}


def many_gpus(record: dict[str, Any]) -> str:
    """Seconds of the same work with one GPU and with N."""
    rows = []
    for row in record["rows"]:
        one, many = (_seconds(row, label) for label in ("one", "many"))
        speedup = f"{row['speedup']:.2f} ×" if "speedup" in row else ""
        amount = f"{row['amount']:,} {row['unit']}" if "amount" in row else ""
        rows.append([NAMES[row["name"]], amount, one, many, speedup])
    count = record["gpus"]
    lines = [
        f"## {count} GPUs compared with one",
        provenance(record, record["device"], record["versions"]),
        "",
        f"The {record['shape']} shape with random weights in NF4, the same shards and micro-batches. Models are loaded and "
        "kernels compiled before the clock starts. Two trainings: on one GPU one after the other.",
        "",
        table(["work", "amount", "1 GPU, s", f"{count} GPUs, s", "speedup"], rows),
    ]
    return "\n".join(lines)


def _seconds(row: dict[str, Any], label: str) -> str:
    if f"error_{label}" in row:
        return "failed: " + row[f"error_{label}"].splitlines()[0][:100].replace("|", " ")
    return f"{row[f'seconds_{label}']:.1f}" if f"seconds_{label}" in row else ""


def card_memory(record: dict[str, Any]) -> str:
    """Planned memory of training, and the peaks of all work within the card's memory."""
    rows = []
    for row in record["rows"]:
        if "error" in row:
            rows.append([str(row["rank"]), "", "", "", "", f"no: {row['error'][:100]}".replace("|", " ")])
            continue
        plan, works = row["planned"], {work["name"]: work for work in row["works"]}
        rest = [work["reserved_gib"] or work["allocated_gib"] for name, work in works.items() if name != "training"]
        training = works["training"]
        rows.append(
            [
                str(row["rank"]),
                f"{plan['peak_gib']:.2f}",
                f"{training['allocated_gib']:.2f}",
                f"{training['reserved_gib'] or training['allocated_gib']:.2f}",
                f"{max(rest):.2f}",
                "yes" if row["held"] else "short of memory",
            ]
        )
    planned = next((row["planned"] for row in record["rows"] if "planned" in row), None)
    limit = next((row["limit_gib"] for row in record["rows"] if row.get("limit_gib")), None)
    card = (f"`plan --gpu` for {planned['card']} counts on {planned['card_gib']} GiB. " if planned else "") + (
        f"PyTorch got {limit} GiB of it here, the rest stands for CUDA's context and a display. " if limit else ""
    )
    held = [str(row["rank"]) for row in record["rows"] if row.get("held")]
    lines = [
        "## The memory of a 24 GB card",
        provenance(record, record["device"], record["versions"]),
        "",
        f"{card}The shipped Mistral-7B config, random weights in NF4: three training steps, scoring, evaluation and written answers. GiB. "
        f"Ranks that went on within this memory: {', '.join(held) or 'none'}; `plan` calculates others.",
        "",
        table(
            [
                "rank",
                "planned peak of training",
                "measured",
                "taken from the card",
                "other work, taken",
                "went on without shortage",
            ],
            rows,
        ),
    ]
    return "\n".join(lines)
