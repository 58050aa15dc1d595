"""How the checks of an answer become a verdict, the same for every agent."""

from collections.abc import Sequence

from agentmesh.sdk import Check, Verdict

# The offline model repeats what it reads; asking it again with feedback mends nothing.
OFFLINE_PROVIDER = "offline"


def verdict_of(checks: Sequence[Check]) -> Verdict:
    """Pass if every check holds and there is one; the score is the share that holds."""
    passed = sum(check.passed for check in checks)
    return Verdict(
        passed=bool(checks) and passed == len(checks),
        score=passed / len(checks) if checks else 0.0,
        checks=tuple(checks),
    )


def failed_checks(verdict: Verdict) -> list[Check]:
    """Return the checks that don't hold."""
    return [check for check in verdict.checks if not check.passed]
