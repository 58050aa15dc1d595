"""An answer that was kept comes back in the pieces that it was made of."""

from agentmesh_llm.answers.caching import entry_of
from agentmesh_llm.answers.replay import deltas_of
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

MODEL = Model("ok", "ok", "fake", is_default=True, embeddings=False)


def test_every_kind_of_piece_comes_back_as_it_was() -> None:
    token = TokenLogprob("a", -0.5, b"a", (TokenLogprob("b", -1.5, b"b"),))
    answer: list[Delta] = [
        ReasoningDelta("hm"),
        Thought("hm", "signed", "hidden", "id"),
        TextDelta("text"),
        LogprobsDelta((token,)),
        ToolCallDelta(1, "call", "look", "{}"),
        Finish(FinishReason.TOOL_CALLS, "model-1", "fake"),
    ]
    answer.insert(-1, Usage(1, 2, 3, 4, 5))
    entry = entry_of(answer, MODEL)
    assert entry is not None
    back = deltas_of(entry)
    assert [type(delta) for delta in back] == [type(delta) for delta in answer]
    assert back[0] == answer[0]
    assert back[2:] == answer[2:]
