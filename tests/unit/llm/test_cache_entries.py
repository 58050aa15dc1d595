"""What is kept of an answer replays to the same whole, in fewer pieces."""

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit.answers import fold
from agentmesh_llm.answers.caching import entry_of
from agentmesh_llm.domain import (
    Delta,
    Finish,
    FinishReason,
    LogprobsDelta,
    Model,
    ReasoningDelta,
    TextDelta,
    Thought,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from agentmesh_llm.wire import to_delta, to_response

MODEL = Model("m", "m", "p", is_default=True, embeddings=False)


def likely(text: str) -> LogprobsDelta:
    return LogprobsDelta((TokenLogprob(text, -1.0, text.encode(), (TokenLogprob("x", -2.0),)),))


def test_every_kind_of_piece_survives() -> None:
    deltas: list[Delta] = [
        ReasoningDelta("a"),
        ReasoningDelta("b"),
        Thought(signature="1"),
        Thought(redacted="x"),
        TextDelta("he"),
        TextDelta("y"),
        likely("he"),
        likely("y"),
        ToolCallDelta(0, "t", "look"),
        ToolCallDelta(0, arguments="{}"),
        Usage(5, 4, 3, 2, 1),
        Finish(FinishReason.TOOL_CALLS, "m", "p"),
    ]
    entry = entry_of(deltas, MODEL)
    assert entry is not None
    replayed = pb.StreamGenerateResponse.FromString(entry).deltas
    assert len(replayed) == 8
    said = fold(to_delta(delta, MODEL, cache=pb.CACHE_OUTCOME_HIT) for delta in deltas)
    assert fold(replayed) == said
    assert to_response(deltas, MODEL, cache=pb.CACHE_OUTCOME_HIT) == said
    assert [token.token for token in said.logprobs] == ["he", "y"]
    assert len(said.message.thoughts) == 2


def test_what_a_filter_has_ended_is_not_kept() -> None:
    assert entry_of([TextDelta("a"), Finish(FinishReason.CONTENT_FILTER)], MODEL) is None
