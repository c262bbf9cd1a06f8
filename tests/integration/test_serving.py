"""The server as its clients see it: OpenAI's client, the challenge's evaluator, and clients that misbehave."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import httpx
import openai
import pytest
import torch
from live_service import NAMES, TOKEN, live, random_adapters, small_base

from al.prompting.answers import Answering, Sampling
from al.serving.models import Limits
from trainer.model import Base, plain_attention
from trainer.template import ChatTemplate

TALK = [{"role": "system", "content": "river"}, {"role": "user", "content": "seven stone paper"}]
WORDS = ("red", "green", "blue", "river", "stone", "paper", "metal", "cloud")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The model, its tokenizer, and its adapters by name."""
    folder = tmp_path_factory.mktemp("served")
    base, tokenizer = small_base(folder / "model")
    return base, tokenizer, random_adapters(base, folder)


@pytest.fixture(scope="module")
def reference(parts):
    """The same model again, for what transformers and `generate` make of it."""
    config, weights = parts[0].config, parts[0].model.state_dict()
    base = Base.load(config)
    base.model.load_state_dict(weights)
    return base


@pytest.fixture(scope="module")
def server(parts):
    with live(*parts, Limits(new_tokens=300, waiting=256), body_seconds=1.0, send_seconds=2.0) as found:
        yield found
        assert found.idle(), "some request was never ended"


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKEN, max_retries=0) as found:
        yield found


def complete(server, prompt="red green", **more):
    response = server.post("/v1/completions", **{"model": "base", "prompt": prompt, "temperature": 0, **more})
    assert response.status_code == 200, response.text
    return response.json()["choices"]


def forward(reference, folder, ids):
    """(T - 1, V) log-probabilities of one whole forward pass of transformers."""
    with reference.adapter(folder) as model, torch.no_grad(), plain_attention(model):
        return model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)


# OpenAI's API, through OpenAI's client.


