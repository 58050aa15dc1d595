"""What every TaskStore holds about one task: its numbers, its fence, its ends, its questions."""

import pytest

from agentmesh.kit.errors import AlreadyExists, InvalidRequest, NotFound, StaleAttempt, WrongState
from agentmesh.kit.ids import new_id
from agentmesh_storage import domain as d
from tests.contract.task_store_driver import LEASE_MS, RUNNER, Driver, reasons

State = d.State


# -- numbers ------------------------------------------------------------------------------------------------


async def test_a_log_is_numbered_from_1_without_gaps_whoever_writes_to_it(driver: Driver) -> None:
    task = await driver.started()
    await driver.do(driver.says(task, "a", "b"))
    await driver.do(driver.asks(task, offset=2))
    await driver.do(driver.answers(task))
    await driver.spawn(task)
    await driver.do(driver.says(task, "c", offset=3))
    await driver.do(driver.ends(task, offset=4))
    log = await driver.log(task)
    assert [sequence for sequence, _, _ in log] == list(range(1, len(log) + 1))
    assert await driver.said(task) == [
        "SUBMITTED", "attempt_started", "WORKING", "a", "b", "INPUT_REQUIRED", "message", "WORKING",
        "child_task", "c", "COMPLETED",
    ]  # fmt: skip
    assert (await driver.task(task)).last_sequence == len(log)


async def test_many_appends_of_one_transaction_stay_in_order(driver: Driver) -> None:
    task = await driver.started()
    await driver.group(*(driver.says(task, str(n), offset=n) for n in range(50)))
    assert (await driver.said(task))[3:] == [str(n) for n in range(50)]


async def test_reading_after_a_sequence_gives_the_chunk_that_holds_the_next_one(driver: Driver) -> None:
    task = await driver.started()
    await driver.do(driver.says(task, "a", "b", "c"))
    chunks, last, state = await driver.store.read_chunks("acme", task, 4, 1 << 20)
    assert [(c.first_sequence, c.count) for c in chunks] == [(4, 3)]
    assert (last, state) == (6, State.WORKING)
    assert (await driver.store.read_chunks("acme", task, 6, 1 << 20))[0] == []
    assert (await driver.store.read_chunks("acme", task, 2**63 - 1, 1 << 20))[0] == []


async def test_a_refused_change_leaves_no_trace_and_does_not_hurt_its_neighbours(driver: Driver) -> None:
    task = await driver.started()
    outcomes = await driver.group(
        driver.says(task, "a"),
        driver.says(task, "stale", attempt=7, offset=1),
        driver.says(new_id(), "nobody"),
        d.Mutation("other", d.CancelTask(task)),
        driver.says(task, "gap", offset=5),
        driver.says(task, "b", offset=1),
    )
    assert reasons(outcomes) == ["", "STALE_ATTEMPT", "TASK_NOT_FOUND", "TASK_NOT_FOUND", "OFFSET_GAP", ""]
    assert (await driver.said(task))[3:] == ["a", "b"]


# -- the fence ----------------------------------------------------------------------------------------------


async def test_a_stale_attempt_writes_nothing(driver: Driver) -> None:
    task = await driver.started()
    await driver.do(driver.ends(task, State.SUBMITTED, failure=True))
    await driver.claim()
    before = await driver.log(task)
    for change in (driver.says(task, "x", offset=1), driver.ends(task, offset=1), driver.spawns(task)):
        with pytest.raises(StaleAttempt):
            await driver.do(change)
    assert await driver.log(task) == before
    await driver.do(driver.says(task, "y", attempt=2))


async def test_an_attempt_that_was_handed_back_writes_nothing(driver: Driver) -> None:
    task = await driver.started()
    await driver.do(driver.ends(task, State.SUBMITTED))
    with pytest.raises(StaleAttempt):
        await driver.do(driver.says(task, "x", offset=1))


async def test_an_attempt_whose_lease_was_lost_writes_nothing_though_its_number_still_stands(driver: Driver) -> None:
    task = await driver.started()
    await driver.do(d.FreeRunner(RUNNER))
    before = await driver.task(task)
    assert (before.attempt, before.state) == (1, State.SUBMITTED)
    with pytest.raises(StaleAttempt):
        await driver.do(driver.says(task, "x"))
    with pytest.raises(StaleAttempt):
        await driver.do(d.AdoptAttempt(task, 1, RUNNER))
    assert (await driver.task(task)).last_sequence == before.last_sequence


