"""A whole round for `benchmarks/scale.py`: a tiny model with random weights, and made vectors in place of embeddings, so that what is
measured is the work that grows with the pool.

The pool's rows are sorted by id, the vectors are not: near-duplicates by vectors have other texts here. No stage needs both to agree.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BUDGET = "100"


def write_model(folder: Path, tokenizer: Path) -> None:
    """A Llama of two layers with random weights, with the tokenizer and chat template of the model in the folder `tokenizer`."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    found = AutoTokenizer.from_pretrained(tokenizer)
    found.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        LlamaForCausalLM(LlamaConfig(vocab_size=len(found), **sizes)).save_pretrained(folder)


def embed_by(vectors: np.ndarray) -> Callable[[Any, Any], Any]:
    """In place of the stage `embed`: the first rows of `vectors` (n, d) as the embeddings of a pool of at most n examples."""
    from al.pool.store import Pool
    from al.run.artifacts import write_json

    def embed(session: Any, pool: Any) -> Any:
        """Publish them."""

        def build(out: Path, scratch: Path) -> None:
            """Copy the vectors."""
            keys = Pool.open(pool.path).keys
            np.save(out / "embeddings.npy", vectors[: len(keys)])
            np.save(out / "keys.npy", keys)
            write_json(out / "embeddings.json", {"examples": len(keys), "dimensions": vectors.shape[1]})

        return session.run.stage("embeddings", version=0, inputs={"pool": pool}, params={}, build=build, label="embed")

    return embed


def prepare_round(conversations: Path, vectors: np.ndarray, work: Path) -> Callable[[], None]:
    """The first round of a new run under `work`, with the demo's config but for its model and embeddings; ready to be measured."""
    from al.cache import cache_dir
    from al.commands.options import Options
    from al.commands.rounds import run_next_round
    from al.config import CONFIG_DIR
    from al.preparation import stages

    model, run = work / "tiny-model", work / "round"
    shutil.rmtree(run, ignore_errors=True)
    if not (model / "config.json").exists():
        write_model(model, cache_dir() / "smollm2-135m")
    own = (f"model.name={model}", "model.quantization=none", "model.compute_dtype=float32", "tokens.max_length=512")
    options = Options(CONFIG_DIR / "demo.yaml", own, run, as_json=True, pool=(str(conversations),))
    stages.embed = embed_by(vectors)

    def play() -> None:
        """Play it, and print what each stage took."""
        run_next_round(options, BUDGET)
        print(json.dumps(stage_seconds(run / "events.jsonl")), flush=True)

    return play


def stage_seconds(events: Path) -> dict[str, float]:
    """Seconds of each stage of a run, the longest first."""
    found = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    took = {event["stage"]: event["seconds"] for event in found if event["event"] == "stage.published"}
    return dict(sorted(took.items(), key=lambda entry: -entry[1]))
