"""The effect of packing, 8-bit floats and projection on scores: SmolLM2-135M with a briefly trained adapter, real conversations.

    python benchmarks/score_quality.py --model DIR --pool FILE... --long FILE... --out benchmarks/results/score_quality_cpu.json

On a CPU everything is float32 and compared with transformers + PEFT, one example per call: the largest difference of every
statistic from the reference in float64 (absolute for values under 1, else relative), that of the reference in float32, and the
speed-up of packs, on conversations of median 60 tokens. On a GPU weights are NF4 and computation is bfloat16: the rank
correlation of scores with 8-bit scores, on the pool's short answers and on the long answers of the files after --long.
On both: the rank correlation of nearness to a target by projected and by exact gradients (one backward pass per
example), for several seeds of the projection.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from common import device_name, now, versions  # noqa: E402

TRAIN, SCORED, CANDIDATES, TARGETS, STEPS, LONGEST = 160, 240, 96, 24, 30, 160
SEEDS = range(3)
DIMENSIONS = (4096, 8192, 16384)


def read_pool(files: list[Path], template: Any, count: int, longest: int = LONGEST) -> tuple[Any, np.ndarray]:
    """A token table of `count` conversations of at most `longest` tokens, drawn evenly over sources, and their sources."""
    from al.config.pool import PoolConfig
    from al.pool.importer import import_pool
    from al.pool.sources import find_sources
    from al.pool.store import Pool
    from trainer.tokens import TokenTable

    with tempfile.TemporaryDirectory() as out:
        import_pool(
            find_sources(PoolConfig(files=[str(file) for file in files])), Path(out), previous=None, strict=False
        )
        pool = Pool.open(Path(out))
        rows = np.flatnonzero(pool.labelled)
        _, codes = np.unique(pool.sources[rows], return_inverse=True)
        rng = np.random.default_rng(0)
        turn = np.argsort(rng.random(len(rows)))
        place = np.zeros(len(rows))
        for code in range(codes.max() + 1):
            mine = turn[codes[turn] == code]
            place[mine] = np.arange(len(mine)) + rng.random(len(mine))
        made, sources = [], []
        for row in rows[np.argsort(place)]:
            tokenized = template.tokenize(pool.messages([row])[0])
            if len(tokenized.ids) <= longest:
                made.append(tokenized)
                sources.append(str(pool.sources[row]))
            if len(made) == count:
                break
    return TokenTable.build(made), np.array(sources)


def trained(base: Any, lora: Any, table: Any, out: Path) -> None:
    """Train an adapter on the first TRAIN rows of `table` and save it with Adam's moments."""
    from trainer.config import TrainConfig
    from trainer.model import save_adapter
    from trainer.packing import plan_packs
    from trainer.train import train

    config = TrainConfig(
        learning_rate=5e-4,
        pack_length=512,
        packs_per_step=2,
        packs_per_batch=2,
        neftune_alpha=0,
        checkpoint_every=10_000,
    )
    rows = np.arange(TRAIN)
    plan = plan_packs(np.asarray(table.lengths)[rows], config.pack_length)
    with base.new_adapter(lora, 0) as model, tempfile.TemporaryDirectory() as scratch:
        train(
            model, table, plan, rows, config, seed=0, round=1, steps=STEPS, scratch=Path(scratch),
            moments=out / "moments.safetensors",
        )  # fmt: skip
        save_adapter(model, out / "adapter")


