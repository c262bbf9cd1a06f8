"""Draw docs/benchmarks.md, and the study in docs/selection.md, from the records under benchmarks/results/. `--check` fails when a page is
not what the records say."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import table  # noqa: E402
from report_tables import interval_coverage, noise_detection, report_page  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "benchmarks.md"
STUDY_PAGE, STUDY_MARK = ROOT / "docs" / "selection.md", ("<!-- study -->", "<!-- /study -->")
GROUND_MARK = ("<!-- ground -->", "<!-- /ground -->")
HEAD = """# Benchmarks
Drawn by `python benchmarks/render.py` from the JSON records under `benchmarks/results/`; no figure is typed by hand.
"""


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
    return "\n".join(text)


def train_throughput(record: dict[str, Any]) -> str:
    """Training speed and memory beside the peers, and beside what `plan` says."""
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
            "## Training on the Mistral-7B shape" + (", Unsloth without xformers" if "note" in record else ""),
            provenance(record, record["device"], record["versions"]) + (f"; peers: {also}" if also else ""),
            "",
            *([record["note"]] if "note" in record else []),
            "Random weights, documents of log-normal lengths (median 200, clipped at 2,048) in packs of 2,048 "
            f"({record['packing_efficiency']:.1%} full), every token a target, NEFTune; median over steps. MFU: useful operations "
            f"over the {record['matmul_tflops']:.0f} TFLOP/s that a bf16 product of 8192 × 8192 reached in the same run.",
            "",
            table(["", "r", "tokens a step", "tokens/s", "peak GiB", "MFU"], rows),
            "",
            "Speed over the peers:",
            "",
            table(["", "ratio"], ratios),
            "",
            "What each of Winnow's rows kept for the backward pass, and `plan` against measured:",
            "",
            table(["", "layers", "GiB", "tokens/s"], planned),
        ]
    )


def reference_loss(record: dict[str, Any]) -> str:
    """Fifty losses beside a plain reference."""
    rows = [["Winnow, " + record["compute"], *_differences(record["difference"])]]
    if "difference_of_reference_bf16" in record:
        rows.append(["transformers + PEFT in bfloat16", *_differences(record["difference_of_reference_bf16"])])
    rows.append(["Winnow again, beside itself", *_differences(record["run_to_run"])])
    return "\n".join(
        [
            f"## Losses beside a plain reference ({'GPU' if 'reference_bf16' in record else 'CPU'})",
            provenance(record, record["device"], record["versions"]),
            "",
            f"{record['steps']} steps of SmolLM2-135M on {record['documents']} prompts of P3. The reference: transformers + PEFT in "
            "float32 on the CPU, one document a forward, no packing. Relative difference of the loss per step:",
            "",
            table(["", "largest", "mean"], rows),
        ]
    )


def score_throughput(record: dict[str, Any]) -> str:
    """Scoring speed beside one example a call."""
    rows = [
        [
            row["name"],
            f"{row['tokens_per_s']:,.0f}",
            f"{row['examples_per_s']:,.1f}",
            f"{row['peak_gib']:.1f}",
            f"{row['times_naive']:.1f}" if "times_naive" in row else "",
            "" if "times_naive" not in row else _error_of(row),
        ]
        for row in record["rows"]
    ]
    header = ["", "tokens/s", "examples/s", "peak GiB", "times one a call", "largest relative difference"]
    return "\n".join(
        [
            "## Scoring on the Mistral-7B shape",
            provenance(record, record["device"], record["versions"]),
            "",
            "Random weights, LoRA r=16; documents of log-normal lengths (median 200, clipped at 2,048), every token a target; NLL, "
            "entropy and margin of each. `naive-nf4` and `naive-less` are transformers, PEFT and bitsandbytes, one example a call; "
            "differences are those of a document's NLL from `naive-nf4` (of cosines from `naive-less`, both projected: root mean "
            "square). `less`: projected gradients with Adam's moments, 16,384 numbers an example. A bf16 product of 8192 × 8192 "
            f"reached {record['matmul_tflops']:.0f} TFLOP/s in the same run.",
            "",
            table(header, rows),
        ]
    )


def _error_of(row: dict[str, Any]) -> str:
    return f"{row['max_rel_err']:.1e}" if "max_rel_err" in row else f"{row['cosine_rms_err']:.1e} (cosine)"


def score_quality(record: dict[str, Any]) -> str:
    """What packing, 8-bit floats and projection do to scores."""
    parts = [
        f"## Scores of SmolLM2-135M ({'GPU' if any('fp8' in row['name'] for row in record['rows']) else 'CPU'})",
        provenance(record, record["device"], record["versions"]),
    ]
    fp8 = [row for row in record["rows"] if row["name"].startswith("fp8")]
    if fp8:
        names = ("nll_mean", "entropy_mean", "margin_mean", "top_mean")
        rows = [
            [row["name"].split(", ")[1], f"{row['median_targets']:.0f}", str(row["examples"])]
            + [f"{row['spearman'][name]:.4f}" for name in names]
            for row in fp8
        ]
        header = [
            "fp8 against exact weights",
            "median response tokens",
            "examples",
            "NLL",
            "entropy",
            "margin",
            "top probability",
        ]
        parts += ["", "Spearman correlation of scores with 8-bit weights and with exact ones:", "", table(header, rows)]
    for row in record["rows"]:
        if row["name"].startswith("packed"):
            kinds = ("max_err", "max_err_of_float32_reference")
            rows = [[name, *(f"{row[kind][name]:.1e}" for kind in kinds)] for name in row["max_err"]]
            parts += [
                "",
                f"{row['examples']} conversations of median {row['median_tokens']:.0f} tokens, float32, packed: {row['tokens_per_s']:,.0f} "
                f"tokens/s, {row['times']:.1f} times one example a call ({row['one_a_call_tokens_per_s']:,.0f}). Largest difference from "
                "transformers + PEFT in float64 (absolute under 1, else relative):",
                "",
                table(["", "Winnow, packed", "transformers in float32"], rows),
            ]
        if row["name"].startswith("projected"):
            rows = [
                [
                    f"{int(k):,}",
                    ", ".join(f"{v:.3f}" for v in found["score"]),
                    ", ".join(f"{v:.3f}" for v in found["pairs"]),
                ]
                for k, found in row["spearman"].items()
            ]
            parts += [
                "",
                f"Projected gradients of {row['candidates']} candidates and {row['targets']} targets against exact ones of all "
                f"{row['parameters']:,} parameters, Spearman per seed (exact gradients without Adam: {row['without_adam']:.3f}):",
                "",
                table(["numbers an example", "mean cosine with the targets", "single cosines"], rows),
            ]
    return "\n".join(parts)


def _differences(found: dict[str, float]) -> list[str]:
    return [f"{found['max_relative']:.1e}", f"{found['mean_relative']:.1e}"]


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
    """Speed of the demo's model over dtypes."""
    rows = [
        [
            row["compute_dtype"],
            f"{row['scoring_tokens_per_s']:,.0f}",
            f"{row['training_tokens_per_s']:,.0f}",
        ]
        for row in record["rows"]
    ]
    where = provenance(record, f"{record['processor']}, {record['threads']} threads", record["versions"])
    header = ["compute dtype", "scoring tokens/s", "training tokens/s"]
    return "\n".join(["## SmolLM2-135M in NF4 on a CPU", where, "", table(header, rows)])


