"""The sections of docs/benchmarks.md on training: speed next to the peers, families of the fast path, what dropout costs."""

from __future__ import annotations

from typing import Any

from common import provenance, table

INPUTS = {"qkv": "attention", "o": "attention's output", "mlp": "MLP", "down": "gate's product"}


def train_throughput(record: dict[str, Any]) -> str:
    """Training speed and memory, compared with the peers and with `plan`."""
    rows, planned = [], []
    for row in record["rows"]:
        if "error" in row:
            why = "out of memory" if row.get("out_of_memory") else "failed"
            rows.append([row["name"], str(row["rank"]), "-", why, "-", "-"])
            continue
        rows.append(
            [
                row["name"],
                str(row["rank"]),
                f"{row['tokens_per_step']:,}",
                f"{row['tokens_per_s']:,.0f}",
                f"{row['peak_gib']:.1f}",
                f"{row['mfu']:.0%}",
            ]
        )
        if "planned_gib" in row:
            layers = ", ".join(f"{count} {kind}" for kind, count in row["retention"].items())
            planned.append(
                [
                    row["name"],
                    layers + (", weights dequantised" if row["dequantized"] else ""),
                    f"{row['planned_gib']:.1f} / {row['peak_gib']:.1f}",
                    f"{row['planned_tokens_per_s']:,.0f} / {row['tokens_per_s']:,.0f}",
                ]
            )
    ratios = [[name, f"{value:.2f}"] for name, value in record["ratios"].items()]
    peers = {name: version for row in record["rows"] for name, version in row.get("versions", {}).items()}
    also = ", ".join(f"{name} {peers[name]}" for name in ("trl", "unsloth", "xformers") if name in peers)
    return "\n".join(
        [
            f"## Training on the Mistral-7B shape, {record['device'].split()[1]}"
            + (", Unsloth without xformers" if "note" in record else ""),
            provenance(record, record["device"], record["versions"]) + (f"; peers: {also}" if also else ""),
            "",
            *([record["note"]] if "note" in record else []),
            "Random weights, documents of log-normal lengths (median 200, clipped at 2,048) in packs of 2,048 "
            f"({record['packing_efficiency']:.1%} full), every token a target, NEFTune; median over steps. MFU: useful operations "
            f"over the {record['matmul_tflops']:.0f} TFLOP/s that a bf16 product of 8192 × 8192 reached in the same run.",
            "",
            table(["", "r", "tokens per step", "tokens/s", "peak GiB", "MFU"], rows),
            "",
            "Speed relative to the peers:",
            "",
            table(["", "ratio"], ratios),
            "",
            "What each of Winnow's rows kept for the backward pass, and planned / measured values:",
            "",
            table(["", "layers", "GiB", "tokens/s"], planned),
        ]
    )


def families(record: dict[str, Any]) -> str:
    """Architectures of the fast path on the same widths, next to Llama."""
    found = {row["family"]: row for row in record["rows"]}
    rows = [
        [
            name,
            f"{row['tokens_per_s']:,.0f}",
            f"{row['peak_gib']:.1f}",
            f"{row['mfu']:.0%}",
            f"{row['mfu'] / found['llama']['mfu']:.2f}",
        ]
        for name, row in found.items()
    ]
    text = (
        "Each family with Mistral-7B's widths and a quarter of its layers, otherwise as above, row winnow-fast. MFU over "
        f"{record['matmul_tflops']:.0f} TFLOP/s. "
        "Measured before the norms of q and k (Qwen 3, Gemma 3, OLMo 2 and 3) had kernels of their own."
    )
    return _section(
        "Families of the fast path", record, text, table(["family", "tokens/s", "peak GiB", "MFU", "of Llama's"], rows)
    )


def dropout_cost(record: dict[str, Any]) -> str:
    """What LoRA's dropout adds to a layer of the Mistral-7B shape."""
    rows = [
        [
            INPUTS[row["input"]],
            str(row["rank"]),
            *(f"{row[kind]['all']:.2f}" for kind in ("none", "computed", "drawn")),
        ]
        for row in record["rows"]
    ]
    shares = "; ".join(
        f"r={rank}: {share['computed']:.0%} computed, {share['drawn']:.0%} drawn"
        for rank, share in record["share"].items()
    )
    text = (
        "LoRA's part of one layer, alone on the card, ms for 8,192 tokens; masks computed in the kernels (Winnow) or drawn by torch's "
        f"generator. Of a step of 430 ms all layers would add {shares}. In a whole training step the cost is smaller: compare "
        "winnow-dropout with winnow-fast above."
    )
    return _section("LoRA's dropout", record, text, table(["input", "r", "none", "computed", "drawn"], rows))


def attention_speed(record: dict[str, Any]) -> str:
    """Attention of a layer by our own kernels and by FlashAttention 2."""
    rows = []
    for row in record["rows"]:
        times = [
            f"{row[method][part]:.2f}" if method in row else "-"
            for part in ("forward", "backward")
            for method in ("flash", "packed")
        ]
        rows.append([row["model"], f"{record['tokens'] / row['documents']:,.0f}", str(row["documents"]), *times])
    worst = max((max(check["errors"].values()) for check in record["checks"] if check["errors"]), default=0.0)
    right = sum(check["right"] for check in record["checks"])
    text = (
        f"Attention of one layer, ms for a pack of {record['tokens']:,} tokens, on the device alone: FlashAttention 2 through "
        f"torch, which caps no scores, and our own kernels. {right} of {len(record['checks'])} shapes agree with float64, repeat "
        f"their bits and isolate documents; the largest error of a row is {worst:.1%}."
    )
    header = ["heads of", "mean length", "documents", "forward, flash", "ours", "backward, flash", "ours"]
    return _section("Attention over packs", record, text, table(header, rows))


def _section(title: str, record: dict[str, Any], text: str, rows: str) -> str:
    return "\n".join([f"## {title}", provenance(record, record["device"], record["versions"]), "", text, "", rows])
