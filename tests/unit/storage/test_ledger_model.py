"""The ledger's rules under any interleaving: whatever happens, a log stays whole and a task has one owner."""

from collections import defaultdict
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.kit.errors import MeshError, StaleAttempt
from agentmesh_storage import consequences
from agentmesh_storage import domain as d
from agentmesh_storage.ledger import Ledger
from agentmesh_storage.rules import Rules

State = d.State
TERMINAL = (State.COMPLETED, State.FAILED, State.CANCELED, State.REJECTED)
RUNNERS = ("one~a", "one~b", "two~a")
ROUTERS = ("router@h:1~a", "router@h:1~b", "router@h:2~a")
MAX_LOSSES = 2


def state_events(state: State) -> bytes:
    changed = pb.StateChanged(state=int(state))  # type: ignore[arg-type]
    return pb.EventList(events=[pb.TaskEvent(state_changed=changed)]).SerializeToString()


class LedgerMachine(RuleBasedStateMachine):
    """Does to a ledger what routers and runners may do, in any order, also what they may not."""

    tasks: Bundle[str] = Bundle("tasks")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(now_ms=1_000_000, rules=Rules(max_losses=MAX_LOSSES))
        self.made = 0
        self.log: dict[str, list[tuple[int, pb.TaskEvent]]] = defaultdict(list)
        self.chunks_seen = 0
        self.awaited: dict[str, list[str]] = {}

    # -- what storage does with a ledger ----------------------------------------------------------------------

    def settle(self) -> None:
        ledger = self.ledger
        held = [
            (router, sync, task.id, task.router)
            for router, sync, _ in ledger.synced
            for task in ledger.tasks.values()
            if task.incarnation == sync.incarnation
        ]
        for _ in consequences.follow(ledger):
            pass  # every row is here
        for router, sync, task_id, claimed_by in held:
            if ledger.tasks[task_id].incarnation != sync.incarnation:
                assert task_id not in sync.running
                assert claimed_by == router or not ledger.lives(claimed_by), "took from a router that lives"
        # Each change is a transaction of its own.
        for of_one in (ledger.freed, ledger.synced, ledger.created, ledger.ended_badly):
            of_one.clear()

    def do(self, change: d.Change, router: str = ROUTERS[0]) -> d.Outcome | MeshError:
        outcome = self.ledger.apply(d.Mutation("acme", change, router))
        self.settle()
        return outcome

    def new(self, claim: str | None) -> d.CreateTask:
        self.made += 1
        task = d.Task(id=f"t{self.made}", tenant="acme", agent="echo", spec=b"", create_ms=0)
        return d.CreateTask(task, {}, claim=d.Claim(claim, "1") if claim else None)

    # -- what happens -------------------------------------------------------------------------------------------

    @initialize()
    def a_runner_lives(self) -> None:
        self.do(d.RenewLease(RUNNERS[0], "one", 10_000))

    @rule(target=tasks, claim=st.none() | st.sampled_from(RUNNERS), router=st.sampled_from(ROUTERS))
    def create(self, claim: str | None, router: str) -> str:
        outcome = self.do(self.new(claim), router)
        assert isinstance(outcome, d.Outcome)
        return outcome.task_id

    @rule(incarnation=st.sampled_from(RUNNERS))
    def renew(self, incarnation: str) -> None:
        self.do(d.RenewLease(incarnation, incarnation.partition("~")[0], 10_000))

    @rule(incarnation=st.sampled_from(RUNNERS))
    def free(self, incarnation: str) -> None:
        self.do(d.FreeRunner(incarnation))

    @rule(router=st.sampled_from(ROUTERS))
    def a_router_lives(self, router: str) -> None:
        self.do(d.RenewLease(router, router.partition("~")[0], 10_000))

    @rule(incarnation=st.sampled_from(RUNNERS), known=st.sets(tasks, max_size=3), router=st.sampled_from(ROUTERS))
    def sync(self, incarnation: str, known: set[str], router: str) -> None:
        self.do(d.SyncRunner(incarnation, frozenset(known)), router)

    @rule(task_id=tasks, router=st.sampled_from(ROUTERS), stale=st.integers(0, 1), runner=st.sampled_from(RUNNERS))
    def adopt(self, task_id: str, router: str, stale: int, runner: str) -> None:
        task = self.ledger.tasks[task_id]
        holds = task.incarnation == runner and stale == 0
        before = (task.attempt, task.last_sequence, task.acked_offset)
        outcome = self.do(d.AdoptAttempt(task_id, task.attempt - stale, runner), router)
        assert isinstance(outcome, d.Outcome) == holds
        assert before == (task.attempt, task.last_sequence, task.acked_offset), "adopting changes no attempt"
        assert not holds or task.router == router

    @rule(ms=st.integers(1, 5_000))
    def time_passes(self, ms: int) -> None:
        self.ledger.now_ms += ms

    @rule(incarnation=st.sampled_from(RUNNERS))
    def claim(self, incarnation: str) -> None:
        ready = [t for t in self.ledger.tasks.values() if t.ready_ms is not None and t.ready_ms <= self.ledger.now_ms]
        if ready and self.ledger.lives(incarnation):
            self.ledger.start_attempt(ready[0], d.Claim(incarnation, "1"))

    @rule(task_id=tasks, state=st.sampled_from((State.UNSPECIFIED, State.WORKING, *TERMINAL, State.SUBMITTED)))
    def say(self, task_id: str, state: State) -> None:
        self.append(task_id, state=state)

    @rule(task_id=tasks)
    def ask(self, task_id: str) -> None:
        self.append(task_id, state=State.INPUT_REQUIRED, input_request=b"q", input_id="q")

    @rule(task_id=tasks, asking=st.booleans(), awaited=st.lists(tasks, max_size=2))
    def park(self, task_id: str, asking: bool, awaited: list[str]) -> None:
        state = State.INPUT_REQUIRED if asking else State.SUBMITTED
        children = [child for child in awaited if self.ledger.tasks[child].parent_id == task_id]
        if self.ledger.tasks[task_id].incarnation:
            self.awaited[task_id] = children
        self.append(task_id, state=state, passivate=True, awaited_task_ids=children)

    @rule(task_id=tasks, stale=st.integers(0, 2), skip=st.integers(-1, 1), state=st.sampled_from((*TERMINAL,)))
    def say_what_may_be_wrong(self, task_id: str, stale: int, skip: int, state: State) -> None:
        self.append(task_id, stale=stale, skip=skip, state=state)

    def append(self, task_id: str, *, stale: int = 0, skip: int = 0, state: State, **fields: Any) -> None:
        task = self.ledger.tasks[task_id]
        attempt, offset, last = task.attempt - stale, task.acked_offset + skip, task.last_sequence
        held = bool(task.incarnation) and not task.state.terminal and stale == 0
        outcome = self.do(d.AppendEvents(task_id, attempt, offset, 1, state_events(state), 1, state=state, **fields))
        if held and not skip:
            assert isinstance(outcome, d.Outcome)
            return
        assert task.last_sequence == last, "what does not hold the task wrote"
        repeated = stale == 0 and offset < task.acked_offset
        assert repeated or isinstance(outcome, MeshError)
        assert repeated or held or isinstance(outcome, StaleAttempt)

    @rule(target=tasks, parent_id=tasks, step=st.sampled_from(("s1", "s2")), claim=st.none() | st.sampled_from(RUNNERS))
    def spawn(self, parent_id: str, step: str, claim: str | None) -> str:
        parent = self.ledger.tasks[parent_id]
        twin = self.ledger.by_parent_step.get((parent_id, step))
        outcome = self.do(d.SpawnTask(parent_id, parent.attempt, step, self.new(claim)))
        if isinstance(outcome, MeshError):
            return parent_id
        assert outcome.existed == (twin is not None)
        assert twin is None or outcome.task_id == twin.id
        return outcome.task_id

    @rule(task_id=tasks)
    def cancel(self, task_id: str) -> None:
        self.do(d.CancelTask(task_id))

    @rule(task_id=tasks)
    def give_input(self, task_id: str) -> None:
        answered = (task_id, "q") in self.ledger.answered
        outcome = self.do(d.GiveInput(task_id, "q", b"", b""))
        assert not (answered and isinstance(outcome, d.Outcome)), "a question was answered twice"

    @rule(task_id=tasks)
    def expire(self, task_id: str) -> None:
        task = self.ledger.tasks[task_id]
        if not task.state.terminal:
            task.deadline_ms = self.ledger.now_ms - 1
            self.ledger.expire_if_due(task)
            self.settle()

    # -- what always holds ----------------------------------------------------------------------------------------

    def read_log(self) -> None:
        for chunk in self.ledger.chunks[self.chunks_seen :]:
            events = pb.EventList.FromString(chunk.events).events
            assert len(events) == chunk.count
            assert chunk.first_sequence == len(self.log[chunk.task_id]) + 1
            self.log[chunk.task_id].extend((chunk.attempt, event) for event in events)
        self.chunks_seen = len(self.ledger.chunks)

    @invariant()
    def sequences_are_1_to_n_in_the_order_of_writing(self) -> None:
        self.read_log()
        for task in self.ledger.tasks.values():
            assert task.last_sequence == len(self.log[task.id])

    @invariant()
    def a_terminal_event_is_the_only_one_and_the_last(self) -> None:
        self.read_log()
        for task in self.ledger.tasks.values():
            states = [State(event.state_changed.state) for _, event in self.log[task.id]]
            terminal = [state for state in states if state in TERMINAL]
            assert len(terminal) == (1 if task.state.terminal else 0)
            if terminal:
                assert states[-1] == terminal[0] == task.state

    @invariant()
    def a_task_is_ready_leased_or_parked_and_never_two_of_them(self) -> None:
        for task in self.ledger.tasks.values():
            if task.state.terminal:
                assert (task.incarnation, task.ready_ms, task.queue_deadline_ms) == ("", None, None)
            assert not (task.incarnation and task.ready_ms is not None)
            assert task.state is not State.WORKING or task.incarnation
            assert task.ready_ms is None or task.state is State.SUBMITTED
            assert not task.due or (task.ready_ms is not None and task.ready_ms <= self.ledger.now_ms)
            if task.state is State.INPUT_REQUIRED and not task.incarnation:
                assert task.input_id, "nobody can wake a task that waits for an answer to nothing"

    @invariant()
    def who_holds_a_task_has_a_lease_that_was_not_taken(self) -> None:
        for task in self.ledger.tasks.values():
            if task.incarnation:
                assert not self.ledger.runners[task.incarnation].freed

    @invariant()
    def attempts_are_started_in_order_and_nothing_of_an_older_one_follows(self) -> None:
        self.read_log()
        for events in self.log.values():
            newest = 0
            for attempt, event in events:
                started = event.attempt_started.attempt
                if started:
                    assert started == newest + 1
                    newest = started
                assert attempt in (0, newest)

    @invariant()
    def a_name_has_one_lease(self) -> None:
        names = [runner.name for runner in self.ledger.runners.values() if not runner.freed]
        assert len(names) == len(set(names))

    @invariant()
    def a_parked_task_waits_for_something_that_can_come(self) -> None:
        for task in self.ledger.tasks.values():
            if task.state is State.SUBMITTED and task.ready_ms is None:
                assert self.awaited[task.id]
                assert not any(self.ledger.tasks[child].state.terminal for child in self.awaited[task.id])

    @invariant()
    def losses_are_bounded(self) -> None:
        for task in self.ledger.tasks.values():
            assert 0 <= task.losses <= MAX_LOSSES + 1


LedgerMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestLedger = LedgerMachine.TestCase
