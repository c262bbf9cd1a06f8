"""The review page: a shell without data. Its script fetches everything and writes it as text, never as HTML."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
REPORT_CSS = Path(__file__).parent.parent / "report" / "templates" / "report.css"


def render_page() -> tuple[str, str]:
    """(page, Content-Security-Policy). The policy allows only the page's own script and styles, and requests only to this server."""
    script = (TEMPLATES / "review.js").read_text(encoding="utf-8")
    style = palette() + (TEMPLATES / "review.css").read_text(encoding="utf-8")
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("review.html.j2").render(css=Markup(style), script=Markup(script))
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def palette() -> str:
    """The colours of the report, both themes: its stylesheet up to the first other rule."""
    return REPORT_CSS.read_text(encoding="utf-8").split("* { box-sizing", 1)[0]


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
