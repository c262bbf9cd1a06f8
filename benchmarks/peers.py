"""QLoRA training throughput of TRL and Unsloth, on the documents of Winnow's own benchmark.

    python benchmarks/peers.py trl --model DIR --rank 16 --out rows.json

DIR holds an NF4 checkpoint saved by transformers and its tokenizer. One row is appended to the JSON list in `--out`: the median speed of
the steps after the first four, and the peak memory of training; or {"name", "error", "out_of_memory"}, with exit code 3 if the GPU's
memory is too small and 1 for any other error. A peer is set up according to its documentation: its packing (2,048 tokens, four packs a
batch), its gradient checkpointing (`-nogc`: none), its trainer, LoRA on all seven projections, NEFTune. `document_lengths` needs no torch.

Packages next to torch, transformers, peft and bitsandbytes: trl and datasets; for Unsloth also unsloth and, for attention over packed
documents, xformers (whose PyPI wheel needs the CUDA 12 runtime: nvidia-cuda-runtime-cu12).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import versions

SEQ, PACKS, NEFTUNE_ALPHA, LEARNING_RATE = 2048, 4, 5.0, 1e-4
DROPPED_STEPS = 4
DOCUMENTS_PER_STEP = 60  # about twice the documents of a step (275 tokens each), so that packs are nearly full
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PACKAGES = ("trl", "unsloth", "unsloth_zoo", "xformers", "liger-kernel", "datasets", "accelerate")
FAILED, OUT_OF_MEMORY = 1, 3


@dataclass(frozen=True)
class Peer:
    """A library and its setup."""

    library: str
    checkpointing: bool = True
    liger: bool = False
    """Only TRL: the fused kernels of liger-kernel."""


PEERS = {
    "trl": Peer("trl"),
    "trl-nogc": Peer("trl", checkpointing=False),
    "trl-liger": Peer("trl", liger=True),
    "unsloth": Peer("unsloth"),
    "unsloth-nogc": Peer("unsloth", checkpointing=False),
}


@dataclass
class Record:
    """The record of a training, step by step."""

    started: float = 0.0
    ended: list[float] = field(default_factory=list)
    """Time at the end of each step, in seconds, with the GPU's queue drained."""
    tokens: list[int] = field(default_factory=list)
    """Tokens of each batch without padding."""
    documents: list[int] = field(default_factory=list)
    """Isolated documents of each batch: places where the positions restart."""
    checkpointing: bool = False
    """Whether a layer had gradient checkpointing on when training began."""

    def speeds(self) -> list[float]:
        """Median tokens per second after the first steps, which do not count."""
        seconds = np.diff(self.ended)[DROPPED_STEPS - 1 :]
        return [float(n / s) for n, s in zip(self.tokens[DROPPED_STEPS:], seconds, strict=True)]


def document_lengths(n: int, seed: int) -> np.ndarray:
    """Lengths of `n` documents in tokens, int64 (n,): log-normal, median 200, sigma 0.8, clipped to 16..2048."""
    lengths = np.random.default_rng(seed).lognormal(np.log(200), 0.8, size=n)
    return np.clip(lengths, 16, SEQ).astype(np.int64)


def documents(n: int, seed: int) -> list[list[int]]:
    """Random token ids of `n` documents with `document_lengths(n, seed)`."""
    rng = np.random.default_rng([seed, 1])
    return [rng.integers(5, 31000, size=length).tolist() for length in document_lengths(n, seed)]


def prepare_environment(peer: Peer, scratch: str) -> None:
    """Set the environment: offline, no telemetry, no files in the working directory. Call it before importing the peer."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "UNSLOTH_DISABLE_STATISTICS"):
        os.environ[name] = "1"
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["UNSLOTH_COMPILE_LOCATION"] = str(Path(scratch) / "unsloth_compiled_cache")
    if peer.library == "unsloth":
        _load_cuda_12_runtime()


def _load_cuda_12_runtime() -> None:
    """Preload libcudart.so.12 for xformers. A torch built for CUDA 13 lacks it, and without it Unsloth falls back."""
    for directory in sys.path:
        library = Path(directory) / "nvidia" / "cuda_runtime" / "lib" / "libcudart.so.12"
        if library.exists():
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            return


def load_trl(directory: Path, rank: int) -> tuple[Any, Any, Any]:
    """(model, tokenizer, the LoRA config for the trainer)."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.bfloat16, device_map={"": device}, attn_implementation="sdpa"
    )
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
    return model, AutoTokenizer.from_pretrained(directory), lora


def load_unsloth(directory: Path, rank: int, checkpointing: bool) -> tuple[Any, Any, None]:
    """(model with its LoRA layers, tokenizer, None)."""
    import torch
    from unsloth import FastLanguageModel

    use = "unsloth" if checkpointing else False
    model, tokenizer = FastLanguageModel.from_pretrained(
        str(directory),
        max_seq_length=SEQ,
        dtype=torch.bfloat16,
        load_in_4bit=True,
        use_gradient_checkpointing=use,
        local_files_only=True,
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0,
        bias="none",
        target_modules=PROJECTIONS,
        use_gradient_checkpointing=use,
        random_state=0,
    )
    return model, tokenizer, None