def test_each_model_of_the_list_answers_by_name_as_in_generate(parts, reference, client):
    _, tokenizer, folders = parts
    assert [model.id for model in client.models.list()] == list(NAMES) and client.models.retrieve("1").id == "1"
    answering = Answering(reference, tokenizer, ChatTemplate.resolve(tokenizer))
    texts = {}
    for name, folder in folders.items():
        adapter = folder and SimpleNamespace(path=folder.parent)
        (expected,) = answering.answer(adapter, [TALK], Sampling(1, 0, 1.0, 9, 0))
        found = client.chat.completions.create(model=name, messages=TALK, temperature=0, max_tokens=9)
        texts[name] = found.choices[0].message.content
        assert texts[name].strip() == expected[0]["text"]
        assert found.usage.completion_tokens == expected[0]["tokens"] and found.model == name
        assert found.usage.prompt_tokens == len(answering.prompt(TALK, 9))
    assert len(set(texts.values())) == 3


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 0.9, "seed": 4, "n": 3, "top_p": 0.9}])
@pytest.mark.parametrize("stop", [None, ["e", "qq"]])
def test_a_stream_is_the_answer_in_pieces(client, settings, stop):
    asked = {
        "model": "1",
        "messages": TALK,
        "max_completion_tokens": 30,
        "logprobs": True,
        "top_logprobs": 2,
        "stop": stop,
    }
    whole = client.chat.completions.create(**asked, **settings)
    chunks = list(
        client.chat.completions.create(**asked, **settings, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[-1].usage == whole.usage and chunks[-1].choices == []
    for choice in whole.choices:
        mine = [chunk.choices[0] for chunk in chunks[:-1] if chunk.choices[0].index == choice.index]
        assert mine[0].delta.role == "assistant" and [c.finish_reason for c in mine if c.finish_reason] == [
            choice.finish_reason
        ]
        assert "".join(c.delta.content or "" for c in mine) == choice.message.content
        logprobs = [entry.model_dump() for c in mine if c.logprobs for entry in c.logprobs.content]
        rest = [entry.model_dump() for entry in choice.logprobs.content]
        assert [entry["token"] for entry in logprobs] == [entry["token"] for entry in rest]
        assert [entry["logprob"] for entry in logprobs] == pytest.approx([entry["logprob"] for entry in rest], abs=1e-4)
        assert all(len(entry["top_logprobs"]) == 2 for entry in rest)
        if stop:
            assert "e" not in choice.message.content
    assert len({choice.message.content for choice in whole.choices}) == len(whole.choices)


def test_completions_echo_their_prompts_with_the_logprobs_of_a_forward_pass(server, reference, client):
    prompts = ["red green blue", "stone"]
    found = client.completions.create(model="2", prompt=prompts, echo=True, logprobs=3, max_tokens=5, n=2, seed=1)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert found.usage.prompt_tokens == sum(len(server.service.served.encode(prompt)) for prompt in prompts)
    for choice in found.choices:
        shown, prompt = choice.logprobs, prompts[choice.index // 2]
        assert choice.text.startswith(prompt) and shown.token_logprobs[0] is None and shown.text_offset[0] == 0
        before = server.service.served.encode(prompt)
        assert shown.tokens[: len(before)] == [server.tokenizer.decode([token]) for token in before]
        assert shown.text_offset[len(before)] == len(prompt)
        logprobs = forward(reference, server.folders["2"], before)
        expected = logprobs.gather(1, torch.tensor(before[1:])[:, None])[:, 0].tolist()
        assert shown.token_logprobs[1 : len(before)] == pytest.approx(expected, abs=1e-4)
        assert len(shown.tokens) == len(before) + 5
    as_tokens = client.completions.create(
        model="2", prompt=[server.service.served.encode(prompt) for prompt in prompts], max_tokens=5, n=2, seed=1
    )
    assert [p + c.text for p, c in zip(sum(([p] * 2 for p in prompts), []), as_tokens.choices, strict=True)] == [
        choice.text for choice in found.choices
    ]
    streamed = list(
        client.completions.create(model="2", prompt=prompts, echo=True, max_tokens=5, n=2, seed=1, stream=True)
    )
    for choice in found.choices:
        pieces = [chunk.choices[0].text for chunk in streamed if chunk.choices[0].index == choice.index]
        assert "".join(pieces) == choice.text
    scored = client.completions.create(model="2", prompt="red green blue", echo=True, logprobs=0, max_tokens=0).choices[
        0
    ]
    assert scored.text == "red green blue" and scored.finish_reason == "length"


def test_a_seed_gives_the_same_answer_in_any_company_and_none_gives_others(client):
    def ask(seed):
        found = client.completions.create(model="1", prompt="red", max_tokens=20, n=2, seed=seed)
        return [choice.text for choice in found.choices]

    with ThreadPoolExecutor(8) as pool:
        alone = ask(7)
        busy = list(pool.map(ask, [7, 1, None, 7, 2, -3, 7, None]))
    assert busy[0] == busy[3] == busy[6] == alone and alone[0] != alone[1]
    assert len({str(texts) for texts in busy}) == 6


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "differ"),
        ({"stream_options": {"include_usage": True}}, "needs stream"),
        ({"extra_body": {"repetition_penalty": 2}}, "repetition_penalty"),
        ({"max_tokens": 301}, "at most 300"),
        ({"n": 128, "max_tokens": 300}, "cache"),
        ({"temperature": 2.5}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [*TALK, {"role": "assistant", "content": "yes"}]}, "ends with a message to respond to"),
        ({"messages": [{"role": "user", "content": "red " * 600}]}, "context of 512"),
    ],
)
def test_what_would_change_the_answer_and_is_not_supported_is_refused(client, more, message):
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.chat.completions.create(**{"model": "base", "messages": TALK, **more})
    assert caught.value.type == "invalid_request_error"


def test_what_changes_no_answer_is_accepted(client):
    neutral = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "user": "me",
        "tools": [],
        "store": False,
    }
    more = {"response_format": {"type": "text"}, "metadata": {"a": "b"}, "max_tokens": 4, "temperature": 0}
    plain = client.chat.completions.create(model="base", messages=TALK, max_tokens=4, temperature=0)
    found = client.chat.completions.create(model="base", messages=TALK, **neutral, **more)
    assert found.choices[0].message.content == plain.choices[0].message.content
    parts = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in TALK]
    found = client.chat.completions.create(model="base", messages=parts, max_tokens=4, temperature=0)
    assert found.choices[0].message.content == plain.choices[0].message.content


def test_errors_have_the_status_and_the_form_that_openai_clients_know(server, client):
    with pytest.raises(openai.NotFoundError, match="'other' is not served; this server has base, 1, 2"):
        client.chat.completions.create(model="other", messages=TALK)
    with pytest.raises(openai.AuthenticationError, match="Bearer"):
        client.with_options(api_key="wrong").models.list()
    refused = server.post("/v1/models")
    assert refused.status_code == 405 and refused.headers["allow"] == "GET" and refused.json()["error"]["message"]
    assert server.post("/nowhere").status_code == 404


