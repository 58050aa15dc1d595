"""Why a provider refuses a request is said in one way for all of them, without a word of the provider's."""

from collections.abc import AsyncIterator

import pytest

from agentmesh.kit.errors import InvalidRequest
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import LlmCaller, ask, llm_service, provider
from tests.support.llm_ways import WAYS

REFUSALS = {
    "too-long": ("CONTEXT_LENGTH", []),
    "filtered": ("CONTENT_FILTER", []),
    "image-too-large": ("MEDIA_TOO_LARGE", ["messages"]),
    "bad-image": ("UNSUPPORTED_PART", ["messages"]),
    "bad-tool-schema": ("INVALID_TOOL_SCHEMA", ["tools[0].parameters"]),
    "bad-answer-schema": ("INVALID_RESPONSE_SCHEMA", ["response_format.schema"]),
    "status:413": ("REQUEST_TOO_LARGE", []),
    "status:400": ("PROVIDER_REFUSED", []),
}


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture(params=WAYS)
async def llm(request: pytest.FixtureRequest, fake: FakeProvider) -> AsyncIterator[LlmCaller]:
    async with llm_service(provider(fake.base_url, list(REFUSALS), **WAYS[request.param].settings)) as llm:
        yield llm


@pytest.mark.parametrize("model", REFUSALS)
async def test_a_refusal_says_why(model: str, llm: LlmCaller, fake: FakeProvider) -> None:
    reason, fields = REFUSALS[model]
    with pytest.raises(InvalidRequest) as raised:
        await llm.call("Generate", ask(model))
    assert (raised.value.reason, [field for field, _ in raised.value.violations]) == (reason, fields)
    _, error = await llm.stream(ask(model))
    assert error is not None
    assert error.reason == reason
    assert "CANARY" not in repr(raised.value.__dict__)
    # What is wrong with a request is wrong everywhere: it is asked once each time.
    assert len(fake.hits) == 2
