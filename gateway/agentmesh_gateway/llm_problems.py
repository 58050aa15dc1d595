"""What a failed model call means over HTTP, the same for every vendor's form: a status, and whether to try again."""

import math
from collections.abc import Callable

from agentmesh.kit import errors, names
from agentmesh_gateway import problems

# Said by a provider behind us, not by us.
_BAD_GATEWAY = frozenset({"PROVIDER_FAILED", "PROVIDER_GARBAGE", "PROVIDER_CREDENTIAL", "STREAM_INTERRUPTED"})
# Trying again soon changes nothing.
_HOPELESS = frozenset({"PROVIDER_CREDENTIAL", "GATEWAY_CREDENTIAL", names.BUDGET_EXHAUSTED})
_TOO_LARGE = frozenset({"REQUEST_TOO_LARGE", "MESSAGE_TOO_LARGE"})
_RETRY_S = 1.0


def status_of(error: errors.MeshError) -> int:
    """Return the status of the response."""
    if error.reason in _TOO_LARGE:
        return 413
    return 502 if error.reason in _BAD_GATEWAY else problems.http_status(error)


def headers_of(error: errors.MeshError) -> dict[str, str]:
    """Return the headers that steer a client's retries, and those that HTTP itself demands."""
    status = status_of(error)
    headers = {"cache-control": "no-store"}
    if status == 429 or status >= 500:
        # What ran out of time, or met a bug of ours, would do so again, and a model's time costs money.
        again = status in (429, 502, 503) and error.reason not in _HOPELESS
        headers["x-should-retry"] = "true" if again else "false"
        if again:
            seconds = _RETRY_S if error.retry_after_s is None else error.retry_after_s
            headers["retry-after"] = str(max(1, math.ceil(seconds)))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, problems.HttpProblem):
        headers |= error.headers
    return headers


def text_of(error: errors.MeshError, named: Callable[[str], str]) -> str:
    """Return what a person reads: the fixed text, and the first field that is wrong if the text doesn't name it.

    `named` turns the contract's path of a field into the vendor's.
    """
    if not error.violations:
        return error.message
    field, description = error.violations[0]
    return error.message if description in error.message else f"{error.message}: {named(field)} {description}"
