"""An attempt's calls show its newest token, and wait for one that is not over."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as llm_pb
from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.errors import Unauthenticated
from agentmesh_runner.running import Running


class Elsewhere:
    """Models and artifacts that know one good token, and say of every other what they are told to."""

    def __init__(self, reason: str = "TASK_TOKEN_EXPIRED") -> None:
        self.shown: list[str] = []
        self._reason = reason

    def _check(self, token: str) -> None:
        self.shown.append(token)
        if token != "new":
            raise Unauthenticated("the task token is over", reason=self._reason)

    async def generate(
        self, request: llm_pb.GenerateRequest, *, token: str, traceparent: str, timeout_s: float
    ) -> AsyncGenerator[llm_pb.Delta, None]:
        self._check(token)
        yield llm_pb.Delta(text="hello")

    async def cancel(self, idempotency_key: str, *, token: str) -> None:
        self.shown.append(token)

    async def store(self, name: str, media_type: str, data: bytes, *, token: str) -> types_pb2.Artifact:
        self._check(token)
        return types_pb2.Artifact(artifact_id="a")

    async def load(self, artifact_id: str, *, token: str) -> tuple[types_pb2.Artifact, bytes]:
        self._check(token)
        return types_pb2.Artifact(artifact_id="a"), b"x"


def running(elsewhere: Elsewhere) -> Running:
    assignment = runner_pb.Assignment(task_id="t1", attempt=1, tenant="acme", token="old")
    return Running(assignment, elsewhere, elsewhere, lambda _: None)


async def answer(attempt: Running) -> str:
    return "".join([delta.text async for delta in attempt.generate(llm_pb.GenerateRequest(idempotency_key="k"))])


@pytest.mark.parametrize("call", ["generate", "store", "load"])
async def test_a_call_whose_token_is_over_is_made_again_with_the_renewed_one(call: str) -> None:
    elsewhere = Elsewhere()
    attempt = running(elsewhere)
    calls = {
        "generate": lambda: answer(attempt),
        "store": lambda: attempt.store_artifact("n", "text/plain", b"x"),
        "load": lambda: attempt.load_artifact("a"),
    }
    asked = asyncio.create_task(calls[call]())
    await asyncio.sleep(0)
    assert elsewhere.shown == ["old"]
    attempt.token = "older still"
    attempt.token = "new"
    assert await asked
    assert elsewhere.shown == ["old", "new"]


async def test_a_token_that_is_refused_for_another_reason_is_not_shown_again() -> None:
    elsewhere = Elsewhere("TASK_TOKEN_INVALID")
    with pytest.raises(Unauthenticated):
        await answer(running(elsewhere))
    assert elsewhere.shown == ["old"]
