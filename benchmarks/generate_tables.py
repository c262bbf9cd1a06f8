"""The section on written answers of docs/benchmarks.md, from generate_throughput.py's record."""

from __future__ import annotations

from typing import Any

from common import table


def generate_throughput(record: dict[str, Any]) -> str:
    """Speed of answers on the Mistral-7B shape and a 0.5B model, and agreement with transformers."""
    parts = {name: [row for row in record["rows"] if row["part"] == name] for name in ("speed", "many", "exact")}
    timed = [
        [
            row["name"],
            row["model"],
            f"{row['batch']:,}",
            f"{row['seconds']:.2f}",
            f"{row['tokens_per_s']:,.0f}",
            f"{row['peak_gib']:.1f}",
        ]
        for row in (*parts["speed"], *parts["many"])
        if "seconds" in row
    ]
    times = next(row["value"] for row in parts["speed"] if row["name"] == "times transformers")
    agreement = [
        [
            row["name"].split(", ")[1],
            f"{row['answers']:,}",
            f"{row['different']:,}",
            f"{row['over_0.05']:,}",
            f"{row['largest_gap']:.2f}",
        ]
        for row in parts["exact"]
    ]
    about = parts["speed"][0]
    shown = ", ".join(f"{name} {about['versions'][name]}" for name in ("torch", "transformers", "peft", "bitsandbytes"))
    commands = ", ".join(f"`{parts[name][0]['command']}`" for name in parts)
    return "\n".join(
        [
            "## Writing answers",
            f"{about['device']}; {shown}; {about['date'][:10]}; {commands}",
            "",
            "Greedy answers of 64 tokens to prompts of 100 tokens, NF4 base, LoRA r=16, random weights. `transformers` is model.generate "
            f"on one batch. Winnow writes {times:.1f} times as many tokens per second at 64 prompts at once. Times include reading the "
            "prompts, dequantizing the weights once and recording the CUDA graphs.",
            "",
            table(["", "model", "prompts", "seconds", "new tokens/s", "peak GiB"], timed),
            "",
            f"Agreement with transformers' greedy tokens on {parts['exact'][0]['model']} without quantization. The gap is the difference "
            "of the two tokens' logits, by transformers in float32, where two answers part.",
            "",
            table(
                ["compute dtype", "answers", "different", "with a gap over 0.05", "largest gap"],
                agreement,
            ),
        ]
    )
