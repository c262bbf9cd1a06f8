"""Speed and exactness of written answers on one GPU: Winnow's decoder, and transformers with PEFT and bitsandbytes.

    python benchmarks/generate_throughput.py speed --work DIR --tokenizer DIR --out benchmarks/results/generate_h200.json
    python benchmarks/generate_throughput.py many --model DIR --out benchmarks/results/generate_h200.json
    python benchmarks/generate_throughput.py exact --model DIR --out benchmarks/results/generate_h200.json

`speed`: the Mistral-7B shape with random weights in NF4 (speed and memory are those of the real model), LoRA r=16, 64 prompts of 100
tokens, 64 new tokens each and no end token. `transformers` is model.generate on one batch of the same prompts, as a user calls it.
`many`: 2,000 prompts of 100 tokens and answers of up to 64 tokens, NF4, one adapter, with a model's real weights; and the same
prompts over eight adapters, at once and one after another.
`exact`: greedy tokens against transformers' own, in float32 and in bfloat16. Where two answers part, the gap is that of the two tokens'
logits by transformers in float32.

Each part adds its rows to the record. Times are of the second call, so kernels are compiled; each call records its graphs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
from common import device_name, now, versions  # noqa: E402
from score_throughput import adapted, peak_gib, reset_peak, synchronize  # noqa: E402
from train_throughput import SHAPES, build_model  # noqa: E402

PROMPT, NEW, BATCH, MANY, ADAPTERS = 100, 64, 64, 2000, 8


def random_prompts(count: int, vocabulary: int) -> list[list[int]]:
    """Prompts of PROMPT random tokens."""
    rng = np.random.default_rng(0)
    return rng.integers(5, min(vocabulary, 30_000), (count, PROMPT)).tolist()


def text_prompts(count: int, directory: Path) -> list[list[int]]:
    """Arithmetic questions, which a small model answers at some length, cut or repeated to PROMPT tokens."""
    from transformers import AutoTokenizer

    tokenizer, rng = AutoTokenizer.from_pretrained(directory), np.random.default_rng(0)
    things = ["apples", "books", "tickets", "lamps", "stones", "shirts", "coins", "boats"]
    found = []
    for _ in range(count):
        a, b, c = rng.integers(2, 90, 3)
        one, other = rng.choice(things, 2, replace=False)
        text = f"A shop has {a} {one} and sells {b} of them every day. It buys {c} {other}. How many are left after two days? "
        ids = tokenizer(text * 12)["input_ids"]
        found.append(ids[-PROMPT:])
    return found


def timed(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """(seconds, peak GiB, result) of the second of two calls."""
    function()
    reset_peak()
    synchronize()
    started = time.perf_counter()
    result = function()
    synchronize()
    return time.perf_counter() - started, peak_gib(), result


def row(name: str, seconds: float, peak: float, answers: Sequence[Any], **more: Any) -> dict[str, Any]:
    """A row of the record; `answers` are arrays of written tokens."""
    tokens = sum(len(answer) for answer in answers)
    return {
        "name": name,
        "seconds": round(seconds, 3),
        "new_tokens": tokens,
        "tokens_per_s": round(tokens / seconds, 1),
        "peak_gib": round(peak, 2),
        **more,
    }


def theirs(model: Any, prompts: Sequence[Sequence[int]], new: int, ends: Sequence[int] = ()) -> list[list[int]]:
    """What model.generate writes after each of these prompts of one length, as one batch, without padding."""
    import torch

    from trainer.forward import compute_dtype
    from trainer.model import plain_attention

    ids = torch.tensor(prompts, device=next(model.parameters()).device)
    half = compute_dtype(model) == torch.bfloat16
    how: dict[str, Any] = {"eos_token_id": list(ends), "pad_token_id": 0} if ends else {"eos_token_id": None}
    with torch.inference_mode(), plain_attention(model), torch.autocast(ids.device.type, torch.bfloat16, enabled=half):
        found = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, **how
        )
    written = []
    for answer in found[:, ids.shape[1] :].tolist():
        stops = [i for i, token in enumerate(answer) if token in ends]
        written.append(answer[: stops[0] + 1] if stops else answer)
    return written


def ours(model: Any, prompts: Sequence[Sequence[int]], new: int, ends: Sequence[int] = (), **more: Any) -> list[Any]:
    """What Winnow writes, as arrays."""
    from trainer.config import GenerateConfig
    from trainer.generate import generate

    config = GenerateConfig(max_new_tokens=new, samples=0)
    return [answers[0] for answers in generate(model, prompts, config, end_ids=ends, seed=0, **more)]


def load(directory: Path, quantization: str, dtype: str) -> Any:
    """The base model."""
    from trainer.config import ModelConfig
    from trainer.model import Base

    return Base.load(ModelConfig(name=str(directory), quantization=quantization, compute_dtype=dtype))


def default_dtype() -> str:
    """bfloat16 on a GPU, float32 elsewhere."""
    import torch

    return "bfloat16" if torch.cuda.is_available() else "float32"


def speed(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of the Mistral-7B shape."""
    arguments.work.mkdir(parents=True, exist_ok=True)
    directory = arguments.work / f"model-{arguments.shape}"
    if not (directory / "config.json").exists():
        build_model(directory, arguments.tokenizer, arguments.shape)
    base = load(directory, "nf4", default_dtype())
    prompts = random_prompts(BATCH, base.model.config.vocab_size)
    with adapted(base) as model:
        about = {"model": arguments.shape, "batch": BATCH, "prompt_tokens": PROMPT}
        seconds, peak, answers = timed(lambda: ours(model, prompts, NEW))
        mine = row("winnow", seconds, peak, answers, **about)
        yield mine
        one, peak, answers = timed(lambda: ours(model, prompts[:1], NEW))
        yield row("winnow, batch of one", one, peak, answers, **about | {"batch": 1})
        few = NEW if arguments.shape == "mistral-7b" else 8
        seconds, peak, answers = timed(lambda: theirs(model, prompts, few))
        slow = row("transformers + PEFT + bitsandbytes", seconds, peak, answers, **about)
        yield slow
        yield {"name": "times transformers", "value": round(mine["tokens_per_s"] / slow["tokens_per_s"], 2)}


