"""Each vendor's clients read their own form: of the models, and of what goes wrong before a route is found."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.llm_gateway import LlmGateway, llm_gateway

VERSION = {"anthropic-version": "2023-06-01"}
MODELS = ("ok", "a", "b", "c")


@pytest.fixture
async def gate() -> AsyncIterator[LlmGateway]:
    async with llm_gateway(models=MODELS) as made:
        yield made


async def test_anthropics_clients_get_models_in_their_form(gate: LlmGateway) -> None:
    listed = (await gate.client.get("/v1/models", headers=VERSION)).json()
    ids = [model["id"] for model in listed["data"]]
    assert set(MODELS) < set(ids)
    assert {key: listed[key] for key in ("has_more", "first_id", "last_id")} == {
        "has_more": False,
        "first_id": ids[0],
        "last_id": ids[-1],
    }
    one = await gate.client.get("/v1/models/ok", headers=VERSION)
    assert one.json() == {
        "type": "model",
        "id": "ok",
        "display_name": "ok",
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "active",
    }
    assert one.json() in listed["data"]
    assert one.headers["request-id"].startswith("req_")
    assert (await gate.client.get("/v1/models/ok")).json()["object"] == "model"


async def test_the_list_is_read_in_parts_from_either_end(gate: LlmGateway) -> None:
    async def part(**query: Any) -> tuple[list[str], bool]:
        answer = (await gate.client.get("/v1/models", headers=VERSION, params=query)).json()
        return [model["id"] for model in answer["data"]], answer["has_more"]

    ids, _ = await part()
    assert await part(limit=2) == (ids[:2], True)
    assert await part(limit=2, after_id=ids[1]) == (ids[2:4], len(ids) > 4)
    assert await part(after_id=ids[-2]) == (ids[-1:], False)
    assert await part(limit=1, before_id=ids[2]) == ([ids[1]], True)
    assert await part(after_id=ids[-1]) == ([], False)
    wrong = await gate.client.get("/v1/models", headers=VERSION, params={"limit": "9" * 5000})
    assert (wrong.status_code, wrong.json()["error"]["message"].startswith("limit")) == (400, True)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "kind"),
    [
        ("GET", "/v1/messages", {}, 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", {}, 404, "not_found_error"),
        ("DELETE", "/v1/messages/count_tokens", {}, 405, "invalid_request_error"),
        ("POST", "/v1/models", VERSION, 405, "invalid_request_error"),
        ("GET", "/v1/models/nope", VERSION, 404, "not_found_error"),
        ("GET", "/v1/models/nope", {"x-api-key": "any"}, 404, "not_found_error"),
    ],
)
async def test_what_no_route_answers_has_anthropics_shape(
    gate: LlmGateway, method: str, path: str, headers: dict[str, str], status: int, kind: str
) -> None:
    answer = await gate.client.request(method, path, headers=headers)
    body = answer.json()
    assert (answer.status_code, body["type"], body["error"]["type"]) == (status, "error", kind)
    assert body["request_id"] == answer.headers["request-id"]
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/chat", 404, "no_such_path"),
        ("POST", "/v1/chat/completions/x/messages", 404, "no_such_path"),
        ("PUT", "/v1/embeddings", 405, "method_not_allowed"),
        ("DELETE", "/v1/models/ok", 405, "method_not_allowed"),
    ],
)
async def test_what_no_route_answers_has_openais_shape(
    gate: LlmGateway, method: str, path: str, status: int, code: str
) -> None:
    answer = await gate.client.request(method, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (status, "invalid_request_error", code)
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"].startswith("req_")


async def test_every_other_path_keeps_the_meshs_own_shape(gate: LlmGateway) -> None:
    for path in ("/v1/nothing", "/v1", "/", "/v1/messagesx"):
        answer = await gate.client.post(path)
        assert answer.status_code in (404, 405)
        assert isinstance(answer.json()["error"]["code"], int), path
        assert not {"request-id", "x-request-id"} & answer.headers.keys()


async def test_a_foreign_page_is_refused_in_the_shape_of_the_path(gate: LlmGateway) -> None:
    foreign = {"origin": "https://evil.example"}
    anthropics = await gate.client.get("/v1/models/ok", headers=foreign | VERSION)
    assert (anthropics.status_code, anthropics.json()["error"]["type"]) == (403, "permission_error")
    assert anthropics.json()["type"] == "error"
    openais = await gate.client.get("/v1/models/ok", headers=foreign)
    assert set(openais.json()) == {"error"}


async def test_only_a_known_key_lists_models_in_either_form() -> None:
    keys = [{"sha256": hashlib.sha256(b"key-a").hexdigest(), "tenant": "a"}]
    async with llm_gateway(authentication=True, api_keys=keys) as gate:
        good = await gate.client.get("/v1/models", headers={"x-api-key": "key-a"})
        assert "has_more" in good.json()
        bad = await gate.client.get("/v1/models", headers={"x-api-key": "nope"})
        assert (bad.status_code, bad.json()["error"]["type"]) == (401, "authentication_error")
        assert (await gate.client.get("/v1/models", headers=VERSION)).status_code == 401