# The challenge's API.


def test_process_gives_text_tokens_and_the_logprobs_of_a_forward_pass(server, reference):
    asked = {"prompt": "red green", "max_new_tokens": 6, "seed": 3}
    found = server.post("/process", **asked).json()
    assert sorted(found) == ["logprob", "request_time", "text", "tokens"] and found["request_time"] > 0
    assert server.post("/process", **asked, num_samples=1, top_k=200, temperature=0.8).json()["text"] == found["text"]
    assert server.post("/process", **asked | {"seed": 4}).json()["text"] != found["text"]
    echoed = server.post("/process", **asked, echo_prompt=True).json()
    assert echoed["text"] == "red green" + found["text"]
    prompt = server.post("/tokenize", text="red green").json()["tokens"]
    assert [token["text"] for token in echoed["tokens"][: len(prompt)]] == ["red", " green"]
    assert echoed["tokens"][len(prompt) :] == [
        {
            **token,
            "logprob": pytest.approx(token["logprob"], abs=1e-4),
            "top_logprob": pytest.approx(token["top_logprob"], abs=1e-4),
        }
        for token in found["tokens"]
    ]
    assert found["logprob"] == pytest.approx(sum(token["logprob"] for token in found["tokens"]))
    greedy = server.post("/process", prompt="red green", max_new_tokens=6, temperature=0, echo_prompt=True).json()
    logprobs, ids = [], list(prompt)
    while len(ids) < len(greedy["tokens"]):
        last = forward(reference, None, [*ids, 0])[-1]
        ids.append(int(last.argmax()))
        logprobs.append(float(last.max()))
    shown = greedy["tokens"][len(prompt) :]
    assert [token["logprob"] for token in shown] == pytest.approx(logprobs, abs=1e-4)
    assert [list(token["top_logprob"].values()) for token in shown] == [[pytest.approx(v, abs=1e-4)] for v in logprobs]
    assert [token["text"] for token in shown] == [server.tokenizer.decode([token]) for token in ids[len(prompt) :]]


def test_the_request_of_helms_client_is_understood(server):
    helm = {
        "prompt": "red",
        "temperature": 1e-7,
        "num_return_sequences": 1,
        "max_new_tokens": 20,
        "top_p": 1,
        "echo_prompt": False,
    }
    helm |= {"top_k_per_token": 2, "stop_sequences": []}
    found = server.post("/process", **helm).json()
    greedy = server.post("/process", prompt="red", temperature=0, max_new_tokens=20).json()
    assert found["text"] == greedy["text"] and all(len(token["top_logprob"]) <= 2 for token in found["tokens"])
    assert max(len(token["top_logprob"]) for token in found["tokens"]) == 2
    stop = found["text"][6]
    stopped = server.post("/process", **helm | {"stop_sequences": [stop]}).json()
    assert stopped["text"] == found["text"][: found["text"].index(stop)] and len(stopped["tokens"]) < len(
        found["tokens"]
    )


def test_tokens_are_those_that_process_reads_and_decode_to_the_text(server):
    text = "red green unknownword é🙂"
    tokens = server.post("/tokenize", text=text).json()["tokens"]
    assert tokens == server.tokenizer(text)["input_ids"]
    assert server.post("/decode", tokens=tokens).json()["text"] == text
    assert server.post("/tokenize", text=text, max_length=3).json()["tokens"] == tokens[:3]
    assert server.post("/tokenize", text=text, max_length=3, truncation=False).json()["tokens"] == tokens
    assert server.post("/decode", tokens=[]).json()["text"] == ""
    assert server.post("/process", prompt="", max_new_tokens=2).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/process", {"prompt": "a", "num_samples": 2}, 422, "num_samples"),
        ("/process", {"prompt": "a", "typical_p": 0.5}, 422, "typical_p"),
        ("/process", {"prompt": 5}, 422, "prompt"),
        ("/process", {"prompt": "a", "max_new_tokens": "5"}, 422, "max_new_tokens"),
        ("/process", {"prompt": "a", "max_new_tokens": 301}, 400, "at most 300"),
        ("/tokenize", {}, 422, "text"),
        ("/decode", {"tokens": [10**6]}, 400, "tokens from 0 to"),
        ("/decode", {"tokens": [-1]}, 422, "tokens"),
    ],
)
def test_what_the_challenge_does_not_document_is_refused(server, path, body, status, said):
    found = server.post(path, **body)
    assert found.status_code == status and said in found.text
    assert ("detail" in found.json()) == (status == 422), "FastAPI's own form, as in the challenge's OpenAPI document"


