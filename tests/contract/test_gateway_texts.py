"""Legacy completions and reranks over HTTP: OpenAI's client, and the form that Cohere and Jina share."""

import importlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.fake_batches import completion_for, score_for
from tests.support.llm_gateway import LlmGateway, llm_gateway
from tests.support.needs import missing

DOCUMENTS = ["Hills.", "Rivers.", "Lakes."]


@pytest.fixture
async def gate() -> AsyncIterator[LlmGateway]:
    """A gateway before a provider that takes prompts and documents."""
    async with llm_gateway(models=["ok"], completion_models=["ok", "status:503"], rerank_models=["scores"]) as gate:
        yield gate


@pytest.fixture
async def openai(gate: LlmGateway) -> AsyncIterator[Any]:
    try:
        package = importlib.import_module("openai")
    except ImportError:
        missing("the package openai", "it is in the extra `test`")
    async with package.AsyncOpenAI(base_url=f"{gate.base_url}/v1", api_key="any", max_retries=0) as client:
        yield client


async def test_openais_client_completes_a_prompt_and_several(gate: LlmGateway, openai: Any) -> None:
    one = await openai.completions.create(model="ok", prompt="Rivers", max_tokens=9, temperature=0, stop="\n")
    assert (one.object, one.choices[0].text, one.choices[0].finish_reason) == (
        "text_completion",
        completion_for("Rivers"),
        "stop",
    )
    assert gate.fake.hits[0].body == {
        "model": "ok",
        "prompt": ["Rivers"],
        "max_tokens": 9,
        "temperature": 0,
        "stop": ["\n"],
    }
    several = await openai.completions.create(model="ok", prompt=["Rivers", "Lakes and", "Rivers"])
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert [choice.text for choice in several.choices] == list(map(completion_for, ["Rivers", "Lakes and", "Rivers"]))
    assert (several.usage.prompt_tokens, several.usage.completion_tokens, several.usage.total_tokens) == (4, 15, 19)


async def test_openais_client_reads_the_refusal_of_a_completion(openai: Any) -> None:
    errors = importlib.import_module("openai")
    with pytest.raises(errors.InternalServerError):
        await openai.completions.create(model="status:503", prompt="Rivers")
    with pytest.raises(errors.NotFoundError):
        await openai.completions.create(model="nobody's", prompt="Rivers")
    for fields in ({"n": 2}, {"echo": True}, {"logprobs": 1}, {"stream": True}, {"suffix": "end"}, {"best_of": 3}):
        with pytest.raises(errors.BadRequestError) as raised:
            await openai.completions.create(model="ok", prompt="Rivers", **fields)
        assert raised.value.param == next(iter(fields))


@pytest.mark.parametrize("prompt", [[1, 2], [[1, 2]], [], ["a", ""], 7])
async def test_a_prompt_that_is_no_text_is_refused(gate: LlmGateway, prompt: Any) -> None:
    answer = await gate.client.post("/v1/completions", json={"model": "ok", "prompt": prompt})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("prompt")
    assert not gate.fake.hits


async def test_documents_are_ranked_in_the_form_of_cohere_and_jina(gate: LlmGateway) -> None:
    asked: dict[str, Any] = {"model": "scores", "query": "water", "documents": DOCUMENTS}
    whole = (await gate.client.post("/v1/rerank", json=asked)).json()
    scores = [score_for("water", document) for document in DOCUMENTS]
    best = sorted(range(3), key=lambda at: -scores[at])
    assert whole["results"] == [{"index": at, "relevance_score": scores[at]} for at in best]
    assert whole["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    assert (whole["model"], whole["id"][:7]) == ("scores", "rerank-")
    asked |= {"documents": [{"text": text, "id": 1} for text in DOCUMENTS], "top_n": 1, "return_documents": True}
    few = (await gate.client.post("/v1/rerank", json=asked)).json()
    assert few["results"] == [
        {"index": best[0], "relevance_score": scores[best[0]], "document": {"text": DOCUMENTS[best[0]]}}
    ]
    assert len(gate.fake.hits) == 1


@pytest.mark.parametrize(
    ("wrong", "param"),
    [({"query": ""}, "query"), ({"documents": []}, "documents"), ({"top_n": 0}, "top_n"), ({"documents": [1]}, "doc")],
)
async def test_a_wrong_rerank_names_the_field(gate: LlmGateway, wrong: dict[str, Any], param: str) -> None:
    asked = {"model": "scores", "query": "q", "documents": ["a"], **wrong}
    answer = await gate.client.post("/v1/rerank", json=asked)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(param)


async def test_a_client_steers_the_cache_of_both(gate: LlmGateway) -> None:
    for path, fields in (
        ("/v1/completions", {"model": "ok", "prompt": "a", "temperature": 0}),
        ("/v1/rerank", {"model": "scores", "query": "q", "documents": ["a"]}),
    ):
        before = len(gate.fake.hits)
        for header in ({}, {}, {"cache-control": "no-store"}):
            assert (await gate.client.post(path, json=fields, headers=header)).status_code == 200
        assert len(gate.fake.hits) == before + 2
