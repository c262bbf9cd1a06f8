"""`serve`: a run's models behind HTTP."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from al.commands.options import Options
from al.errors import ConfigError
from al.excerpt import counted
from al.prompting.models import find_models, load_base
from al.run.store import Run
from al.serving.guard import Access
from al.serving.models import Limits
from al.web import host_names, is_loopback, listen
from trainer.template import ChatTemplate
from trainer.tokenizer import load_tokenizer


@dataclass(frozen=True)
class ServeOptions:
    """The options of `serve`. `models`: names separated by commas. `token` None: a new one, unless `no_token`."""

    models: str
    host: str
    port: int
    token: str | None
    no_token: bool
    limits: Limits

    def access_token(self) -> str | None:
        """The token that clients need, or None. Raises ConfigError if the options contradict each other."""
        if self.no_token and self.token is not None:
            raise ConfigError("--token and --no-token contradict each other: give one of them.")
        if self.no_token:
            return None
        if self.token is None:
            if not is_loopback(self.host):
                raise ConfigError(
                    f"--host {self.host} is reached from other machines: choose the secret that they need with --token, or say --no-token "
                    "if everyone who reaches it may use it."
                )
            return secrets.token_urlsafe(24)
        if not self.token.isascii() or not self.token.isprintable() or " " in self.token or not self.token:
            raise ConfigError("--token: expected printable ASCII characters without spaces.")
        return self.token


def serve_models(options: Options, wanted: ServeOptions, announce: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Serve models of a run until Ctrl-C or SIGTERM. Writes nothing into the run. `announce` receives {"url", "models", "token"} when
    the address is bound.

    Returns:
        {"url", "requests": how many were answered}.

    Raises:
        ConfigError: a model that the run does not have, options that contradict each other. EnvironmentProblem: a port that is taken.
    """
    token = wanted.access_token()
    options = replace(options, run_path=options.existing_run())
    config = options.load_config()
    with Run.read(options.run_path) as run:
        names = [name.strip() for name in wanted.models.split(",") if name.strip()]
        models = find_models(run, config, names, "--models")
    if not models:
        raise ConfigError("--models: expected names separated by commas, found none.")
    with listen("127.0.0.1" if wanted.host == "localhost" else wanted.host, wanted.port) as listening:
        port = listening.getsockname()[1]
        hosts = host_names(wanted.host, port) if is_loopback(wanted.host) else None
        url = f"http://{f'[{wanted.host}]' if ':' in wanted.host else wanted.host}:{port}"
        tokenizer = load_tokenizer(config.model)
        template = ChatTemplate.resolve(tokenizer, config.model.chat_template)
        base = load_base(config, options.as_json)
        from al.serving.app import make_service_app
        from al.serving.server import running_service, serve_until_stopped

        folders = {name: adapter.path / "adapter" if adapter else None for name, adapter in models.items()}
        with running_service(base, tokenizer, template, folders, config.generate, wanted.limits) as service:
            access = Access(token, hosts, wanted.limits.body_bytes)
            announce({"url": url, "models": list(models), "token": None if wanted.token else token})
            serve_until_stopped(make_service_app(service, access), [listening])
            return {"url": url, "requests": service.metrics.answered()}


def describe_address(document: dict[str, Any], as_json: bool) -> str:
    """Where the server answers, and what clients need."""
    if as_json:
        return json.dumps(document)
    url, token = document["url"], document["token"]
    lines = [
        f"serving {', '.join(document['models'])} at {url}",
        f"OpenAI clients: base_url {url}/v1" + (f", api_key {token}" if token else ""),
        f"efficiency challenge: {url}/process, /tokenize, /decode"
        + (" with Authorization: Bearer and the same token" if token else ""),
        "Ctrl-C or SIGTERM stops it; answers under way are finished",
    ]
    return "\n".join(lines)


def describe_served(document: dict[str, Any]) -> str:
    """The last line."""
    return f"stopped after {counted(document['requests'], 'answered request')}"
