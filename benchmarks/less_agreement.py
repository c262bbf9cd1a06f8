"""Score `less` compared with a peer: dattri-llm's LESSAttributor with the same model, adapter and state of Adam, in float32 on the CPU.

    python benchmarks/less_agreement.py --model DIR --pool FILE... --peer-python PYTHON --work DIR \\
        --out benchmarks/results/less_agreement_cpu.json

PYTHON is that of an environment with dattri-llm, transformers and peft (`pip install dattri-llm==0.1.0 transformers==5.24.0 peft==0.21.2`).
SmolLM2-135M with an adapter of 30 steps; 96 candidates against 24 target examples. Both of Winnow's forms of Adam, each with exact
gradients (no projection) and with the projection of the default size, for several seeds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from common import device_name, now, versions  # noqa: E402
from score_quality import CANDIDATES, SEEDS, STEPS, TARGETS, TRAIN, read_pool, trained  # noqa: E402

FORMS = ("adamw", "less")
PEER = "dattri-llm"


def write_task(folder: Path, model: Path, table: Any, candidates: np.ndarray, targets: np.ndarray) -> None:
    """`task.json` for less_peer.py."""
    documents = []
    for row in (*candidates, *targets):
        ids, kinds = np.asarray(table.ids(int(row))).astype(int), np.asarray(table.targets(int(row)))
        documents.append({"input_ids": ids.tolist(), "labels": np.where(kinds > 0, ids, -100).tolist()})
    text = json.dumps({"model": str(model), "documents": documents, "candidates": len(candidates)})
    (folder / "task.json").write_text(text)


def of_the_peer(python: Path, folder: Path, form: str) -> np.ndarray:
    """(candidates, targets) cosines by the peer."""
    if not (folder / f"peer-{form}.npy").exists():
        subprocess.run([python, ROOT / "benchmarks/less_peer.py", folder, form], check=True, cwd=folder)
    return np.load(folder / f"peer-{form}.npy")


def exact(base: Any, folder: Path, table: Any, candidates: np.ndarray, targets: np.ndarray, form: str) -> np.ndarray:
    """(candidates, targets) cosines of whole gradients of our own forward pass, put through our Adam."""
    from trainer.adapters import trainable_parameters
    from trainer.forward import collate, hidden_states, output_head
    from trainer.gradients import Moments
    from trainer.loss import target_nll

    moments = Moments.open(folder / "moments.safetensors", base.device)
    with base.adapter(folder / "adapter", trainable=True) as model:
        parameters = trainable_parameters(model)

        def unit(row: int, adam: bool) -> torch.Tensor:
            """The flat gradient of one document, of length 1."""
            batch = collate(table, [int(row)], base.device)
            hidden = hidden_states(model, batch)[batch.predictors]
            loss = target_nll(hidden, output_head(model), batch.labels).mean()
            parts = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
            if adam:
                parts = {name: moments.adam(name, form).direction(part) for name, part in parts.items()}
            flat = torch.cat([part.flatten() for part in parts.values()])
            return flat / flat.norm()

        aims = torch.stack([unit(row, adam=False) for row in targets])
        return torch.stack([aims @ unit(row, adam=True) for row in candidates]).numpy()


def projected(
    base: Any, folder: Path, table: Any, candidates: np.ndarray, targets: np.ndarray, form: str, seed: int
) -> np.ndarray:
    """(candidates, targets) cosines as a round computes them: packed, projected to the default size."""
    from selection.config import ScoreConfig
    from trainer.gradients import Moments, project_gradients

    moments = Moments.open(folder / "moments.safetensors", base.device)
    settings = {"dimension": ScoreConfig().gradient_dimension, "batch_tokens": 2048, "seed": seed}
    with base.adapter(folder / "adapter", trainable=True) as model:
        mine = project_gradients(model, table, candidates, moments=moments, form=form, **settings)
        theirs = project_gradients(model, table, targets, **settings)
    return mine.astype(np.float32) @ theirs.astype(np.float32).T


def agreement(found: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Rank correlation of the score (mean cosine to the targets), and of all pairs; the largest difference of a cosine."""
    from scipy.stats import spearmanr

    return {
        "score": round(float(spearmanr(found.mean(1), expected.mean(1)).statistic), 5),
        "pairs": round(float(spearmanr(found.ravel(), expected.ravel()).statistic), 5),
        "largest_difference": float(f"{np.abs(found - expected).max():.3g}"),
    }


def peer_versions(python: Path) -> dict[str, str]:
    """Versions of the peer's environment."""
    names = [PEER, "torch", "transformers", "peft"]
    code = f"import importlib.metadata as m, json; print(json.dumps({{name: m.version(name) for name in {names}}}))"
    return json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Train the adapter, ask both, write the record."""
    from trainer.config import LoraConfig, ModelConfig
    from trainer.model import Base
    from trainer.template import ChatTemplate
    from trainer.tokenizer import load_tokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--pool", required=True, type=Path, nargs="+")
    parser.add_argument("--peer-python", required=True, type=Path)
    parser.add_argument(
        "--work", required=True, type=Path, help="folder of adapter and answers; what it has is not made again"
    )
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    config = ModelConfig(name=str(arguments.model), quantization="none", compute_dtype="float32", device="cpu")
    template = ChatTemplate.resolve(load_tokenizer(config), "auto")
    table, _ = read_pool(arguments.pool, template, TRAIN + CANDIDATES + TARGETS)
    rest = np.arange(TRAIN, TRAIN + CANDIDATES + TARGETS)
    targets, candidates = rest[:TARGETS], rest[TARGETS:]
    base, folder = Base.load(config), arguments.work
    if not (folder / "task.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        trained(base, LoraConfig(r=16, alpha=32), table, folder)
        write_task(folder, arguments.model.resolve(), table, candidates, targets)
    common = (base, folder, table, candidates, targets)
    ours = {form: (exact(*common, form), [projected(*common, form, seed) for seed in SEEDS]) for form in FORMS}
    peer = {form: of_the_peer(arguments.peer_python, folder, form) for form in FORMS}
    rows = [
        {
            "form": form,
            "spread": round(float(peer[form].mean(1).std()), 5),
            "unprojected": agreement(whole, peer[form]),
            "projected": [agreement(small, peer[form]) for small in sketches],
            "unprojected_against_the_peers_own_form": agreement(whole, peer["adamw"]),
        }
        for form, (whole, sketches) in ours.items()
    ]
    print(json.dumps(rows), flush=True)
    record = {
        "command": "python benchmarks/less_agreement.py --model SMOLLM2 --pool POOL --peer-python PYTHON --work DIR",
        "date": now(),
        "device": device_name(),
        "versions": versions(),
        "peer": peer_versions(arguments.peer_python),
        "model": arguments.model.name,
        "steps": STEPS,
        "candidates": len(candidates),
        "targets": len(targets),
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