async def test_an_ended_task_takes_nothing_more_and_has_one_terminal_event(driver: Driver) -> None:
    task = await driver.started()
    await driver.do(driver.ends(task))
    for change in (driver.says(task, "x", offset=1), driver.ends(task, State.FAILED, offset=1), driver.spawns(task)):
        with pytest.raises(StaleAttempt):
            await driver.do(change)
    with pytest.raises(WrongState):
        await driver.do(driver.answers(task))
    assert (await driver.said(task))[-1:] == ["COMPLETED"]


async def test_only_the_runner_that_holds_the_attempt_may_adopt_it(driver: Driver) -> None:
    task = await driver.started()
    outcome = await driver.do(d.AdoptAttempt(task, 1, RUNNER))
    assert outcome.task is not None
    with pytest.raises(StaleAttempt):
        await driver.do(d.AdoptAttempt(task, 1, "runner-1~b"))


# -- offsets ------------------------------------------------------------------------------------------------


async def test_what_is_sent_again_is_not_written_again_also_after_the_end(driver: Driver) -> None:
    task = await driver.started()
    first, last = driver.says(task, "a", "b"), driver.ends(task, offset=2)
    await driver.do(first)
    again = await driver.do(first)
    assert (again.first_sequence, again.acked_offset) == (0, 2)
    await driver.do(last)
    log = await driver.log(task)
    for change in (first, last):
        assert (await driver.do(change)).acked_offset == 3
    assert await driver.log(task) == log


async def test_an_offset_gap_is_refused_and_says_what_is_durable(driver: Driver) -> None:
    task = await driver.started()
    await driver.do(driver.says(task, "a"))
    with pytest.raises(WrongState) as refused:
        await driver.do(driver.says(task, "c", offset=2))
    assert (refused.value.reason, refused.value.metadata["acked_offset"]) == ("OFFSET_GAP", "1")


async def test_a_batch_that_overlaps_what_is_durable_is_refused_rather_than_cut(driver: Driver) -> None:
    task = await driver.started()
    await driver.do(driver.says(task, "a"))
    with pytest.raises(WrongState):
        await driver.do(driver.says(task, "a", "b"))


async def test_offsets_begin_anew_with_each_attempt(driver: Driver) -> None:
    task = await driver.started()
    await driver.do(driver.says(task, "a", "b"))
    await driver.do(driver.ends(task, State.SUBMITTED, offset=2))
    await driver.claim()
    await driver.do(driver.says(task, "c", attempt=2, offset=0))
    assert (await driver.said(task))[-1] == "c"


# -- accepting ----------------------------------------------------------------------------------------------


async def test_a_repeated_request_is_the_same_task_also_within_one_transaction(driver: Driver) -> None:
    def asked(body: bytes = b"hash") -> d.CreateTask:
        return driver.new(request_id="r1", request_hash=body)

    outcomes = await driver.group(asked(), asked(), asked(b"other"))
    assert reasons(outcomes) == ["", "", "REQUEST_ID_REUSED"]
    later = await driver.do(asked())
    ids = {outcome.task_id for outcome in (*outcomes, later) if isinstance(outcome, d.Outcome)}
    assert len(ids) == 1
    assert later.existed
    with pytest.raises(AlreadyExists):
        await driver.do(asked(b"other"))
    other = driver.new(request_id="r1", request_hash=b"other", tenant="globex")
    assert not (await driver.do(other, tenant="globex")).existed


async def test_a_repeated_request_returns_the_task_as_it_stands(driver: Driver) -> None:
    task = await driver.started(request_id="r1")
    await driver.do(driver.ends(task, result=b""))
    again = await driver.do(driver.new(request_id="r1"))
    assert again.task is not None
    assert (again.existed, again.task.id, again.task.state) == (True, task, State.COMPLETED)


async def test_accepting_and_claiming_is_one_transaction_and_one_chunk(driver: Driver) -> None:
    task = await driver.started()
    stored = await driver.task(task)
    assert (stored.state, stored.attempt, stored.incarnation) == (State.WORKING, 1, RUNNER)
    chunks, _, _ = await driver.store.read_chunks("acme", task, 0, 1 << 20)
    assert [(c.first_sequence, c.count) for c in chunks] == [(1, 3)]


