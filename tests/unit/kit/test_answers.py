"""An answer is put together from its pieces: text, thoughts, likelihoods, calls of tools."""

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit.answers import AnswerBuilder, fold

FINISH = pb.Delta(finish=pb.Finish(reason=pb.FINISH_REASON_STOP, model="m"))


def likely(*tokens: str) -> pb.Delta:
    return pb.Delta(logprobs=pb.Logprobs(tokens=[pb.TokenLogprob(token=token, logprob=-1) for token in tokens]))


def test_a_thought_has_the_reasoning_since_the_last_one() -> None:
    answer = fold(
        [
            pb.Delta(reasoning="a"),
            pb.Delta(reasoning="b"),
            pb.Delta(thought=pb.Thought(signature="1")),
            pb.Delta(thought=pb.Thought(redacted="x")),
            pb.Delta(text="said"),
            pb.Delta(reasoning="c"),
            pb.Delta(thought=pb.Thought(signature="2", id="i")),
            FINISH,
        ]
    )
    assert list(answer.message.thoughts) == [
        pb.Thought(text="ab", signature="1"),
        pb.Thought(redacted="x"),
        pb.Thought(text="c", signature="2", id="i"),
    ]
    assert (answer.reasoning, answer.message.parts[0].text) == ("abc", "said")


def test_reasoning_that_nobody_ends_is_no_thought_to_send_back() -> None:
    answer = fold([pb.Delta(reasoning="a"), FINISH])
    assert (answer.reasoning, len(answer.message.thoughts)) == ("a", 0)


def test_likelihoods_are_joined_in_their_order() -> None:
    answer = fold([pb.Delta(text="ab"), likely("a", "b"), pb.Delta(text="c"), likely("c"), FINISH])
    assert [token.token for token in answer.logprobs] == ["a", "b", "c"]


def test_an_answer_is_whole_with_its_finish_only() -> None:
    builder = AnswerBuilder()
    builder.add(pb.Delta(text="a"))
    assert not builder.finished
    builder.add(FINISH)
    assert builder.finished