# Clients that misbehave.


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/openapi.json", "/process", "/nowhere"])
@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xe9"]
)
def test_without_the_token_nothing_is_answered_but_health(server, path, authorization):
    headers = [(b"authorization", authorization.encode("latin-1"))] if authorization else []
    with httpx.Client(base_url=server.url) as stranger:
        refused = stranger.get(path, headers=headers)
        assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        assert stranger.get("/health").json() == {"status": "ok"}


def test_other_names_of_this_server_and_pages_of_other_sites_are_refused(server):
    with nullcontext(server.client) as client:
        assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 400
        assert client.get("/v1/models", headers={"origin": "http://evil.example"}).status_code == 403
        headers = client.get("/v1/models", headers={"origin": server.url}).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert not [name for name in headers if name.startswith("access-control")]


DEEP = "[" * 100_000 + "]" * 100_000
HOSTILE = {
    "10 MB": ('{"model": "base", "prompt": "' + "red " * 2_500_000 + '"}', 413),
    "no JSON": ("{", 400),
    "empty": ("", 400),
    "deep": ('{"model": "base", "prompt": ' + DEEP + "}", 400),
    "a deep bias": ('{"model": "base", "prompt": "a", "logit_bias": {"5": ' + DEEP + "}}", 400),
    "lone surrogate": (r'{"model": "base", "prompt": "\ud800"}', 400),
    "a stop of half a character": (r'{"model": "base", "prompt": "a", "stop": "\udc00"}', 400),
    "NaN": ('{"model": "base", "prompt": "a", "temperature": NaN}', 400),
    "infinity": ('{"model": "base", "prompt": "a", "temperature": 1e999}', 400),
    "a huge number": ('{"model": "base", "prompt": "a", "seed": ' + "9" * 9000 + "}", 400),
    "no UTF-8": (b'{"model": "base", "prompt": "\xff"}', 400),
    "a list": ("[]", 400),
    "control characters": (r'{"model": "base\u001b[2J", "prompt": "\u0000\u001b[2J"}', 404),
    "1,000 prompts": ('{"model": "base", "prompt": [' + '"a",' * 999 + '"a"]}', 400),
}


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        (
            {"prompt": {"a": 1}},
            "prompt",
            "prompt: Input should be a valid string; prompt: Input should be a valid list",
        ),
        ({"prompt": [["a"]]}, "prompt", "prompt.0: Input should be a valid string"),
        ({"prompt": "a", "stop": ["b", ""]}, "stop", "stop.1: String should have at least 1 character"),
        ({}, "prompt", "prompt: Field required"),
        ({"prompt": "a", "best": 2}, "best", "best: Extra inputs are not permitted"),
        ("[]", None, "Input should be a valid dictionary"),
        ('{"model": "base", }', None, "expected JSON, found an error at character 18"),
    ],
)
def test_an_error_names_the_parameter_as_the_client_wrote_it(server, body, param, said):
    content = body if isinstance(body, str) else json.dumps({"model": "base", **body})
    refused = server.client.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    found = refused.json()["error"]
    assert refused.status_code == 400 and found["param"] == param and said in found["message"]
    assert "[" not in found["message"] and found["message"].count("a valid list") <= 1


@pytest.mark.parametrize(("path", "status"), [("/v1/completions", 400), ("/process", 422)])
def test_a_body_without_the_header_of_json_says_so(server, path, status):
    """As `curl -d` sends it."""
    headers = {"content-type": "application/x-www-form-urlencoded"}
    refused = server.client.post(path, content='{"model": "base", "prompt": "a"}', headers=headers)
    assert refused.status_code == status
    assert "header Content-Type: application/json, found application/x-www-form-urlencoded" in refused.text


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies_get_an_error_and_the_server_stays_up(server, name):
    body, status = HOSTILE[name]
    body = body.encode() if isinstance(body, str) else body
    headers = {"content-type": "application/json"}
    with nullcontext(server.client) as client:
        refused = client.post("/v1/completions", content=body, headers=headers)
        assert refused.status_code == status and refused.json()["error"]["message"]
        assert len(refused.content) < 2000
        chunked = client.post("/v1/completions", content=iter([body[:9], body[9:]]), headers=headers)
        assert chunked.status_code == status
        assert client.post("/process", content=body, headers=headers).status_code in (status, 400, 422)
        assert client.get("/health").status_code == 200


