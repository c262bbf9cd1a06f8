"""How many requests `serve` answers per second on the CPU demo's model: 16 at once against one at a time, through OpenAI's client.

    python benchmarks/serving.py --out benchmarks/results/serving_cpu.json

The server is a process of its own on 127.0.0.1, with SmolLM2-135M in NF4 (`make assets`) and LoRA adapters of random weights. Every
request has its own prompt and seed. The first ones are also sent one at a time, and their answers compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import openai  # noqa: E402
from common import device_name, now, versions  # noqa: E402

from al.config import CONFIG_DIR, load  # noqa: E402

CONCURRENCY, NEW_TOKENS, RANK = 16, 16, 16
THINGS = ("apples", "books", "tickets", "lamps", "stones", "shirts", "coins", "boats")


def serve_demo(adapters: int, dtype: str) -> None:
    """Serve the base model (no adapters) or that many adapters, until the process is stopped; prints the address."""
    import torch

    from al.serving.app import make_service_app
    from al.serving.guard import Access
    from al.serving.models import Limits
    from al.serving.server import running_service, serve_until_stopped
    from al.web import host_names, listen
    from trainer.adapters import save_adapter
    from trainer.config import LoraConfig
    from trainer.model import Base
    from trainer.template import ChatTemplate
    from trainer.tokenizer import load_tokenizer

    config = load(CONFIG_DIR / "demo.yaml", (f"model.compute_dtype={dtype}",))
    base, tokenizer = Base.load(config.model), load_tokenizer(config.model)
    with tempfile.TemporaryDirectory() as folder:
        models: dict[str, Path | None] = {}
        for number in range(1, adapters + 1):
            models[str(number)] = path = Path(folder) / str(number)
            with base.new_adapter(LoraConfig(r=RANK), seed=number) as model:
                for name, parameter in model.named_parameters():
                    if "lora_B" in name:
                        torch.nn.init.normal_(parameter, std=0.01, generator=torch.Generator().manual_seed(number))
                save_adapter(model, path)
        template = ChatTemplate.resolve(tokenizer, config.model.chat_template)
        limits = Limits(waiting=256)
        with (
            listen("127.0.0.1", 0) as listening,
            running_service(base, tokenizer, template, models or {"base": None}, config.generate, limits) as service,
        ):
            port = listening.getsockname()[1]
            about = {"device": device_name(), "compute_dtype": str(base.compute_dtype).removeprefix("torch.")}
            print(json.dumps({"url": f"http://127.0.0.1:{port}", **about}), flush=True)
            access = Access(None, host_names("127.0.0.1", port), limits.body_bytes)
            serve_until_stopped(make_service_app(service, access), [listening])


@contextmanager
def server(adapters: int, dtype: str) -> Iterator[dict[str, Any]]:
    """What the server's process prints."""
    command = [sys.executable, __file__, "--adapters", str(adapters), "--dtype", dtype]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


def requests(count: int, models: list[str]) -> list[dict[str, Any]]:
    """Requests of about 40 to 60 tokens, half of them greedy, spread over the models."""
    rng, found = np.random.default_rng(0), []
    for number in range(count):
        a, b, c = (int(x) for x in rng.integers(2, 90, 3))
        one, other = rng.choice(THINGS, 2, replace=False)
        text = f"A shop has {a} {one} and sells {b} of them every day. It buys {c} {other}. How many are left after two days?"
        found.append(
            {
                "model": models[number % len(models)],
                "messages": [{"role": "user", "content": text}],
                "max_tokens": NEW_TOKENS,
                "temperature": 0.7 * (number % 2),
                "seed": number,
            }
        )
    return found


async def ask(url: str, asked: list[dict[str, Any]], at_once: int) -> dict[str, Any]:
    """Send all requests, `at_once` at a time; a row of the record, with the texts (None: lost)."""
    gate, seconds, texts, tokens = asyncio.Semaphore(at_once), [0.0] * len(asked), [None] * len(asked), 0
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300) as client:

        async def one(number: int) -> None:
            """One request."""
            nonlocal tokens
            async with gate:
                started = time.perf_counter()
                try:
                    found = await client.chat.completions.create(**asked[number])
                except openai.APIError as error:
                    print(f"request {number} is lost: {error}", file=sys.stderr)
                    return
                seconds[number] = time.perf_counter() - started
            texts[number], tokens = found.choices[0].message.content, tokens + found.usage.completion_tokens

        started = time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(len(asked))))
        total = time.perf_counter() - started
    p50, p95 = np.percentile(seconds, (50, 95))
    return {
        "at_once": at_once,
        "requests": len(asked),
        "lost": texts.count(None),
        "seconds": round(total, 2),
        "requests_per_s": round(len(asked) / total, 3),
        "tokens_per_s": round(tokens / total, 1),
        "latency_p50": round(float(p50), 2),
        "latency_p95": round(float(p95), 2),
        "texts": texts,
    }


def measured(adapters: int, dtype: str, count: int, alone: int) -> Iterator[dict[str, Any]]:
    """Rows of one server: `count` requests at once, and the first `alone` of them one at a time."""
    with server(adapters, dtype) as found:
        models = [str(number) for number in range(1, adapters + 1)] or ["base"]
        asked = requests(count, models)
        asyncio.run(ask(found["url"], asked[:CONCURRENCY], CONCURRENCY))  # the first passes of a process are slower
        rows = [asyncio.run(ask(found["url"], asked[:alone], 1)), asyncio.run(ask(found["url"], asked, CONCURRENCY))]
        texts = [row.pop("texts") for row in rows]
        same = sum(a is not None and a == b for a, b in zip(*texts, strict=False))
        about = {"adapters": adapters, "compute_dtype": found["compute_dtype"]}
        for row in rows:
            yield {**about, "device": found["device"], **row}
        times = rows[1]["tokens_per_s"] / rows[0]["tokens_per_s"]
        yield {**about, "times_one_at_a_time": round(times, 2), "compared": alone, "same_answers": same}


def main() -> None:
    """Parse arguments; serve, or measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--alone", type=int, default=200)
    parser.add_argument("--adapters", type=int, help="Serve this many adapters instead of measuring.")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--note", default="", help="A sentence on the circumstances, for the record.")
    arguments = parser.parse_args()
    if arguments.out is None:
        serve_demo(arguments.adapters or 0, arguments.dtype)
        return
    command = f"python benchmarks/serving.py --requests {arguments.requests} --alone {arguments.alone}"
    record = {
        "command": command,
        "date": now(),
        "versions": versions("openai", "fastapi", "uvicorn"),
        "new_tokens": NEW_TOKENS,
    }
    record |= {"rank": RANK, "note": arguments.note, "rows": []}
    alone = arguments.alone
    for adapters, dtype, count in (
        (1, "auto", arguments.requests),
        (3, "auto", arguments.requests),
        (3, "float32", alone),
    ):
        for row in measured(adapters, dtype, count, alone):
            record["rows"].append(row)
            arguments.out.write_text(json.dumps(record, indent=1) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