def reference_statistics(model: Any, table: Any, rows: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
    """(every statistic by transformers and PEFT in the model's dtype, one example per call; seconds)."""
    from trainer.model import plain_attention

    found: dict[str, list[float]] = {}
    with plain_attention(model), torch.inference_mode():
        started = time.perf_counter()
        for row in rows:
            ids = torch.from_numpy(np.asarray(table.ids(int(row)))).long()
            log_p = model(input_ids=ids[None], use_cache=False).logits[0, :-1].log_softmax(-1)
            nll = -log_p.gather(1, ids[1:, None])[:, 0]
            p = log_p.exp()
            top = p.topk(2).values
            target = torch.from_numpy(np.asarray(table.targets(int(row)))[1:] > 0)
            values = {
                "nll_mean": nll[target].mean(),
                "nll_total": nll[target].sum(),
                "entropy_mean": -(p * log_p).sum(-1)[target].mean(),
                "top_mean": top[target, 0].mean(),
                "margin_mean": (top[:, 0] - top[:, 1])[target].mean(),
                "accuracy": (p.argmax(-1) == ids[1:])[target].double().mean(),
                "conversation_nll": nll.sum(),
            }
            for name, value in values.items():
                found.setdefault(name, []).append(float(value))
        seconds = time.perf_counter() - started
    return {name: np.array(values) for name, values in found.items()}, seconds


def statistics_row(base: Any, path: Path, table: Any, rows: np.ndarray) -> dict[str, Any]:
    """Packed compared with one example per call: differences and speed."""
    from trainer.activation import measuring
    from trainer.measure import Wanted, measure

    with base.adapter(path) as model:
        reference_statistics(model, table, rows[:8])
        slow, slow_seconds = reference_statistics(model, table, rows)
        with measuring(model, "auto", 4096):
            measure(model, table, rows[:8], batch_tokens=4096)
            started = time.perf_counter()
            measure(model, table, rows, batch_tokens=4096)
            seconds = time.perf_counter() - started
            found = measure(model, table, rows, batch_tokens=4096, wanted=Wanted(conversation=True))
    with base.adapter(path) as model:
        exact, _ = reference_statistics(model.double(), table, rows)

    def errors(values: Any) -> dict[str, float]:
        """The largest error of each statistic, absolute under 1, else relative."""
        return {n: float(f"{np.max(np.abs(values(n) - v) / np.maximum(np.abs(v), 1)):.3g}") for n, v in exact.items()}

    lengths = np.asarray(table.lengths)[rows]
    return {
        "name": "packed against one example a call",
        "examples": len(rows),
        "median_tokens": float(np.median(lengths)),
        "max_err": errors(lambda name: getattr(found, name)),
        "max_err_of_float32_reference": errors(lambda name: slow[name]),
        "tokens_per_s": round(float(lengths.sum() / seconds), 1),
        "one_a_call_tokens_per_s": round(float(lengths.sum() / slow_seconds), 1),
        "times": round(slow_seconds / seconds, 2),
    }


def fp8_row(name: str, base: Any, path: Path, table: Any, rows: np.ndarray) -> dict[str, Any]:
    """Rank correlation of 8-bit and exact scores."""
    from scipy.stats import spearmanr

    from trainer.activation import measuring
    from trainer.measure import measure

    with base.adapter(path) as model:
        found = {}
        for weights in ("nf4", "fp8"):
            with measuring(model, weights, 4096):
                found[weights] = measure(model, table, rows, batch_tokens=4096)
    names = ("nll_mean", "entropy_mean", "margin_mean", "top_mean")
    exact, rough = found["nf4"], found["fp8"]
    return {
        "name": f"fp8 against exact weights, {name}",
        "examples": len(rows),
        "median_targets": float(np.median(exact.targets)),
        "spearman": {n: round(float(spearmanr(getattr(exact, n), getattr(rough, n)).statistic), 5) for n in names},
        "nll_rel_err_median": float(f"{np.median(np.abs(rough.nll_mean / exact.nll_mean - 1)):.3g}"),
    }


def gradient_row(base: Any, out: Path, table: Any, candidates: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """Rank correlation of projected and exact mean cosines with the targets."""
    from scipy.stats import spearmanr

    from trainer.adapters import trainable_parameters
    from trainer.forward import collate, hidden_states, output_head
    from trainer.gradients import Moments, project_gradients
    from trainer.loss import target_nll

    with base.adapter(out / "adapter", trainable=True) as model:
        parameters = trainable_parameters(model)
        moments = Moments.open(out / "moments.safetensors", base.device)

        def exact(row: int, adam: bool) -> torch.Tensor:
            """The flat gradient of one example, put through Adam if `adam`."""
            batch = collate(table, [int(row)], base.device)
            hidden = hidden_states(model, batch)[batch.predictors]
            loss = target_nll(hidden, output_head(model), batch.labels).mean()
            gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
            if adam:
                gradients = {n: moments.adam(n, "adamw").direction(g) for n, g in gradients.items()}
            flat = torch.cat([g.flatten() for g in gradients.values()])
            return flat / flat.norm()

        aims = torch.stack([exact(row, adam=False) for row in targets])
        expected = torch.stack([aims @ exact(row, adam=True) for row in candidates]).cpu().numpy()
        plain = torch.stack([aims @ exact(row, adam=False) for row in candidates]).cpu().numpy()
        found: dict[str, Any] = {}
        for dimension in DIMENSIONS:
            scores, pairs = [], []
            for seed in SEEDS:
                settings = {"dimension": dimension, "batch_tokens": 2048, "seed": seed}
                mine = project_gradients(model, table, candidates, moments=moments, **settings).astype(np.float32)
                theirs = project_gradients(model, table, targets, **settings).astype(np.float32)
                cosine = mine @ theirs.T
                scores.append(round(float(spearmanr(cosine.mean(1), expected.mean(1)).statistic), 4))
                pairs.append(round(float(spearmanr(cosine.ravel(), expected.ravel()).statistic), 4))
            found[str(dimension)] = {"score": scores, "pairs": pairs}
    return {
        "name": "projected gradients against exact ones",
        "candidates": len(candidates),
        "targets": len(targets),
        "parameters": sum(p.numel() for p in parameters.values()),
        "score_spread": round(float(expected.mean(1).std()), 4),
        "spearman": found,
        "without_adam": round(float(spearmanr(plain.mean(1), expected.mean(1)).statistic), 4),
    }


def main() -> None:
    """Train the adapter, measure, write the record."""
    from trainer.config import LoraConfig, ModelConfig
    from trainer.model import Base
    from trainer.template import ChatTemplate
    from trainer.tokenizer import load_tokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--pool", required=True, type=Path, nargs="+")
    parser.add_argument("--long", default=[], type=Path, nargs="*", help="files with answers of about a hundred tokens")
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    config = ModelConfig(
        name=str(arguments.model),
        quantization="nf4" if on_gpu else "none",
        compute_dtype="bfloat16" if on_gpu else "float32",
        device="cuda" if on_gpu else "cpu",
    )
    template = ChatTemplate.resolve(load_tokenizer(config), "auto")
    table, sources = read_pool(arguments.pool, template, TRAIN + SCORED + CANDIDATES + 40 * TARGETS)
    base = Base.load(config)
    record: dict[str, Any] = {
        "device": device_name(),
        "versions": versions(),
        "date": now(),
        "command": "python benchmarks/score_quality.py --model SMOLLM2 --pool POOL --long LONG",
        "rows": [],
    }

    def add(row: dict[str, Any]) -> None:
        """Append a row to the record and save it."""
        record["rows"].append(row)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(row), flush=True)

    lengths = np.asarray(table.lengths)
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory)
        trained(base, LoraConfig(r=16, alpha=32), table, out)
        rest = np.arange(TRAIN, len(table))
        scored = rest[np.argsort(np.abs(lengths[rest] - 60), kind="stable")][:SCORED] if not on_gpu else rest[:1000]
        if on_gpu:
            add(fp8_row("short answers", base, out / "adapter", table, scored))
            if arguments.long:
                long, _ = read_pool(arguments.long, template, 1000, longest=512)
                add(fp8_row("long answers", base, out / "adapter", long, np.arange(len(long))))
        # Targets of two sources; candidates of all.
        names, counts = np.unique(sources[rest], return_counts=True)
        aimed = names[np.argsort(-counts)][:2]
        targets = np.concatenate([rest[sources[rest] == name][: TARGETS // 2] for name in aimed])
        candidates = np.setdiff1d(rest, targets)[:CANDIDATES]
        add(gradient_row(base, out, table, candidates, targets))
        if not on_gpu:  # last: the reference in float64 changes the model
            add(statistics_row(base, out / "adapter", table, scored))


if __name__ == "__main__":
    main()