def import_speed(record: dict[str, Any]) -> str:
    """Rows a second and memory of an import, by file."""
    header = ["file", "rows", "MB", "rows/s", "rows/s of processor time", "peak memory, MiB"]
    rows = [
        [
            name,
            f"{found['rows']:,}",
            f"{found['megabytes']:,.0f}",
            f"{found['rows_per_s']:,}",
            f"{found['cpu_rows_per_s']:,}",
            f"{found['peak_mib']:,}",
        ]
        for name, found in record["files"].items()
    ]
    intro = (
        "A pool imported from made files: `short` and `messages` are rows of about 90 and 190 bytes, `chat` of a thousand; `large` is "
        f"chat with one line in a thousand broken. Best of {record['repeats']}, `large` once. Memory: largest resident set."
    )
    return (
        f"## Import\n{provenance(record, record['device'], record['versions'])}\n\n{intro}\n\n{table(header, rows)}\n"
    )


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "train_h100": train_throughput,
    "train_h100_without_xformers": train_throughput,
    "score_h100": score_throughput,
    "score_quality_h100": score_quality,
    "score_quality_cpu": score_quality,
    "reference_loss_cpu": reference_loss,
    "reference_loss_h100": reference_loss,
    "noise_detection": noise_detection,
    "demo_round": demo_round,
    "cpu_speed": cpu_speed,
    "gpu_round": gpu_round,
    "import_speed": import_speed,
    "report_page": report_page,
    "interval_coverage": interval_coverage,
}


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, draw in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            parts.append(draw(json.loads(path.read_text(encoding="utf-8"))) + "\n")
    return "\n".join(parts)


def study_page() -> str:
    """docs/selection.md with the tables of the study and of the proving ground between their marks."""
    from proving_ground.tables import tables
    from study_tables import study

    text = STUDY_PAGE.read_text(encoding="utf-8")
    record, ground, summary = (_record(n) for n in ("selection_study", "proving_ground", "proving_ground_summary"))
    pools = json.loads((ROOT / "benchmarks/proving_ground/pools.json").read_text())["pools"]
    text = _between(text, STUDY_MARK, study(record) if record else "")
    return _between(text, GROUND_MARK, tables(ground, summary, pools) if ground and summary else "")


def _record(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _between(text: str, marks: tuple[str, str], drawn: str) -> str:
    """The text with `drawn` between two marks."""
    before, rest = text.split(marks[0])
    return f"{before}{marks[0]}\n{drawn}\n{marks[1]}{rest.split(marks[1])[1]}"


def main() -> None:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for path, text in ((PAGE, page()), (STUDY_PAGE, study_page())):
        if not check:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path.relative_to(ROOT)} is not what the records say: run python benchmarks/render.py")


if __name__ == "__main__":
    main()
