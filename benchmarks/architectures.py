"""Builds every causal model class of transformers small, and compares Winnow with plain transformers and PEFT.

    python benchmarks/architectures.py [--only llama gemma2] [--out benchmarks/results/architectures.json]

Each class runs in a process of its own, with a memory cap and a time limit. In float32 and in bfloat16 the losses, hidden states and LoRA
gradients of a pack of documents are compared with those of the documents alone, with NEFTune's noise and without, and a document must
keep its hidden states when others stand around it. A class is exact, or refused with the reason; "wrong" is a defect of Winnow.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from common import now, versions  # noqa: E402

MEMORY, SECONDS = 6 * 2**30, 120
OUT = ROOT / "benchmarks" / "results" / "architectures.json"


def row(model_type: str) -> dict[str, Any]:
    """The result of one class, in this process."""
    import torch
    from architecture_check import Difference, compare
    from architecture_models import tiny_model
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from trainer.errors import TrainerError

    found = {"model_type": model_type, "class": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]}
    with tempfile.TemporaryDirectory() as folder:
        try:
            model = tiny_model(model_type)
            with torch.no_grad():
                model(input_ids=torch.arange(30, 45)[None], use_cache=False)
            model.save_pretrained(folder)
            del model
        except Exception as error:  # whatever transformers raises
            return {
                **found,
                "path": "not built",
                "verdict": "not built",
                "difference": None,
                "reason": first_line(error),
            }
        worst: Difference | None = None
        for dtype in ("float32", "bfloat16"):
            try:
                seen = compare(Path(folder), dtype)
            except TrainerError as error:
                return {
                    **found,
                    "path": "refused",
                    "verdict": "refused",
                    "difference": None,
                    "reason": f"{dtype}: {error}".replace(folder, "the folder of the model"),
                }
            except Exception as error:
                return {**found, "path": "transformers", "verdict": "wrong", "difference": None,
                        "reason": f"{dtype}: {type(error).__name__}: {first_line(error)}"}  # fmt: skip
            worst = seen if worst is None or seen.excess > worst.excess else worst
    verdict = "exact" if worst.excess <= 1 else "wrong"
    return {**found, "path": worst.path, "verdict": verdict, "difference": worst.values, "reason": worst.reason}


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _child(model_type: str, pipe: Any) -> None:
    import warnings

    import torch
    import transformers

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    pipe.send(row(model_type))


def apart(model_type: str) -> dict[str, Any]:
    """The result of one class, from a process of its own."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(model_type, theirs))
    process.start()
    theirs.close()
    try:
        found = ours.recv() if ours.poll(SECONDS) else None
        why = f"more than {SECONDS} s"
    except EOFError:
        found, why = None, f"its process died (memory is capped at {MEMORY // 2**30} GiB)"
    process.kill()
    process.join()
    none = {"model_type": model_type, "class": "", "path": "not built", "verdict": "not built", "difference": None}
    return found or {**none, "reason": why}


def main() -> None:
    """Run the sweep and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="model types; the record's other rows are kept. All by default")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    import peft  # noqa: F401 - imported before the processes fork, once for all
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    import trainer.model  # noqa: F401

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    kept = json.loads(options.out.read_text(encoding="utf-8"))["rows"] if options.only and options.out.exists() else []
    rows = {row["model_type"]: row for row in kept}
    for model_type in options.only or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        rows[model_type] = apart(model_type)
        print(json.dumps(rows[model_type]), flush=True)
        _write(options.out, [rows[name] for name in sorted(rows)])


def _write(out: Path, rows: list[dict[str, Any]]) -> None:
    counts = {
        verdict: sum(row["verdict"] == verdict for row in rows)
        for verdict in ("exact", "refused", "wrong", "not built")
    }
    record = {
        "command": shlex.join(["python", *sys.argv[:1]]),
        "date": now(),
        "versions": versions(),
        "counts": counts,
        "rows": rows,
    }
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
