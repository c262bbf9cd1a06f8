"""Losses of 50 training steps on real data, compared with a plain reference: transformers + PEFT in float32 on the CPU, unpacked.

    python benchmarks/reference_loss.py --model DIR --data FILE... --out benchmarks/results/reference_loss_cpu.json

On a CPU Winnow's trainer runs in float32 and must give the reference's loss at every step. On a GPU it runs as shipped (NF4 weights,
bfloat16, our own decoder). The reference then uses the same dequantized weights in float32 on the CPU. A second reference,
transformers + PEFT in bfloat16 on the GPU, shows the effect of rounding alone.
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

SEED, ROUND = 0, 1


def configs(model: Path, quantization: str, steps: int) -> tuple[Any, Any, Any]:
    """Model, LoRA and training sections, without noise and dropout, which a reference cannot reproduce."""
    from trainer.config import LoraConfig, ModelConfig, TrainConfig

    on_gpu = torch.cuda.is_available()
    base = ModelConfig(
        name=str(model),
        quantization=quantization,
        device="cuda" if on_gpu else "cpu",
        compute_dtype="bfloat16" if on_gpu else "float32",
    )
    train = TrainConfig(
        learning_rate=5e-4,
        pack_length=256,
        packs_per_step=2,
        packs_per_batch=2,
        neftune_alpha=0,
        checkpoint_every=10_000,
    )
    return base, LoraConfig(r=16, alpha=32, dropout=0.0), train


def read_documents(files: list[Path], model_config: Any, count: int, longest: int) -> Any:
    """A token table of the first `count` readable examples of `files` (JSON lines with prompt and completion)."""
    from trainer.template import ChatTemplate
    from trainer.tokenizer import load_tokenizer
    from trainer.tokens import TokenTable

    template = ChatTemplate.resolve(load_tokenizer(model_config), "auto")
    made = []
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            messages = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
            if all(message["content"].strip() for message in messages):
                tokenized = template.tokenize(messages)
                if len(tokenized.ids) <= longest:
                    made.append(tokenized)
            if len(made) == count:
                return TokenTable.build(made)
    return TokenTable.build(made)


def ours(
    base: Any, lora: Any, config: Any, table: Any, plan: Any, steps: int
) -> tuple[list[float], dict[str, Any], float]:
    """(losses of Winnow's trainer, its initial adapter, seconds)."""
    from trainer.adapters import trainable_parameters
    from trainer.train import train

    losses: list[float] = []
    with base.new_adapter(lora, SEED) as model, tempfile.TemporaryDirectory() as scratch:
        start = {name: p.detach().cpu().clone() for name, p in trainable_parameters(model).items()}
        started = time.perf_counter()
        train(
            model,
            table,
            plan,
            np.arange(len(table.lengths)),
            config,
            seed=SEED,
            round=ROUND,
            steps=steps,
            scratch=Path(scratch),
            on_step=lambda metrics: losses.append(metrics["loss"]),
        )
    return losses, start, time.perf_counter() - started


def reference(
    base: Any,
    lora: Any,
    config: Any,
    table: Any,
    plan: Any,
    steps: int,
    start: dict[str, Any],
    device: str,
    dtype: torch.dtype,
) -> list[float]:
    """Losses of transformers + PEFT on dense weights of `dtype`, document by document, with torch's own cross-entropy and AdamW."""
    import peft
    from transformers import AutoConfig, AutoModelForCausalLM

    from trainer.adapters import trainable_parameters
    from trainer.optim import learning_rate
    from trainer.schedule import packs_of_step

    causal = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base.config.name))
    causal.load_state_dict(dense_weights(base))
    causal = causal.to(device, dtype).eval()
    settings = peft.LoraConfig(
        r=lora.r, lora_alpha=int(lora.alpha), target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(causal, settings).train()
    parameters = trainable_parameters(model)
    assert parameters.keys() == start.keys()
    for name, parameter in parameters.items():
        parameter.data.copy_(start[name])
    optimizer = torch.optim.AdamW(parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay)
    losses = []
    for step in range(steps):
        packs = packs_of_step(step, len(plan), config, seed=SEED, round=ROUND, steps=steps)
        documents = [int(m) for pack in packs for m in plan.members[plan.offsets[pack] : plan.offsets[pack + 1]]]
        labels = [np.where(np.asarray(table.targets(d)) > 0, np.asarray(table.ids(d)), -100) for d in documents]
        count, total = sum(int((label[1:] >= 0).sum()) for label in labels), 0.0
        for document, label in zip(documents, labels, strict=True):
            ids = torch.from_numpy(np.asarray(table.ids(document)).astype(np.int64))[None].to(device)
            with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            targets = torch.from_numpy(label[1:].astype(np.int64)).to(device)
            loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum") / count
            if (label[1:] >= 0).any():
                loss.backward()
                total += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters.values(), config.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, config)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


def dense_weights(base: Any) -> dict[str, torch.Tensor]:
    """The base's state dict with NF4 weights dequantized, in float32 on the CPU."""
    import bitsandbytes as bnb
    from bitsandbytes.functional import dequantize_4bit

    state = {
        name: tensor.detach().float().cpu()
        for name, tensor in base.model.state_dict().items()
        if ".absmax" not in name and ".quant" not in name and ".nested" not in name
    }
    for name, module in base.model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            dense = dequantize_4bit(module.weight.data, module.weight.quant_state)
            state[f"{name}.weight"] = dense.view(module.out_features, module.in_features).float().cpu()
    return state


def difference(losses: list[float], expected: list[float]) -> dict[str, float]:
    """Relative differences per step: the largest, and the mean."""
    relative = np.abs(np.array(losses) - np.array(expected)) / np.abs(np.array(expected))
    return {"max_relative": float(relative.max()), "mean_relative": float(relative.mean())}


def main() -> None:
    """Run both trainings and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path, nargs="+")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--documents", type=int, default=400)
    arguments = parser.parse_args()
    from trainer.model import Base
    from trainer.packing import plan_packs

    on_gpu = torch.cuda.is_available()
    model_config, lora, config = configs(arguments.model, "nf4" if on_gpu else "none", arguments.steps)
    table = read_documents(arguments.data, model_config, arguments.documents, config.pack_length)
    plan = plan_packs(np.asarray(table.lengths), config.pack_length)
    base = Base.load(model_config)
    assert base.decoder is not None
    losses, start, seconds = ours(base, lora, config, table, plan, arguments.steps)
    again, _, _ = ours(base, lora, config, table, plan, arguments.steps)
    common = (base, lora, config, table, plan, arguments.steps, start)
    plain = reference(*common, "cpu", torch.float32)
    record: dict[str, Any] = {
        "command": f"python benchmarks/reference_loss.py --steps {arguments.steps} --documents {arguments.documents}",
        "date": now(),
        "device": device_name(),
        "versions": versions(),
        "model": arguments.model.name,
        "steps": arguments.steps,
        "documents": len(table.lengths),
        "tokens": int(np.asarray(table.lengths).sum()),
        "seconds": round(seconds, 2),
        "compute": "NF4, bfloat16" if on_gpu else "dense, float32",
        "losses": losses,
        "reference": plain,
        "difference": difference(losses, plain),
        "run_to_run": difference(again, losses),
    }
    if on_gpu:
        rounded = reference(*common, "cuda", torch.bfloat16)
        record |= {"reference_bf16": rounded, "difference_of_reference_bf16": difference(rounded, plain)}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({key: record[key] for key in record if "difference" in key or key == "run_to_run"}))


if __name__ == "__main__":
    main()
