"""A headless Chromium for tests of pages; they are skipped, with the reason, where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

FLAGS = [
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium_path() -> str | None:
    """Where Chromium or Chrome is, None for nowhere."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser of this test session."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (requirements-dev.txt)")
    path = chromium_path()
    if path is None:
        pytest.skip("no Chromium on this machine (on Debian: apt-get install chromium)")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses its sandbox to root
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS + sandbox)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page and what it must not do: `errors` on its console, `dialogs` it opened, `requests` it made."""

    page: Any
    errors: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", self._dismiss)

    def _dismiss(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()


@pytest.fixture
def watch(chromium: Any) -> Iterator[Callable[..., Watched]]:
    """`watch(width, theme)`: a new watched page of that width in pixels, in "light" or "dark"."""
    contexts = []

    def make(width: int = 1280, theme: str = "light") -> Watched:
        contexts.append(chromium.new_context(viewport={"width": width, "height": 850}, color_scheme=theme))
        return Watched(contexts[-1].new_page())

    yield make
    for context in contexts:
        context.close()
