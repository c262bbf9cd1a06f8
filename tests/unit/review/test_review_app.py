"""The page's server answers only requests with the token, under its own name; texts stay texts."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest
from fastapi.testclient import TestClient
from review_desk import make_desk

from al.review.app import make_app
from al.review.page import render_page

HOST, TOKEN = "127.0.0.1:8123", "the token"
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "{{ 7 * 7 }}",
    "</style><svg onload=alert(3)>",
    "\u202eevil",
]


@pytest.fixture
def client(tmp_path):
    desk = make_desk(tmp_path, HOSTILE, names=HOSTILE)
    return TestClient(
        make_app(desk, TOKEN, frozenset({HOST})), base_url=f"http://{HOST}", headers={"x-review-token": TOKEN}
    )


GETS = [
    "/",
    "/api/state",
    "/api/examples",
    "/api/examples/00000000000000ff",
    "/status",
    "/nowhere",
    "/docs",
    "/openapi.json",
]


@pytest.mark.parametrize("path", GETS)
@pytest.mark.parametrize("token", ["", "the toke", "the token!", "\xe9"])
def test_without_the_token_there_is_no_answer(client, path, token):
    headers = [(b"x-review-token", token.encode("latin-1"))]
    assert client.get(path, headers=headers).status_code == 403
    assert client.get(path, params={"token": token}, headers={"x-review-token": ""}).status_code == 403


@pytest.mark.parametrize(
    "host", ["evil.example:8123", "127.0.0.1", "127.0.0.1:8124", "", "127.0.0.1:8123.evil.example"]
)
def test_another_name_for_this_server_is_refused(client, host):
    assert client.get("/", headers={"host": host}).status_code == 400


def test_a_change_needs_the_token_in_its_header_and_no_foreign_origin(client):
    body = {"kind": "note", "key": "", "value": "x"}
    assert client.post(f"/api/change?token={TOKEN}", json=body, headers={"x-review-token": ""}).status_code == 403
    assert client.post("/api/change", json=body, headers={"origin": "http://evil.example"}).status_code == 403
    assert client.post("/api/change", json=body, headers={"origin": "null"}).status_code == 403
    assert client.post("/api/change", json=body, headers={"origin": f"http://{HOST}"}).status_code == 200


def test_an_invalid_change_gets_a_message(client):
    answer = client.post("/api/change", json={"kind": "quota", "key": "1", "value": 2.5})
    assert answer.status_code == 422 and "value" in answer.json()["error"]
    wild = client.post("/api/change", content=b'{"kind": "quota", "key": "1", "value": NaN}')
    assert wild.status_code == 422 and wild.json()["error"]


def test_large_and_endless_bodies_are_refused_unread(client):
    assert client.post("/api/change", content=b"x" * (4 * 2**20 + 1)).status_code == 413
    assert client.post("/api/change", content=iter([b"{}"])).status_code == 411


def test_every_answer_forbids_framing_sniffing_referrers_caching_and_other_sites(client):
    for path in ("/", "/api/state", "/nowhere"):
        headers = client.get(path).headers
        assert headers["referrer-policy"] == "no-referrer" and headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert not [name for name in headers if name.startswith("access-control") or name == "set-cookie"]


def test_the_policy_names_the_pages_own_script_and_style_and_nothing_inline_or_evaluated():
    page, policy = render_page()
    (script,), (style,) = (
        re.findall(r"<script>(.*?)</script>", page, re.S),
        re.findall(r"<style>(.*?)</style>", page, re.S),
    )
    for text in (script, style):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert "unsafe" not in policy and "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert not re.search(r"\son\w+=|\sstyle=|innerHTML|insertAdjacentHTML|document\.write|eval\(", page)


def test_hostile_texts_come_as_json_and_never_in_the_page(client):
    rows = client.get("/api/examples", params={"view": "left", "limit": 200}).json()["rows"]
    assert {text for text in HOSTILE if any(text in row["prompt"] for row in rows)} == set(HOSTILE)
    assert client.get("/api/examples").headers["content-type"] == "application/json"
    page = client.get("/", params={"token": TOKEN}).text
    assert not [text for text in HOSTILE if text in page]
    names = {entry["name"] for entry in client.get("/api/state").json()["clusters"]}
    assert names == set(HOSTILE[:3])


def test_a_change_comes_back_with_the_new_state_and_an_error_with_its_message(client):
    first = client.get("/api/examples").json()["rows"][0]["id"]
    state = client.post("/api/change", json={"kind": "drop", "key": first, "value": True}).json()
    assert state["draft"]["drop"] == [first] and state["revision"] == 1
    unknown = client.post("/api/change", json={"kind": "drop", "key": "00000000000000ff", "value": True})
    assert unknown.status_code == 422 and "no example of the pool" in unknown.json()["error"]
    assert client.post("/api/change", json={"kind": "drop", "more": 1}).status_code == 422
    assert client.get("/api/examples", params={"limit": 10**9}).status_code == 422
    assert client.post("/api/approve", json={"revision": 0}).status_code == 409
    assert client.post("/api/approve", json={"revision": 1}).json()["approved"]
    assert client.get("/status").json()["approved"]


@pytest.mark.parametrize("path", ["/api/state", "/api/examples", "/status"])
def test_answers_are_json_that_a_browser_reads(client, path):
    json.loads(client.get(path).text, parse_constant=lambda name: pytest.fail(f"{path} holds {name}"))
