"""What the vendors' request forms share: strict reading, and fields that are refused or passed over."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from agentmesh.kit.errors import InvalidRequest

Violations = list[tuple[str, str]]


class Given(BaseModel):
    """Untrusted JSON, read strictly: no text for a number, no number for text."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Loose(Given):
    """Where vendors add fields that change nothing here."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


def only_honoured(
    tree: Mapping[str, Any], not_honoured: Mapping[str, Collection[Any]], passed_over: Collection[str]
) -> dict[str, Any]:
    """Return a request without the fields that change nothing; raise InvalidRequest for those that would.

    `not_honoured` has the values of a field that don't change the answer.
    """
    kept: dict[str, Any] = {}
    violations: Violations = []
    for name, value in tree.items():
        if name in not_honoured:
            if value is not None and value not in not_honoured[name]:
                violations.append((name, "can't be honoured here: leave it out"))
        elif name not in passed_over:
            kept[name] = value
    refuse(violations)
    return kept


def refuse(violations: Sequence[tuple[str, str]]) -> None:
    """Raise InvalidRequest, whose text names the first field, if there are any."""
    if violations:
        field, description = violations[0]
        raise InvalidRequest(f"{field} {description}", violations=violations)