@pytest.mark.parametrize("case", ["unknown", "freed", "expired", "not yet"])
async def test_a_task_is_claimed_at_once_only_for_a_living_lease_and_if_it_is_due(driver: Driver, case: str) -> None:
    ready_ms = None
    if case != "unknown":
        await driver.runner()
    if case == "freed":
        await driver.do(d.FreeRunner(RUNNER))
    elif case == "expired":
        driver.now += LEASE_MS
    elif case == "not yet":
        ready_ms = driver.now + 1
    outcome = await driver.do(driver.new(RUNNER, ready_ms=ready_ms))
    assert (outcome.claimed, outcome.state) == (False, State.SUBMITTED)
    assert await driver.said(outcome.task_id) == ["SUBMITTED"]


async def test_a_start_time_that_no_database_can_hold_is_refused_alone(driver: Driver) -> None:
    outcomes = await driver.group(
        driver.new(ready_ms=2**70, request_id="far"), driver.new(request_id="far"), driver.new()
    )
    assert isinstance(outcomes[0], InvalidRequest)
    assert reasons(outcomes[1:]) == ["", ""]
    assert isinstance(outcomes[1], d.Outcome)
    assert not outcomes[1].existed


async def test_another_tenants_task_is_not_there(driver: Driver) -> None:
    task = await driver.started()
    with pytest.raises(NotFound):
        await driver.task(task, "globex")
    with pytest.raises(NotFound):
        await driver.store.read_chunks("globex", task, 0, 100)
    with pytest.raises(NotFound):
        await driver.store.read_steps("globex", task, 0, 100)
    for change in (d.CancelTask(task), driver.says(task, "x"), driver.answers(task), driver.spawns(task)):
        with pytest.raises(NotFound):
            await driver.do(change, tenant="globex")


# -- steps --------------------------------------------------------------------------------------------------


async def test_a_new_attempt_supersedes_what_was_said_after_the_last_finished_step(driver: Driver) -> None:
    task = await driver.started()
    await driver.do(driver.says(task, "a"))
    await driver.do(driver.step(task, "s1", offset=1))
    await driver.do(driver.says(task, "lost", offset=2))
    await driver.do(d.FreeRunner(RUNNER))
    await driver.runner("runner-1~b")
    (claimed,) = await driver.claim(incarnation="runner-1~b")
    assert claimed.task.attempt == 2
    started = [event.attempt_started for _, _, event in await driver.log(task) if event.HasField("attempt_started")]
    assert [s.supersedes_after_sequence for s in started] == [1, 5]
    steps = await driver.store.read_steps("acme", task, 0, 100)
    assert [(step.key, step.sequence) for step in steps] == [("s1", 5)]


async def test_a_steps_sequence_is_that_of_its_own_event(driver: Driver) -> None:
    task = await driver.started()
    change = driver.says(task, "a", "b", "c", "d")
    change.steps = [("s1", 1, b""), ("s2", 3, b"")]
    await driver.do(change)
    steps = await driver.store.read_steps("acme", task, 0, 100)
    assert [(step.key, step.sequence) for step in steps] == [("s1", 5), ("s2", 7)]
    assert (await driver.task(task)).kept_sequence == 7


# -- first commit wins ----------------------------------------------------------------------------------------


async def test_of_cancel_and_completion_the_first_commit_wins(driver: Driver) -> None:
    first, second = await driver.started(), await driver.started()
    await driver.do(driver.ends(first))
    with pytest.raises(WrongState) as refused:
        await driver.do(d.CancelTask(first))
    assert refused.value.reason == "TASK_ENDED"
    await driver.do(d.CancelTask(second))
    assert (await driver.task(second)).cancel_ms == driver.now
    await driver.do(driver.ends(second, State.CANCELED))
    with pytest.raises(StaleAttempt):
        await driver.do(driver.ends(second, offset=1))
    assert (await driver.do(d.CancelTask(second))).state is State.CANCELED  # idempotent


async def test_an_agent_that_completes_before_it_hears_of_the_cancel_has_completed(driver: Driver) -> None:
    task = await driver.started()
    outcomes = await driver.group(d.CancelTask(task), driver.ends(task))
    assert reasons(outcomes) == ["", ""]
    assert (await driver.task(task)).state is State.COMPLETED