def raw(server, body, length=None, path="/v1/completions"):
    """A socket that has sent a request; the body may be incomplete. It receives little that is not read."""
    connection = socket.socket()
    connection.settimeout(10)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    body = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {server.url[7:]}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {length or len(body)}\r\n\r\n".encode() + body)
    return connection


LONG = {"model": "base", "prompt": "red", "max_tokens": 300, "temperature": 1.0, "n": 8}


def test_a_body_that_does_not_arrive_ends_after_a_while_and_stops_nobody(server):
    with raw(server, LONG, length=5000) as slow:
        assert complete(server, max_tokens=3)
        assert slow.recv(100).startswith(b"HTTP/1.1 408")
    assert server.idle()


def test_clients_that_send_no_request_cannot_keep_their_connections(parts, monkeypatch):
    monkeypatch.setattr("al.serving.server.HEAD_SECONDS", 0.15)
    with live(*parts, Limits(new_tokens=300)) as server, ThreadPoolExecutor(1) as pool:
        connections = [socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), 5) for _ in range(2)]
        silent, slow = connections
        answer = pool.submit(server.post, "/v1/completions", **LONG)  # takes longer, and is finished
        ended = time.monotonic() + 5
        with pytest.raises(ConnectionError):
            for byte in b"GET /health HTTP/1.1\r\nA: " + b"a" * 1000:
                assert time.monotonic() < ended
                slow.sendall(bytes([byte]))
                time.sleep(0.01)
        assert silent.recv(100) == b""
        assert answer.result().status_code == 200
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("more", [{}, {"stream": True}])
def test_a_client_that_goes_away_frees_its_place(server, more):
    written = server.service.metrics.new_tokens
    with raw(server, {**LONG, **more}) as connection:
        while not server.service.worker.running:
            time.sleep(0.005)
        if more:
            assert connection.recv(50).startswith(b"HTTP/1.1 200")
        before = written._value.get()
    assert server.idle() and written._value.get() - before < 8 * 150, "all was written although nobody waited"


def test_a_client_that_does_not_read_stops_nobody_and_is_given_up(server):
    """Its answers are larger than all buffers on the way."""
    big = {**LONG, "stream": True, "logprobs": 20, "max_tokens": 300, "n": 20}
    connections = [raw(server, big) for _ in range(2)]
    try:
        expected = complete(server, max_tokens=8)[0]["text"]
        assert complete(server, max_tokens=8)[0]["text"] == expected
        assert server.idle()
    finally:
        for connection in connections:
            connection.close()


def test_no_text_of_one_request_is_in_another(server):
    """Each answer and each echoed prompt in a crowd is the one that the request gets alone."""
    asked = [(NAMES[i % 3], f"{WORDS[i % 8]} {i} {WORDS[i // 8 % 8]} marker-{i}", i) for i in range(48)]

    def ask(one):
        name, prompt, seed = one
        more = {"seed": seed, "temperature": 0.7 * (seed % 2), "max_tokens": 4 + seed % 9, "echo": True, "logprobs": 1}
        (choice,) = complete(server, prompt, model=name, **more)
        return choice["text"], choice["logprobs"]["tokens"]

    def steps(most):
        return server.service.metrics.registry.get_sample_value("winnow_step_sequences_bucket", {"le": most})

    alone = [ask(one) for one in asked]
    before = steps("1.0"), steps("+Inf")
    with ThreadPoolExecutor(24) as pool:
        crowd = list(pool.map(ask, asked))
    assert steps("1.0") - before[0] < (steps("+Inf") - before[1]) / 2, "most steps had no company"
    assert crowd == alone and len({text for text, _ in alone}) == 48
    assert all(
        text.startswith(prompt) and text.count("marker-") == 1
        for (_, prompt, _), (text, _) in zip(asked, crowd, strict=True)
    )


# Limits, and what happens when writing fails.


def test_a_full_queue_is_429_with_a_time_to_try_again(parts):
    with live(*parts, Limits(waiting=2), rows=200) as server, ThreadPoolExecutor(12) as pool:

        def ask(seed):
            return server.post("/process", prompt="red", max_new_tokens=150, seed=seed)

        first = pool.submit(ask, 0)
        while not server.service.worker.running:
            time.sleep(0.001)
        found = [*pool.map(ask, range(1, 12)), first.result()]
        statuses = [response.status_code for response in found]
        assert set(statuses) == {200, 429} and statuses.count(200) >= 3
        refused = next(response for response in found if response.status_code == 429)
        assert 1 <= int(refused.headers["retry-after"]) <= 60 and "wait already" in refused.json()["error"]["message"]
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert server.post("/process", prompt="red", max_new_tokens=2).status_code == 200