def many(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of a small model with real weights."""
    from trainer.adapters import save_adapter
    from trainer.generation.adapters import AdapterSet

    base = load(arguments.model, "nf4", default_dtype())
    prompts = text_prompts(arguments.prompts, arguments.model)
    ends, about = (base.model.config.eos_token_id,), {"model": arguments.model.name, "prompt_tokens": PROMPT}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(k) for k in range(ADAPTERS)]
        for k, path in enumerate(paths):
            with adapted(base, k) as model:
                save_adapter(model, path)
        with base.adapter(paths[0]) as model:
            seconds, peak, answers = timed(lambda: ours(model, prompts, NEW, ends))
            yield row("winnow, one adapter", seconds, peak, answers, **about, batch=len(prompts))
        owners = np.arange(len(prompts)) % ADAPTERS

        def one_after_another() -> list[Any]:
            """Every adapter alone on its prompts."""
            written: dict[int, Any] = {}
            for k, path in enumerate(paths):
                mine = np.flatnonzero(owners == k)
                with base.adapter(path) as model:
                    found = ours(model, [prompts[i] for i in mine], NEW, ends)
                written |= dict(zip(mine.tolist(), found, strict=True))
            return [written[i] for i in range(len(prompts))]

        def at_once() -> list[Any]:
            """All adapters side by side."""
            return ours(base.model, prompts, NEW, ends, adapters=AdapterSet.load(paths, base.decoder), owners=owners)

        seconds, peak, alone = timed(one_after_another)
        yield row(f"winnow, {ADAPTERS} adapters one after another", seconds, peak, alone, **about, batch=len(prompts))
        seconds, peak, together = timed(at_once)
        same = sum(a.tolist() == b.tolist() for a, b in zip(alone, together, strict=True))
        name = f"winnow, {ADAPTERS} adapters at once"
        yield row(name, seconds, peak, together, **about, batch=len(prompts), same_answers=same)


def exact(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of agreement with transformers."""
    prompts = text_prompts(arguments.prompts, arguments.model)
    parted: dict[str, list[tuple[list[int], int, int]]] = {}
    for dtype in ("bfloat16", "float32"):
        base = load(arguments.model, "none", dtype)
        ends = (base.model.config.eos_token_id,)
        with adapted(base) as model:
            mine, other = ours(model, prompts, NEW, ends), theirs(model, prompts, NEW, ends)
            parted[dtype] = [
                where_they_part(prompt, one.tolist(), two)
                for prompt, one, two in zip(prompts, mine, other, strict=True)
                if one.tolist() != two
            ]
            if dtype == "bfloat16":
                continue
            for name, places in parted.items():  # both by the logits of float32
                gaps = [gap(model, *place) for place in places]
                yield {
                    "name": f"greedy tokens other than transformers', {name}",
                    "model": arguments.model.name,
                    "answers": len(prompts),
                    "tokens": sum(map(len, other)),
                    "different": len(gaps),
                    "largest_gap": round(max(gaps, default=0.0), 4),
                    "over_0.05": sum(gap > 0.05 for gap in gaps),
                }


def where_they_part(prompt: Sequence[int], one: Sequence[int], two: Sequence[int]) -> tuple[list[int], int, int]:
    """The tokens before the first different one, and the two different ones."""
    at = next(i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    return [*prompt, *one[:at]], one[at], two[at]


def gap(model: Any, before: Sequence[int], one: int, two: int) -> float:
    """Difference of two tokens' logits after `before`, by transformers."""
    import torch

    from trainer.model import plain_attention

    ids = torch.tensor([before], device=next(model.parameters()).device)
    with torch.inference_mode(), plain_attention(model):
        logits = model(input_ids=ids).logits[0, -1].float()
    return float((logits[two] - logits[one]).abs())


def main() -> None:
    """Parse arguments, run a part, add its rows to the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("speed", "many", "exact"))
    parser.add_argument("--out", required=True, type=Path)
    for name in ("work", "tokenizer", "model"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="mistral-7b")
    parser.add_argument("--prompts", type=int, default=MANY)
    arguments = parser.parse_args()
    record: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"rows": []}
    settings = {"speed": f"--shape {arguments.shape}"}.get(arguments.part, f"--prompts {arguments.prompts}")
    about = {"command": f"python benchmarks/generate_throughput.py {arguments.part} {settings}"}
    about |= {"device": device_name(), "versions": versions(), "date": now()}
    for found in {"speed": speed, "many": many, "exact": exact}[arguments.part](arguments):
        record["rows"].append({"part": arguments.part, **found, **about})
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
