"""The router's rules, pure: what a valid task is, and what follows from how an attempt ended."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

Violations = list[tuple[str, str]]

MAX_PROMPT_CHARS = 1_000_000
MAX_LABELS = 32
MAX_LABEL_CHARS = 63
MAX_ARTIFACTS = 100
MAX_REQUEST_ID = 128
MAX_CONTEXT_ID = 128
MAX_ATTEMPTS = 100
DEFAULT_PRIORITY = 5
MAX_SPEC_BYTES = 1024 * 1024
MAX_DELAY_S = 10 * 366 * 86_400.0
_MAX_SECONDS = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What happens when an attempt fails. Times are seconds."""

    max_attempts: int
    initial_backoff_s: float
    max_backoff_s: float
    non_retryable_reasons: frozenset[str] = frozenset()

    def backoff_s(self, failures: int) -> float:
        """Return the wait before the next attempt after so many failures, at least 1."""
        return min(self.initial_backoff_s * 2.0 ** min(failures - 1, 32), self.max_backoff_s)

    def retries(self, failures: int, reason: str, *, non_retryable: bool) -> bool:
        """Say whether a task that has now failed so often, last for this reason, is tried again."""
        return not non_retryable and reason not in self.non_retryable_reasons and failures < self.max_attempts


@dataclass(frozen=True, slots=True)
class SpecFacts:
    """What validation looks at. `None` for a time that was not given; times are seconds."""

    agent: str
    prompt_chars: int
    has_content: bool
    priority: int
    timeout_s: float | None
    queue_timeout_s: float | None
    idle_timeout_s: float | None
    artifact_ids: Sequence[str]
    labels: Sequence[tuple[str, str]]
    context_id: str
    max_attempts: int
    size_bytes: int
    starts_in_s: float


def violations_of(facts: SpecFacts) -> Violations:
    """Return every field that breaks a rule of the contract, with what it should be."""
    found: Violations = []
    if not facts.agent:
        found.append(("spec.agent", "is needed: name an agent; ListAgents shows them"))
    if not facts.has_content:
        found.append(("spec.prompt", "is needed, unless input, artifact_ids or parameters are given"))
    if facts.prompt_chars > MAX_PROMPT_CHARS:
        found.append(
            ("spec.prompt", f"must be at most {MAX_PROMPT_CHARS} characters; upload longer texts as artifacts")
        )
    if not 0 <= facts.priority <= 10:
        found.append(("spec.priority", "must be from 1 to 10, or 0 for the default of 5"))
    for name, seconds in (
        ("timeout", facts.timeout_s),
        ("queue_timeout", facts.queue_timeout_s),
        ("idle_timeout", facts.idle_timeout_s),
    ):
        if seconds is not None and not 0 < seconds <= _MAX_SECONDS:
            found.append((f"spec.{name}", "must be above 0 s and at most 30 days"))
    if len(facts.artifact_ids) > MAX_ARTIFACTS:
        found.append(("spec.artifact_ids", f"must be at most {MAX_ARTIFACTS}"))
    if len(facts.labels) > MAX_LABELS:
        found.append(("spec.labels", f"must be at most {MAX_LABELS}"))
    for name, value in facts.labels:
        if not 0 < len(name) <= MAX_LABEL_CHARS or len(value) > MAX_LABEL_CHARS:
            found.append(("spec.labels", f"names and values must be at most {MAX_LABEL_CHARS} characters"))
            break
    if len(facts.context_id) > MAX_CONTEXT_ID:
        found.append(("spec.context_id", f"must be at most {MAX_CONTEXT_ID} characters"))
    if not 0 <= facts.max_attempts <= MAX_ATTEMPTS:
        found.append(("spec.retry.max_attempts", f"must be from 1 to {MAX_ATTEMPTS}, or 0 for the default"))
    if facts.size_bytes > MAX_SPEC_BYTES:
        found.append(("spec", f"must be at most {MAX_SPEC_BYTES} bytes; upload larger inputs as artifacts"))
    if facts.starts_in_s > MAX_DELAY_S:
        found.append(("spec.start_time", "must be within 10 years from now"))
    return found


def request_hash(body: bytes) -> bytes:
    """Return the canonical hash of a request's deterministically serialised body."""
    return hashlib.blake2b(body, digest_size=16).digest()
