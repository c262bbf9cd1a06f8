"""A stand-in for the hub on 127.0.0.1: the requests with which huggingface_hub makes a repository and uploads a folder to it, answered as
the hub documents them (huggingface.co/docs/hub/api; Git LFS batch API for large files)."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = (".safetensors", ".gguf", ".arrow")
OID = "0" * 40


@dataclass
class Hub:
    """What the stand-in received: `repositories` {name: the request that made it}, `files` {path: content} of all commits, `tokens` sent.
    `refuses`: the status that it answers a commit with, if not 200."""

    address: str = ""
    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str | None] = field(default_factory=set)
    objects: dict[str, bytes] = field(default_factory=dict)
    refuses: int = 200


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Serve a `Hub` for the length of the block."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def answer(self, value: Any, status: int = 200) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_PUT(self) -> None:
            hub.objects[self.path.rpartition("/")[2]] = self.body()
            self.answer({})

        def do_POST(self) -> None:
            content = self.body()
            if "/info/lfs/" not in self.path:
                hub.tokens.add(self.headers.get("Authorization"))
            for pattern, reply in ANSWERS.items():
                if match := re.fullmatch(pattern, self.path.partition("?")[0]):
                    self.answer(*reply(hub, match, content))
                    return
            self.answer({"error": f"no such page: {self.path}"}, 404)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _create(hub: Hub, match: re.Match[str], content: bytes) -> tuple[Any, int]:
    asked = json.loads(content)
    name = f"{asked.get('organization') or 'me'}/{asked['name']}"
    kind = "datasets/" if asked.get("type") == "dataset" else ""
    url = f"{hub.address}/{kind}{name}"
    if name in hub.repositories:
        return {"error": "You already created this repo", "url": url}, 409
    hub.repositories[name] = asked
    return {"url": url, "name": name, "id": OID}, 200


def _preupload(hub: Hub, match: re.Match[str], content: bytes) -> tuple[Any, int]:
    files = json.loads(content)["files"]
    modes = {file["path"]: "lfs" if file["path"].endswith(LARGE) else "regular" for file in files}
    return {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]}, 200


def _batch(hub: Hub, match: re.Match[str], content: bytes) -> tuple[Any, int]:
    objects = [
        {**entry, "actions": {"upload": {"href": f"{hub.address}/lfs/{entry['oid']}"}}}
        for entry in json.loads(content)["objects"]
    ]
    return {"transfer": "basic", "objects": objects}, 200


def _commit(hub: Hub, match: re.Match[str], content: bytes) -> tuple[Any, int]:
    if hub.refuses != 200:
        return {"error": "not allowed"}, hub.refuses
    for line in map(json.loads, content.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            hub.files[value["path"]] = base64.b64decode(value["content"])
        if line["key"] == "lfsFile":
            stored = hub.objects[value["oid"]]
            assert hashlib.sha256(stored).hexdigest() == value["oid"] and len(stored) == value["size"]
            hub.files[value["path"]] = stored
    address = f"{hub.address}/{match['name']}/commit/{OID}"
    return {"success": True, "commitOid": OID, "commitUrl": address, "hookOutput": ""}, 200


ANSWERS = {
    r"/api/repos/create": _create,
    r"/api/validate-yaml": lambda hub, match, content: ({"errors": [], "warnings": []}, 200),
    r"/api/(?:models|datasets)/(?P<name>[^/]+/[^/]+)/preupload/main": _preupload,
    r"/(?:datasets/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch": _batch,
    r"/api/(?:models|datasets)/(?P<name>[^/]+/[^/]+)/commit/main": _commit,
}