@pytest.mark.parametrize("how", ["fails", "hands back", "loses", "parks", "parks asking"])
async def test_a_cancelled_task_is_canceled_whatever_else_ends_its_attempt(driver: Driver, how: str) -> None:
    task = await driver.started()
    await driver.do(driver.asks(task))
    await driver.do(d.CancelTask(task))
    changes: dict[str, d.Change] = {
        "fails": driver.ends(task, State.SUBMITTED, offset=1, failure=True),
        "hands back": driver.ends(task, State.SUBMITTED, offset=1),
        "loses": d.FreeRunner(RUNNER),
        "parks": driver.parks(task, new_id(), offset=1),
        "parks asking": driver.parks(task, asking=True, offset=1),
    }
    await driver.do(changes[how])
    assert (await driver.task(task)).state is State.CANCELED
    assert (await driver.said(task)).count("CANCELED") == 1
    assert (await driver.said(task))[-1] == "CANCELED"
    assert await driver.claim() == []


async def test_a_waiting_task_is_canceled_at_once(driver: Driver) -> None:
    task = await driver.create()
    outcome = await driver.do(d.CancelTask(task))
    assert (outcome.state, outcome.first_sequence) == (State.CANCELED, 2)
    assert await driver.claim() == []


# -- questions ----------------------------------------------------------------------------------------------


async def test_an_answer_is_journaled_and_a_second_one_refused(driver: Driver) -> None:
    task = await driver.started()
    await driver.do(driver.asks(task))
    assert (await driver.task(task)).state is State.INPUT_REQUIRED
    outcome = await driver.do(driver.answers(task))
    assert outcome.state is State.WORKING
    with pytest.raises(WrongState) as refused:
        await driver.do(driver.answers(task))
    assert refused.value.reason == "INPUT_ALREADY_GIVEN"
    assert [step.key for step in await driver.store.read_steps("acme", task, 0, 100)] == ["q"]
    both = await driver.group(driver.asks(task, "q2", offset=1), driver.answers(task, "q2"), driver.answers(task, "q2"))
    assert reasons(both) == ["", "", "INPUT_ALREADY_GIVEN"]


async def test_an_answer_to_what_was_not_asked_is_refused(driver: Driver) -> None:
    task = await driver.started()
    for change in (driver.answers(task), driver.answers(await driver.create())):
        with pytest.raises(WrongState) as refused:
            await driver.do(change)
        assert refused.value.reason == "INPUT_NOT_ASKED"
    await driver.do(driver.asks(task, "q2"))
    with pytest.raises(WrongState):
        await driver.do(driver.answers(task, "q1"))


async def test_an_answer_wakes_a_parked_task(driver: Driver) -> None:
    task = await driver.started()
    await driver.do(driver.asks(task))
    await driver.do(driver.parks(task, asking=True, offset=1))
    assert await driver.claim() == []
    assert (await driver.task(task)).state is State.INPUT_REQUIRED
    outcome = await driver.do(driver.answers(task))
    assert outcome.state is State.SUBMITTED
    (claimed,) = await driver.claim()
    assert claimed.task.attempt == 2


@pytest.mark.parametrize("asking", [True, False], ids=["before the router knew", "after the router knew"])
async def test_an_answer_that_crosses_the_parking_does_not_leave_the_task_parked(driver: Driver, asking: bool) -> None:
    task = await driver.started()
    await driver.do(driver.asks(task))
    await driver.group(driver.answers(task), driver.parks(task, asking=asking, offset=1))
    assert (await driver.task(task)).state is State.SUBMITTED
    (claimed,) = await driver.claim()
    assert claimed.task.id == task


async def test_a_question_outlives_the_runner_that_asked_it(driver: Driver) -> None:
    task = await driver.started()
    await driver.do(driver.asks(task))
    await driver.do(d.FreeRunner(RUNNER))
    assert (await driver.task(task)).state is State.INPUT_REQUIRED
    assert await driver.claim() == []
    await driver.do(driver.answers(task))
    await driver.runner("runner-1~b")
    assert len(await driver.claim(incarnation="runner-1~b")) == 1


async def test_what_a_task_used_is_added_up_count_by_count(driver: Driver) -> None:
    task_id = await driver.started()
    used = d.Usage(1, 2, 3, 4, 5, 6, 2**40)
    for offset in range(2):
        await driver.do(driver.says(task_id, "text", offset=offset, usage=used))
    assert (await driver.task(task_id)).usage == d.Usage(2, 4, 6, 8, 10, 12, 2**41)
