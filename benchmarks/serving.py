"""How many requests `serve` answers per second on the CPU demo's model: 16 at once against one at a time, through OpenAI's client.

    python benchmarks/serving.py --out benchmarks/results/serving_cpu.json

The server is a process of its own on 127.0.0.1, with SmolLM2-135M in NF4 (`make assets`) and LoRA adapters of random weights. Every
request has its own prompt and seed. Some are also sent one at a time, and their answers compared. Both ways alternate in ROUNDS rounds, so
that other programs on the machine slow both down; the server's own processor time is recorded too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import openai  # noqa: E402
import psutil  # noqa: E402
from common import device_name, now, versions  # noqa: E402

from al.config import CONFIG_DIR, load  # noqa: E402

CONCURRENCY, NEW_TOKENS, RANK, ROUNDS = 16, 16, 16, 4
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
            yield json.loads(process.stdout.readline()) | {"process": psutil.Process(process.pid)}
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


@dataclass
class Tally:
    """What was sent `at_once` at a time: texts by request (None: lost), seconds of each, of all and of the server's processor."""

    at_once: int
    texts: dict[int, str | None] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    async def send(self, client: openai.AsyncOpenAI, asked: list[dict[str, Any]], numbers: Iterable[int]) -> None:
        """Send requests of these numbers."""
        gate = asyncio.Semaphore(self.at_once)

        async def one(number: int) -> None:
            """One request."""
            async with gate:
                started = time.perf_counter()
                try:
                    found = await client.chat.completions.create(**asked[number])
                except openai.APIError as error:
                    print(f"request {number} is lost: {error}", file=sys.stderr)
                    self.texts[number] = None
                    return
                self.latencies.append(time.perf_counter() - started)
            self.texts[number] = found.choices[0].message.content
            self.tokens += found.usage.completion_tokens

        started = time.perf_counter()
        await asyncio.gather(*(one(number) for number in numbers))
        self.seconds += time.perf_counter() - started

    def row(self) -> dict[str, Any]:
        """For the record."""
        p50, p95 = np.percentile(self.latencies, (50, 95))
        return {
            "at_once": self.at_once,
            "requests": len(self.texts),
            "lost": sum(text is None for text in self.texts.values()),
            "seconds": round(self.seconds, 2),
            "tokens_per_s": round(self.tokens / self.seconds, 1),
            "cpu_ms_per_token": round(1000 * self.cpu_seconds / self.tokens, 1),
            "latency_p50": round(float(p50), 2),
            "latency_p95": round(float(p95), 2),
        }


async def alternate(url: str, process: psutil.Process, asked: list[dict[str, Any]], alone: int) -> list[Tally]:
    """All requests CONCURRENCY at a time, and the first `alone` one at a time, in turns."""
    tallies = [Tally(1), Tally(CONCURRENCY)]
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300) as client:
        await Tally(CONCURRENCY).send(client, asked, range(CONCURRENCY))  # the first passes of a process are slower
        for turn in range(ROUNDS):
            for tally, count in zip(tallies, (alone, len(asked)), strict=True):
                before = sum(process.cpu_times()[:2])
                await tally.send(client, asked, range(turn * count // ROUNDS, (turn + 1) * count // ROUNDS))
                tally.cpu_seconds += sum(process.cpu_times()[:2]) - before
    return tallies


def measured(adapters: int, dtype: str, count: int, alone: int) -> Iterator[dict[str, Any]]:
    """Rows of one server."""
    with server(adapters, dtype) as found:
        models = [str(number) for number in range(1, adapters + 1)] or ["base"]
        one, many = asyncio.run(alternate(found["url"], found["process"], requests(count, models), alone))
        about = {"adapters": adapters, "compute_dtype": found["compute_dtype"]}
        rows = [tally.row() for tally in (one, many)]
        for row in rows:
            yield {**about, "device": found["device"], **row}
        ratios = {
            name: round(rows[first][key] / rows[1 - first][key], 2)
            for name, key, first in (
                ("times_one_at_a_time", "tokens_per_s", 1),
                ("times_in_cpu", "cpu_ms_per_token", 0),
            )
        }
        same = sum(text is not None and text == many.texts[number] for number, text in one.texts.items())
        yield {**about, **ratios, "compared": alone, "same_answers": same}


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
    record |= {"new_tokens": NEW_TOKENS, "rank": RANK, "rounds": ROUNDS, "note": arguments.note, "rows": []}
    alone = arguments.alone
    for adapters, dtype, count in ((3, "auto", arguments.requests), (3, "float32", 2 * alone)):
        for row in measured(adapters, dtype, count, alone):
            record["rows"].append(row)
            arguments.out.write_text(json.dumps(record, indent=1) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
