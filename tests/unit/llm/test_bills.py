"""A bill stays open until nothing more can come onto it."""

from agentmesh_llm.batches.bills import Bill
from agentmesh_llm.watching.calls import Caller


def bill(closed: list[str]) -> Bill:
    return Bill(Caller("acme"), lambda record: None, lambda: closed.append("closed"), 0.0)


def test_a_bill_without_calls_is_closed_when_the_request_ends() -> None:
    closed: list[str] = []
    bill(closed).end()
    assert closed == ["closed"]


def test_a_bill_whose_caller_left_is_closed_after_the_last_call_once() -> None:
    closed: list[str] = []
    one = bill(closed)
    one.call_began()
    one.call_began()
    one.end()
    one.call_ended()
    assert not closed
    one.call_ended()
    assert closed == ["closed"]


def test_a_bill_is_not_closed_between_two_calls_of_a_request() -> None:
    closed: list[str] = []
    one = bill(closed)
    one.call_began()
    one.call_ended()
    one.call_began()
    assert not closed
    one.call_ended()
    one.end()
    assert closed == ["closed"]
