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
            str(_places(row, record["rounds"])),
            f"{row['requests']}",
            f"{row['lost']}",
            f"{row['tokens_per_s']:.1f}",
            f"{row['cpu_ms_per_token']:.0f}",
            f"{row['latency_p50']:.2f}",
            f"{row['latency_p95']:.2f}",
        ]
        for row in timed
    ]
    ratios = [
        f"{row['times_one_at_a_time']:.1f} times as many tokens per second ({row['times_in_cpu']:.1f} times less processor time for each) "
        f"with {row['compute_dtype']} and {_places(many, record['rounds'])} at once"
        for row, many in zip(times, timed[1::2], strict=True)
    ]
    same = ", ".join(f"{row['same_answers']} of {row['compared']} ({row['compute_dtype']})" for row in times)
    return "\n".join(
        [
            f"{timed[0]['device']}; {shown}; {record['date'][:10]}; `{record['command']}`",
            "",
            f"SmolLM2-135M in NF4, adapters of rank {record['rank']} with random weights, at most {record['new_tokens']} new tokens, half "
            f"of the requests greedy, through OpenAI's client. {record['note']}".rstrip(),
            "",
            f"Compared with one request at a time the server writes {', '.join(ratios)}. Texts that are equal in both ways: {same}; "
            "rounding changes the others.",
            "",
            table(
                [
                    "adapters",
                    "compute dtype",
                    "at once",
                    "requests",
                    "lost",
                    "new tokens/s",
                    "CPU ms per token",
                    "median s",
                    "95% s",
                ],
                rows,
            ),
        ]
    )


def _places(row: dict[str, Any], rounds: int) -> int:
    """Requests at once; a series in rounds may have fewer than the client allows."""
    return min(row["at_once"], row["requests"] // rounds)
