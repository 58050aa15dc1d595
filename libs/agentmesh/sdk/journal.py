"""What earlier attempts finished, matched by key, and what they said already."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb

INTENT = "intent"
"""The kind of a record that says a call was begun; with a result, that it failed and may be made again."""


class Journal:
    """Finished steps by key, and for each scope how many events were said outside of steps.

    Calls that were begun and have no outcome are kept apart: they are not finished.

    A key is made of scope, kind, name, digest of the input and how often that came before in its scope, so it
    does not depend on the order in which concurrent steps finish.
    """

    def __init__(self, records: Iterable[runner_pb.StepRecord] = ()) -> None:
        self._records: dict[str, runner_pb.StepRecord] = {}
        self._intents: dict[str, runner_pb.StepRecord] = {}  # the last of each key
        self._occurrences: Counter[str] = Counter()
        self._said_before: dict[str, int] = {}
        for record in records:
            self._kept(record)[record.key] = record
            for scope, count in record.emitted.items():
                self._said_before[scope] = max(count, self._said_before.get(scope, 0))
        self._unmatched = {*self._records, *(key for key, record in self._intents.items() if not record.result)}
        self._said: Counter[str] = Counter()
        self._unrecorded: set[str] = set()

    def key(self, scope: str, kind: str, name: str, digest: str) -> str:
        """Return the key of the next step of this kind."""
        stem = f"{scope}{kind}.{name}.{digest}"
        self._occurrences[stem] += 1
        return f"{stem}.{self._occurrences[stem]}"

    def find(self, key: str) -> runner_pb.StepRecord | None:
        """Return a finished step."""
        self._unmatched.discard(key)
        return self._records.get(key)

    def is_intended(self, key: str) -> bool:
        """Say whether a call was begun under this key, and nothing tells how it went."""
        self._unmatched.discard(key)
        return key in self._intents and key not in self._records and not self._intents[key].result

    def add(self, record: runner_pb.StepRecord) -> None:
        """Take a record in that is about to be said; it then carries what was said since the last one."""
        for scope in self._unrecorded:
            record.emitted[scope] = self._said[scope]
        self._unrecorded.clear()
        self._kept(record)[record.key] = record

    def take_back(self, record: runner_pb.StepRecord) -> None:
        """Forget a record that could not be said; the next one then carries what it carried."""
        del self._kept(record)[record.key]
        self._unrecorded.update(record.emitted)

    def is_news(self, scope: str) -> bool:
        """Count an event said outside of steps, and say whether no earlier attempt said it."""
        self._said[scope] += 1
        self._unrecorded.add(scope)
        return self._said[scope] > self._said_before.get(scope, 0)

    def _kept(self, record: runner_pb.StepRecord) -> dict[str, runner_pb.StepRecord]:
        return self._intents if record.kind == INTENT else self._records

    @property
    def unmatched(self) -> list[str]:
        """Return the keys of steps that this attempt did not come by; those inside a finished step are not meant."""
        return sorted(key for key in self._unmatched if not self._inside_a_matched_step(key))

    def _inside_a_matched_step(self, key: str) -> bool:
        outers = (key[:end] for end, letter in enumerate(key) if letter == "/")
        return any(outer in self._records and outer not in self._unmatched for outer in outers)


def digest_of(value: Any) -> str:
    """Return a short digest of data, the same in every process; what has no value of its own counts by its type."""
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True, default=_stable).encode()
    return hashlib.blake2b(data, digest_size=6).hexdigest()


def _stable(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    kind: Any = type(value)
    if callable(value) or kind.__repr__ is object.__repr__:
        return str(getattr(value, "__qualname__", kind.__qualname__))  # its repr would hold an address
    return str(value)
