"""A cache key holds everything that could change the answer, and always the tenant."""

import pytest
from google.protobuf.descriptor import Descriptor
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh_llm.answers import cache_keys
from agentmesh_llm.answers.cache_keys import answer_key, vector_keys
from agentmesh_llm.batches.shares import shared_out
from agentmesh_llm.domain import Model
from tests.support.llm_service import ask

MODEL = Model("ok", "ok", "fake", is_default=True, embeddings=False)
# Few and alike, so that cases differ in one place only, or in where one part ends and the next begins.
NAMES = st.sampled_from(["a", "b", "ab", "aab"])


@pytest.mark.parametrize(
    ("message", "changes", "does_not"),
    [
        (pb.GenerateRequest.DESCRIPTOR, cache_keys.CHANGES_ANSWER, cache_keys.NOT_IN_ANSWER),
        (pb.EmbedRequest.DESCRIPTOR, cache_keys.CHANGES_VECTOR, cache_keys.NOT_IN_VECTOR),
        (pb.RerankRequest.DESCRIPTOR, cache_keys.CHANGES_SCORE, cache_keys.NOT_IN_SCORE),
        (pb.CompletePromptsRequest.DESCRIPTOR, cache_keys.CHANGES_COMPLETION, cache_keys.NOT_IN_COMPLETION),
    ],
)
def test_every_field_of_a_request_is_said_to_change_the_answer_or_not(
    message: Descriptor, changes: frozenset[str], does_not: frozenset[str]
) -> None:
    assert not changes & does_not
    assert {field.name for field in message.fields} == changes | does_not


def test_every_field_that_changes_the_answer_changes_the_key() -> None:
    other = pb.GenerateRequest(
        messages=[pb.ChatMessage(role=pb.CHAT_ROLE_USER)],
        tools=[pb.Tool(name="x")],
        tool_choice=pb.ToolChoice(mode=pb.ToolChoice.MODE_NONE),
        response_format=pb.ResponseFormat(strict=True),
        sampling=pb.Sampling(seed=1),
        parallel_tool_calls=False,
        reasoning=pb.Reasoning(effort=pb.Reasoning.EFFORT_LOW),
        top_logprobs=2,
    )
    assert {field.name for field, _ in other.ListFields()} == cache_keys.CHANGES_ANSWER
    keys = {answer_key("acme", MODEL, ask())}
    for name in cache_keys.CHANGES_ANSWER:
        changed = ask()
        changed.ClearField(name)  # type: ignore[arg-type]
        changed.MergeFrom(pb.GenerateRequest(**{name: getattr(other, name)}))
        keys.add(answer_key("acme", MODEL, changed))
    assert len(keys) == 1 + len(cache_keys.CHANGES_ANSWER)


def test_what_does_not_change_the_answer_does_not_change_the_key() -> None:
    plain = answer_key("acme", MODEL, ask())
    policy = pb.CachePolicy(mode=pb.CachePolicy.MODE_USE)
    assert answer_key("acme", MODEL, ask("another id of it", idempotency_key="k", cache=policy)) == plain


@given(st.lists(st.tuples(NAMES, NAMES, NAMES, NAMES), min_size=2, max_size=6, unique=True))
def test_keys_of_different_tenants_providers_models_or_texts_never_meet(
    cases: list[tuple[str, str, str, str]],
) -> None:
    answers, vectors = set(), set()
    for tenant, provider, name, text in cases:
        model = Model("id", name, provider, is_default=False, embeddings=False)
        answers.add(answer_key(tenant, model, ask(prompt=text)).digest)
        vectors.update(key.digest for key in vector_keys(tenant, model, 8, [text]))
    assert len(answers) == len(vectors) == len(cases)
    assert not answers & vectors


@given(st.integers(0, 10**9), st.lists(st.integers(0, 1000), min_size=1, max_size=50))
def test_shares_of_a_usage_add_up_to_it(total: int, weights: list[int]) -> None:
    shares = shared_out(total, weights)
    assert sum(shares) == total
    assert len(shares) == len(weights)
    assert min(shares) >= 0
    whole = sum(weights)
    if whole:
        exact = [total * weight / whole for weight in weights]
        assert all(abs(share - wanted) <= 1 for share, wanted in zip(shares, exact, strict=True))
