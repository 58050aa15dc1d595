"""Which tenant and which credential a call to the llm-proxy carries."""

import hashlib

import pytest
from starlette.requests import Request

from agentmesh.kit import names
from agentmesh.kit.auth import Authenticator, Grant, Keyring
from agentmesh.kit.errors import Unauthenticated
from agentmesh_gateway.llm_calls import LlmCalls
from agentmesh_gateway.settings import Bounds
from agentmesh_gateway.upstream import Upstream

KEYRING = Keyring("s")
KEYS = {hashlib.sha256(b"key-a").hexdigest(): Grant("a")}


def calls(*, anonymous: bool = False) -> LlmCalls:
    authenticator = Authenticator(KEYRING, anonymous=anonymous, api_keys=KEYS)
    return LlmCalls(Upstream([], trust=None, max_channels=1), authenticator, KEYRING, Bounds())


def request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw})


@pytest.mark.parametrize("headers", [{"authorization": "Bearer key-a"}, {"x_api_key": "key-a"}])
async def test_the_tenant_is_that_of_the_credential_whatever_else_a_client_sends(headers: dict[str, str]) -> None:
    metadata = await calls().metadata_of(request(**headers, x_agentmesh_tenant="b", x_agentmesh_task_token="t"))
    assert len(metadata) == len(dict(metadata)) == 3
    shown = dict(metadata)
    assert shown[names.TENANT] == "a"
    assert shown[names.AUTHORIZATION] == f"Bearer {KEYRING.role_token(names.GATEWAY)}"
    assert names.TRACEPARENT in shown


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer no"}, {"x_api_key": "no"}, {"x_api_key": ""}])
async def test_without_a_known_key_there_is_no_call(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthenticated):
        await calls().metadata_of(request(**headers))


async def test_in_development_everybody_is_the_default_tenant() -> None:
    metadata = await calls(anonymous=True).metadata_of(request())
    assert dict(metadata)[names.TENANT] == names.DEFAULT_TENANT
