"""Parts of docs/benchmarks.md: the page of a report, its intervals, and suspected noise."""

from __future__ import annotations

from typing import Any

from common import table

MARKS = {
    "first_text_s": "text readable",
    "first_chart_s": "verdict chart drawn",
    "dom_content_loaded_s": "DOMContentLoaded",
    "searchable_s": "map and picked examples ready",
    "plotly_chart_s": "first chart of plotly.js drawn",
    "blocked_s": "longest task (running plotly.js)",
}


def report_page(record: dict[str, Any]) -> str:
    """Loading times of a large run's page."""
    run, opened = record["run"], record["opened"]
    rows = [
        [words, f"{record['median'][mark]:.2f}", f"{max(once[mark] for once in opened):.2f}"]
        for mark, words in MARKS.items()
    ]
    return "\n".join(
        [
            "## The report page",
            _where(record),
            "",
            f"Report of a run of {run['examples']:,} examples, {run['clusters']} clusters and {run['picks']:,} picks: "
            f"{record['page_bytes'] / 1e6:.2f} MB, opened from disk in headless Chromium {len(opened)} times while other work "
            f"ran (load {record['load_before']:.1f}). Seconds from the start of navigation:",
            "",
            table(["", "median", "longest"], rows),
        ]
    )


def interval_coverage(record: dict[str, Any]) -> str:
    """How often intervals contain the true difference."""
    rows = [
        [
            row["test_set"],
            str(row["examples"]),
            *(
                f"{row[way][metric]:.1%}"
                for way in ("by_source", "from_the_whole")
                for metric in ("macro_nll", "macro_em")
            ),
        ]
        for row in record["rows"]
    ]
    header = [
        "test set",
        "examples",
        "NLL",
        "exact match",
        "NLL, whole test set",
        "exact match, whole test set",
    ]
    return "\n".join(
        [
            "## Intervals of macro differences",
            _where(record),
            "",
            f"How often the 95% interval contains the true difference, in {record['simulations']} simulated test sets each. Winnow "
            "resamples within each source (`al/evaluation/bootstrap.py`). The last two columns resample examples of the whole test set.",
            "",
            table(header, rows),
        ]
    )


def _where(record: dict[str, Any]) -> str:
    shown = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"{record['device']}; {shown}; {record['date'][:10]}; `{record['command']}`"


def noise_detection(record: dict[str, Any]) -> str:
    """Suspected noise compared with planted noise."""

    def share(value: float | None) -> str:
        """A percentage, or a dash for None."""
        return "–" if value is None else f"{value:.0%}"

    of_versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    rows = [
        [
            row["pool"],
            f"{row['trained']:,}",
            row["sample"],
            f"{row['measured']:,}",
            share(row["recall"]),
            share(row["precision"]),
            f"{row['false']:.1%}",
        ]
        for row in record["rows"]
    ]
    header = [
        "pool",
        "adapter trained on",
        "measured",
        "examples",
        "suspected share of planted noise",
        "planted share of suspects",
        "suspected share of other examples",
    ]
    text = [
        "## Suspected noise",
        f"{record['device']}; {of_versions}; {record['date']}; `{record['command']}`",
        "",
        "Pools of the selection study; in the noisy ones a tenth of the examples have exchanged answers. SmolLM2-135M; adapters "
        "trained on equally many examples of each cluster. Trained on 0: the base model, which Winnow does not use for this. "
        "Samples: means of five draws.",
        "",
        table(header, rows),
    ]
    return "\n".join(text)