def test_the_limit_of_time_is_504_and_an_event_in_a_stream(parts, monkeypatch):
    from trainer.generation.cached import CachedEngine

    step = CachedEngine.step
    monkeypatch.setattr(CachedEngine, "step", lambda self, tokens: time.sleep(0.05) or step(self, tokens))
    with live(*parts, Limits(seconds=0.4)) as server:
        late = server.post("/v1/completions", model="base", prompt="red", max_tokens=200, temperature=0)
        assert late.status_code == 504 and late.json()["error"]["code"] == "timeout"
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKEN, max_retries=0) as client:
            chunks = client.completions.create(model="base", prompt="red", max_tokens=200, temperature=0, stream=True)
            with pytest.raises(openai.APIError, match="limit of time"):
                for chunk in chunks:
                    assert chunk.choices[0].finish_reason is None
        assert server.idle()


@pytest.mark.parametrize(("error", "status"), [(ValueError("a secret path"), 500), (MemoryError(), 503)])
def test_a_failing_step_fails_its_requests_and_no_later_one(parts, monkeypatch, error, status, caplog):
    from trainer.generation.cached import CachedEngine

    def fail(self, tokens):
        raise error

    with live(*parts, Limits()) as server:
        before = complete(server, max_tokens=5)
        with monkeypatch.context() as patched:
            patched.setattr(CachedEngine, "step", fail)
            failed = server.post("/v1/completions", model="base", prompt="red")
        assert failed.status_code == status and "secret" not in failed.text
        assert "writing answers failed" in caplog.text, "the log has the traceback"
        assert complete(server, max_tokens=5) == before


def test_a_server_that_cannot_write_any_more_says_so(parts, monkeypatch):
    from trainer.generation.cached import CachedEngine

    def fail(*given):
        raise MemoryError

    monkeypatch.setattr("threading.excepthook", lambda given: None)
    with live(*parts, Limits()) as server:
        monkeypatch.setattr(CachedEngine, "step", fail)
        monkeypatch.setattr(CachedEngine, "__init__", fail)
        assert server.post("/v1/completions", model="base", prompt="red").status_code == 503
        assert server.idle()
        assert server.client.get("/health").status_code == 503
        assert server.post("/v1/completions", model="base", prompt="red").status_code == 503


def test_without_a_token_everyone_is_answered_but_no_page_of_another_site(parts):
    with live(*parts, Limits(prompt_tokens=3), token=None) as server, httpx.Client(base_url=server.url) as client:
        assert client.post("/process", json={"prompt": "red", "max_new_tokens": 2}).status_code == 200
        long = client.post("/process", json={"prompt": "red green blue stone"})
        assert long.status_code == 400 and "at most 3" in long.json()["error"]["message"]
        attack = client.post(
            "/process", content='{"prompt": "red"}', headers={"origin": "null", "content-type": "text/plain"}
        )
        assert attack.status_code == 403
        assert "securitySchemes" not in client.get("/openapi.json").text


def test_metrics_count_requests_tokens_and_what_is_under_way(parts):
    with live(*parts, Limits()) as server:
        server.post("/process", prompt="red green", max_new_tokens=4)
        server.post("/v1/completions", model="none", prompt="red")
        with nullcontext(server.client) as client:
            client.get("/any/other/path")
            text = client.get("/metrics").text
    for line in (
        'winnow_requests_total{route="/process",status="200"} 1.0',
        'winnow_requests_total{route="/v1/completions",status="404"} 1.0',
        'winnow_requests_total{route="other",status="404"} 1.0',
        "winnow_prompt_tokens_total 2.0",
        "winnow_generated_tokens_total 4.0",
        "winnow_waiting_requests 0.0",
        "winnow_running_answers 0.0",
        "winnow_first_token_seconds_count 1.0",
    ):
        assert line in text.splitlines()


def test_a_server_that_stops_finishes_what_is_under_way(parts):
    async def ask(url):
        async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30) as client:
            return await client.post("/process", json={"prompt": "red", "max_new_tokens": 150, "seed": 1})

    with ThreadPoolExecutor(1) as pool:
        with live(*parts, Limits()) as server:
            asked = pool.submit(asyncio.run, ask(server.url))
            while not server.service.worker.running:
                time.sleep(0.005)
        assert asked.result().status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")
