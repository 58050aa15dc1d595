from google.rpc import error_details_pb2, status_pb2

from agentmesh.kit import errors


def test_an_error_comes_back_as_it_was_sent_with_one_id() -> None:
    sent = errors.ResourceExhausted(
        "too much", reason="QUOTA", retry_after_s=1.25, quota="tenant:a", metadata={"limit": "5"}
    )
    status = errors.to_status(sent)
    error = errors.from_status(status)
    assert type(error) is errors.ResourceExhausted
    assert (error.message, error.reason, error.retry_after_s, error.quota) == ("too much", "QUOTA", 1.25, "tenant:a")
    assert error.metadata["limit"] == "5"
    again = errors.from_status(errors.to_status(error))
    assert again.metadata == error.metadata  # relayed, it keeps its id


def test_every_status_carries_reason_and_domain() -> None:
    status = errors.to_status(errors.NotFound("nothing there"))
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("NOT_FOUND", "agentmesh")
    assert len(info.metadata["error_id"]) == 16


def test_a_code_that_we_do_not_use_is_internal() -> None:
    for code in (2, 15, 99, 0):
        assert type(errors.from_status(status_pb2.Status(code=code))) is errors.Internal


def test_a_stale_attempt_is_told_from_a_wrong_state_also_over_the_wire() -> None:
    assert type(errors.from_status(errors.to_status(errors.StaleAttempt("s")))) is errors.StaleAttempt
    assert type(errors.from_status(errors.to_status(errors.WrongState("w")))) is errors.WrongState
