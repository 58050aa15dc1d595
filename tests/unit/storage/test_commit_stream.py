"""CommitStream and ClaimTasks over a real connection: order, refusals, pages."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.api.storage.v1 import task_store_service_pb2_grpc as rpc
from agentmesh.api.task.v1.events_pb2 import TASK_STATE_SUBMITTED
from agentmesh.kit import names, rpc_client
from agentmesh.kit.auth import Keyring
from agentmesh.kit.clock import duration
from agentmesh.kit.errors import InvalidRequest, from_rpc_error, from_status
from agentmesh.kit.ids import new_id
from agentmesh.kit.settings import Database, Settings
from agentmesh_storage.app import build
from tests.support.postgres import Postgres
from tests.support.serving import serving

KEYRING = Keyring("a secret for tests")
METADATA = rpc_client.bearer(KEYRING.role_token(names.ROUTER))


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[Any]:
    settings = Settings(data_dir=tmp_path, database=Database(create_tables=True))
    async with AsyncExitStack() as stack:
        built = await build(settings, KEYRING, stack)
        address = await stack.enter_async_context(serving(built.services, keyring=KEYRING))
        channel = await stack.enter_async_context(rpc_client.open_channel(address))
        yield rpc.TaskStoreServiceStub(channel)


def create(**fields: Any) -> pb.Mutation:
    return pb.Mutation(tenant="acme", create=pb.CreateTask(task_id=new_id(), agent="echo", priority=5, **fields))


async def test_batches_are_answered_in_order_each_with_a_result_for_each_mutation(stub: Any) -> None:
    requests = [pb.CommitStreamRequest(batch_id=n, mutations=[create() for _ in range(n)]) for n in range(1, 80)]
    answers = [answer async for answer in stub.CommitStream(iter(requests), metadata=METADATA, timeout=20)]
    assert [answer.batch_id for answer in answers] == list(range(1, 80))
    assert [len(answer.results) for answer in answers] == list(range(1, 80))


async def test_a_batch_that_breaks_the_contract_ends_the_stream_with_its_own_error(stub: Any) -> None:
    requests = [pb.CommitStreamRequest(batch_id=1, mutations=[pb.Mutation(tenant="acme")])]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for _ in stub.CommitStream(iter(requests), metadata=METADATA, timeout=20):
            pass
    error = from_rpc_error(raised.value)
    assert (type(error), error.reason) == (InvalidRequest, "EMPTY_MUTATION")


async def test_a_batch_that_can_not_be_committed_is_answered_so_and_the_stream_lives_on(
    tmp_path: Path, database_url: str, postgres: Postgres
) -> None:
    settings = Settings(data_dir=tmp_path, database=Database(url=database_url, create_tables=True))
    async with AsyncExitStack() as stack:
        built = await build(settings, KEYRING, stack)
        address = await stack.enter_async_context(serving(built.services, keyring=KEYRING))
        channel = await stack.enter_async_context(rpc_client.open_channel(address))
        call = rpc.TaskStoreServiceStub(channel).CommitStream(metadata=METADATA, timeout=30)
        await call.write(pb.CommitStreamRequest(batch_id=1, mutations=[create()]))
        assert not (await call.read()).results[0].HasField("error")
        postgres.stop_immediate()
        try:
            await call.write(pb.CommitStreamRequest(batch_id=2, mutations=[create(), create()]))
            answer = await call.read()
        finally:
            postgres.start()
        assert [from_status(result.error).reason for result in answer.results] == ["DATABASE_UNAVAILABLE"] * 2
        for batch_id in range(3, 100):
            await call.write(pb.CommitStreamRequest(batch_id=batch_id, mutations=[create()]))
            answer = await call.read()
            assert answer.batch_id == batch_id
            if not answer.results[0].HasField("error"):
                break
        assert not answer.results[0].HasField("error")
        call.cancel()


async def test_a_claim_of_many_long_journals_fits_into_one_message_and_says_what_is_left(stub: Any) -> None:
    renew = pb.RenewLease(incarnation="r~1", name="r", ttl=duration(60))
    await stub.Commit(pb.CommitRequest(mutations=[pb.Mutation(renew=renew)]), metadata=METADATA)
    result = bytes(200_000)
    for _ in range(20):
        made = create(claim=pb.Claim(incarnation="r~1"))
        task_id = made.create.task_id
        step = pb.AppendEvents(task_id=task_id, attempt=1, offsets=1)
        step.steps.add(key="s", kind="step", result=result)
        back = pb.AppendEvents(task_id=task_id, attempt=1, first_offset=1, offsets=1, state=TASK_STATE_SUBMITTED)
        mutations = [made, pb.Mutation(tenant="acme", append=step), pb.Mutation(tenant="acme", append=back)]
        answer = await stub.Commit(pb.CommitRequest(mutations=mutations), metadata=METADATA)
        assert not any(one.HasField("error") for one in answer.results)
    offer = pb.SlotOffer(agent="echo", incarnation="r~1", slots=20)
    requests = [pb.ClaimTasksRequest(request_number=7, offers=[offer])]
    call = stub.ClaimTasks(iter(requests), metadata=METADATA, timeout=20)
    claimed = [answer async for answer in call if answer.request_number == 7][0]  # noqa: RUF015 - no anext here
    assert len(claimed.tasks) == 20
    assert claimed.ByteSize() < names.MAX_MESSAGE_BYTES
    for task in claimed.tasks:
        steps = list(task.journal)
        token = task.journal_page_token
        while token:
            request = pb.ReadStepsRequest(tenant="acme", task_id=task.task.id, page_token=token)
            page = await stub.ReadSteps(request, metadata=METADATA)
            steps.extend(page.steps)
            token = page.next_page_token
        assert [step.key for step in steps] == ["s"]