def build_trainer(peer: Peer, directory: Path, rank: int, steps: int, scratch: str, record: Record) -> Any:
    """TRL's SFTTrainer (Unsloth's version of it, once Unsloth is imported) that writes its steps into `record`."""
    if peer.library == "unsloth":
        import unsloth  # noqa: F401  before trl, transformers and peft, which it changes
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    if peer.library == "unsloth":
        model, tokenizer, lora = load_unsloth(directory, rank, peer.checkpointing)
    else:
        model, tokenizer, lora = load_trl(directory, rank)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    on_gpu = torch.cuda.is_available()
    config = SFTConfig(
        output_dir=str(Path(scratch) / "out"),
        max_steps=steps,
        per_device_train_batch_size=PACKS,
        gradient_accumulation_steps=1,
        max_length=SEQ,
        packing=True,
        bf16=on_gpu,
        optim="paged_adamw_8bit" if on_gpu else "adamw_torch",
        learning_rate=LEARNING_RATE,
        gradient_checkpointing=peer.checkpointing,
        use_liger_kernel=peer.liger,
        neftune_noise_alpha=NEFTUNE_ALPHA,
        dataloader_num_workers=2,
        logging_steps=10 * steps,
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
        seed=0,
    )
    rows = Dataset.from_dict({"input_ids": documents(DOCUMENTS_PER_STEP * steps, seed=0)})
    trainer = SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer, peft_config=lora)
    return watch(trainer, record, peer.checkpointing)


def watch(trainer: Any, record: Record, checkpointing: bool) -> Any:
    """Make `trainer` record the contents of each batch and the time of each step, and stop if the first step is wrong."""
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, *arguments: Any, **more: Any) -> None:
            """Record the end of the step after the GPU has finished."""
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            record.ended.append(time.perf_counter())

    inner = trainer.training_step

    def training_step(model: Any, inputs: dict[str, Any], *arguments: Any, **more: Any) -> Any:
        """Record tokens and documents of the batch, check the first one, then train on it."""
        mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
        record.tokens.append(int(inputs["input_ids"].numel() if mask is None else mask.sum()))
        record.documents.append(len(inputs["input_ids"]) if positions is None else int((positions == 0).sum()))
        if len(record.tokens) == 1:
            shapes = {key: tuple(value.shape) for key, value in inputs.items() if hasattr(value, "shape")}
            print("first batch:", shapes, f"{record.documents[0]} documents", flush=True)
            record.checkpointing = any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
            check_first(record, checkpointing)
        return inner(model, inputs, *arguments, **more)

    trainer.training_step = training_step
    trainer.add_callback(Clock())
    return trainer


def check_first(record: Record, checkpointing: bool) -> None:
    """Raises RuntimeError if the first batch shows another setup than the row claims."""
    tokens, count = record.tokens[0], record.documents[0]
    if tokens < 0.9 * PACKS * SEQ or count <= PACKS:
        raise RuntimeError(
            f"not packed: {tokens} tokens and {count} isolated documents in the first batch, "
            f"expected about {PACKS * SEQ} tokens and more than {PACKS} documents"
        )
    if record.checkpointing and not checkpointing:
        raise RuntimeError("gradient checkpointing is on although it was switched off")


def measure(name: str, directory: Path, rank: int, steps: int, scratch: str) -> dict[str, Any]:
    """Train `steps` steps and return the row."""
    peer, record = PEERS[name], Record()
    trainer = build_trainer(peer, directory, rank, steps, scratch, record)
    import torch

    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    record.started = time.perf_counter()
    trainer.train()
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else float("nan")
    if not len(record.tokens) == len(record.ended) == steps:
        raise RuntimeError(
            f"expected {steps} steps of a batch each: {len(record.ended)} steps, {len(record.tokens)} batches"
        )
    speeds = record.speeds()
    return {
        "name": name,
        "rank": rank,
        "seq": SEQ,
        "tokens_per_step": int(np.median(record.tokens)),
        "tokens_per_s": round(float(np.median(speeds)), 1),
        "peak_gib": round(peak, 2) if on_gpu else None,
        "first_step_s": round(record.ended[0] - record.started, 2),
        "spread": [round(min(speeds), 1), round(max(speeds), 1)],
        "documents_per_step": int(np.median(record.documents)),
        "gradient_checkpointing": record.checkpointing,
        "attention": attention_of(trainer, peer),
        "optimizer": str(getattr(trainer.args.optim, "value", trainer.args.optim)),
        "loss": round(trainer.state.log_history[-1].get("train_loss", float("nan")), 3),
        "versions": versions(*PACKAGES),
    }


def attention_of(trainer: Any, peer: Peer) -> str:
    """Name of the attention used for packed documents."""
    import torch

    if peer.library == "unsloth" and torch.cuda.is_available():
        from unsloth.utils.attention_dispatch import select_attention_backend

        return str(select_attention_backend(use_varlen=True))
    return str(trainer.model.config._attn_implementation)


def failure(name: str, rank: int, error: Exception) -> dict[str, Any]:
    """The row of a peer that failed."""
    text = f"{type(error).__name__}: {error}"
    full = "OutOfMemoryError" in text or "out of memory" in text.lower()
    return {"name": name, "rank": rank, "error": text[:500], "out_of_memory": full, "versions": versions(*PACKAGES)}


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add `row` to the JSON list in `path`."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*rows, row], indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Measure one peer; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument(
        "--steps", type=int, default=12, help=f"at least {DROPPED_STEPS + 1}; the first {DROPPED_STEPS} do not count"
    )
    arguments = parser.parse_args()
    if arguments.steps <= DROPPED_STEPS:
        parser.error(f"--steps {arguments.steps}: expected more than {DROPPED_STEPS}, which do not count")
    code = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        prepare_environment(PEERS[arguments.name], scratch)
        try:
            row = measure(arguments.name, arguments.model.resolve(), arguments.rank, arguments.steps, scratch)
        except Exception as error:  # any exception of a peer becomes its row
            traceback.print_exc()
            row = failure(arguments.name, arguments.rank, error)
            code = OUT_OF_MEMORY if row["out_of_memory"] else FAILED
    append_row(arguments.out, row)
    print(json.dumps(row), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
