"""The table of docs/serving.md, from serving.py's record."""

from __future__ import annotations

from typing import Any

from common import table


def serving(record: dict[str, Any]) -> str:
    """Requests at once against one at a time, on the CPU demo's model."""
    timed = [row for row in record["rows"] if "at_once" in row]
    times = [row for row in record["rows"] if "times_one_at_a_time" in row]
    shown = ", ".join(
        f"{name} {record['versions'][name]}" for name in ("torch", "transformers", "openai", "fastapi", "uvicorn")
    )
    rows = [
        [
            f"{row['adapters']}",
            row["compute_dtype"],
            f"{row['at_once']}",
            f"{row['requests']}",
            f"{row['lost']}",
            f"{row['tokens_per_s']:.1f}",
            f"{row['requests_per_s']:.2f}",
            f"{row['latency_p50']:.2f}",
            f"{row['latency_p95']:.2f}",
        ]
        for row in timed
    ]
    faster = ", ".join(f"{row['times_one_at_a_time']:.1f}" for row in times)
    same = ", ".join(f"{row['same_answers']} of {row['compared']}" for row in times)
    return "\n".join(
        [
            f"{timed[0]['device']}; {shown}; {record['date'][:10]}; `{record['command']}`",
            "",
            f"SmolLM2-135M in NF4, adapters of rank {record['rank']} with random weights, at most {record['new_tokens']} new tokens, half "
            f"of the requests greedy, through OpenAI's client. {record['note']}",
            "",
            f"With {timed[1]['at_once']} requests at once the server writes {faster} times as many tokens per second as with one. Texts "
            f"that are equal in both ways: {same}; rounding changes the others.",
            "",
            table(
                [
                    "adapters",
                    "compute dtype",
                    "at once",
                    "requests",
                    "lost",
                    "new tokens/s",
                    "requests/s",
                    "median s",
                    "95% s",
                ],
                rows,
            ),
        ]
    )
