"""A server on a real socket for tests: the small world's model with two adapters of random weights, and clients for it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
from tiny_world import WORDS, write_model

from al.serving.app import make_service_app
from al.serving.connection import Service
from al.serving.guard import Access
from al.serving.models import Limits
from al.serving.server import running_service, uvicorn_server
from al.web import host_names, listen
from trainer.adapters import save_adapter
from trainer.config import GenerateConfig, LoraConfig, ModelConfig
from trainer.model import Base
from trainer.template import ChatTemplate
from trainer.tokenizer import load_tokenizer

TOKEN = "a token of the tests"
NAMES = ("base", "1", "2")


@dataclass
class Live:
    """A server at `url`, what is behind it, and an HTTP client with its token."""

    url: str
    service: Service
    base: Base
    tokenizer: Any
    folders: dict[str, Path | None]
    client: httpx.Client

    def post(self, path: str, **body: Any) -> httpx.Response:
        """One request, with the token."""
        return self.client.post(path, json=body)

    def idle(self) -> bool:
        """Whether nothing is under way a moment later: nobody's answer is written on."""
        for _ in range(1000):
            worker = self.service.worker
            if not worker.waiting and not worker.running and not worker.open:
                return True
            time.sleep(0.01)
        return False


def small_base(folder: Path) -> tuple[Base, Any]:
    """A model as the small world's, whose answers depend on their prompts, and its tokenizer."""
    write_model(folder, [" ".join(WORDS), *WORDS])
    base = Base.load(ModelConfig(name=str(folder), quantization="none", compute_dtype="float32", device="cpu"))
    for parameter in base.model.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(6.0)
    return base, load_tokenizer(base.config)


def random_adapters(base: Base, folder: Path) -> dict[str, Path | None]:
    """The models of the server: the base alone, and two adapters that answer otherwise."""
    found: dict[str, Path | None] = {"base": None}
    for seed, name in enumerate(NAMES[1:], 1):
        with base.new_adapter(LoraConfig(r=2), seed=seed) as model:
            for parameter_name, parameter in model.named_parameters():
                if "lora_B" in parameter_name:
                    torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(seed))
            found[name] = folder / name / "adapter"
            save_adapter(model, found[name])
    return found


@contextmanager
def live(
    base: Base,
    tokenizer: Any,
    folders: dict[str, Path | None],
    limits: Limits,
    *,
    token: str | None = TOKEN,
    rows: int = 8192,
    **access: Any,
) -> Iterator[Live]:
    """A server with these models, in threads of this process."""
    config = GenerateConfig(max_new_tokens=12, batch_tokens=rows)
    template = ChatTemplate.resolve(tokenizer, "auto")
    with (
        listen("127.0.0.1", 0) as listening,
        running_service(base, tokenizer, template, folders, config, limits) as service,
    ):
        port = listening.getsockname()[1]
        listening.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 8192
        )  # so that a client that does not read is soon noticed
        allowed = Access(token, host_names("127.0.0.1", port), limits.body_bytes, **access)
        server = uvicorn_server(make_service_app(service, allowed))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        url, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {token}"}
        try:
            with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
                yield Live(url, service, base, tokenizer, folders, client)
        finally:
            server.should_exit = True
            thread.join(timeout=20)
