"""A hub that cannot be reached, or fails: one line that says so, the code that documents it, and no half of a pool."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


class Failing(http.server.BaseHTTPRequestHandler):
    """A hub that answers every request with a status that is an error."""

    status = 503

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def failing_hub(status: int | None) -> Iterator[str]:
    """The address of a hub on this machine that answers with `status`; None is one without a server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (Failing,), {"status": status}))
    if status is None:
        server.server_close()
    else:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    if status is not None:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "message", "advice"),
    [
        (None, 4, "the hub cannot be reached (", "WINNOW_PRESETS_DIR"),
        (503, 4, "the hub cannot be reached (Server error '503 Service Unavailable'", "Try again later"),
        (429, 4, "the hub cannot be reached (429 Too Many Requests", "Try again later"),
        (404, 3, "404", "Check the name"),
    ],
)
def test_a_hub_that_fails_is_a_one_line_error_and_nothing_is_published(tmp_path, status, code, message, advice):
    with failing_hub(status) as address:
        done = subprocess.run(
            [sys.executable, "cli.py", "pool", "import", "lima", "--run", str(tmp_path / "run")],
            cwd=ROOT,
            env={
                **os.environ,
                "HF_ENDPOINT": address,
                "HF_HOME": str(tmp_path / "hub"),
                "HF_HUB_OFFLINE": "0",
                "WINNOW_PRESETS_DIR": "",
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
    *_, said = done.stderr.splitlines()
    assert done.returncode == code, done.stderr
    assert said.startswith("error: preset:lima:train: ") and message in said and advice in said
    assert "Traceback" not in done.stderr and not [*(tmp_path / "run/artifacts").rglob("*")]
