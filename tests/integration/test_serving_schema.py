"""The OpenAPI document says what the server does: schemathesis sends what it allows, and what it does not, and reads every answer."""

from __future__ import annotations

import pytest
import schemathesis
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from live_service import TOKEN, live, random_adapters, small_base
from schemathesis.generation import GenerationMode

from al.serving.app import INVALID
from al.serving.models import Limits

OPERATIONS = {
    *("GET /v1/models", "GET /v1/models/{name}", "POST /v1/chat/completions", "POST /v1/completions"),
    *("POST /process", "POST /tokenize", "POST /decode", "GET /health", "GET /metrics"),
}
EXAMPLES, FULL = 8, 600
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    base, tokenizer = small_base(folder / "model")
    with live(base, tokenizer, random_adapters(base, folder), Limits(new_tokens=20, waiting=256)) as found:
        yield found
        assert found.idle() and found.client.get("/health").status_code == 200


@pytest.fixture(scope="module")
def operations(server):
    """The documented operations by name."""
    found = schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=AUTHORIZED)
    # What a schema cannot say is 400 or 404: too many tokens, a conversation that the template refuses, a model that is not served.
    found.config.checks.positive_data_acceptance.expected_statuses = ["2xx", "400", "404"]
    return {f"{one.method.upper()} {one.path}": one for one in (result.ok() for result in found.get_all_operations())}


def test_the_document_has_every_route(operations):
    assert set(operations) == OPERATIONS


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_answer_is_as_documented(operations, name, mode):
    operation = operations[name]
    if mode is GenerationMode.NEGATIVE and "{" not in name and name.startswith("GET"):
        pytest.skip("nothing can be wrong in it")

    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=cases(EXAMPLES, FULL),
        deadline=None,
        derandomize=cases(True, False),
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def answered_as_documented(case):
        """One request."""
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "1"  # chance would find no model
        answered = case.call_and_validate(headers=AUTHORIZED)
        if mode is GenerationMode.POSITIVE and answered.status_code == 400:
            assert answered.json()["error"]["code"] != INVALID

    answered_as_documented()
