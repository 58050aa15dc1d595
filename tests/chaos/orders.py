"""What the clients of a chaos run ask for, and what must be left of it."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random

from agentmesh.client.spec import Json
from tests.support.history import Expected

_COMPLETED, _CANCELED = 3, 5
_WAYS = ("stream", "lane-stream", "lane-run", "submit", "twice")


@dataclass(frozen=True)
class Order:
    """One task to ask for. `way` is how; `cancel_at` the event after which it is canceled; 0: never."""

    request_id: str
    way: str
    expected: Expected
    agent: str = "echo"
    parameters: Mapping[str, Json] = field(default_factory=dict)
    cancel_at: int = 0
    delay_s: float = 0.0


def orders(random: Random) -> Iterator[Order]:
    """Yield orders without end; the same for the same seed."""
    while True:
        make = random.choice(_KINDS)
        # A cancel needs somebody who watches, to be sent in the middle.
        way = random.choice(("stream", "lane-stream")) if make is _canceled else random.choice(_WAYS)
        yield make(random, str(uuid.UUID(int=random.getrandbits(128), version=4)), way)


def _messages(random: Random, request_id: str, way: str) -> Order:
    count = random.randint(1, 40)
    return Order(request_id, way, Expected(messages=count), parameters={"count": count, "delay_ms": _pace(random)})


def _steps(random: Random, request_id: str, way: str) -> Order:
    count = random.randint(1, 30)
    parameters: dict[str, Json] = {"count": count, "steps": True, "delay_ms": _pace(random)}
    return Order(request_id, way, Expected(messages=count, steps=True), parameters=parameters)


def _deltas(random: Random, request_id: str, way: str) -> Order:
    count = random.randint(1, 60)
    parameters = {"count": count, "mode": "delta", "delay_ms": _pace(random)}
    return Order(request_id, way, Expected(deltas=count), parameters=parameters)


def _calls(random: Random, request_id: str, way: str) -> Order:
    calls, count = random.randint(1, 4), random.randint(1, 10)
    parameters: dict[str, Json] = {"llm_calls": calls, "count": count, "delay_ms": _pace(random)}
    return Order(request_id, way, Expected(messages=count, llm_calls=calls), parameters=parameters)


def _canceled(random: Random, request_id: str, way: str) -> Order:
    count = random.randint(20, 60)
    expected = Expected(messages=count, steps=random.random() < 0.5, states=(_COMPLETED, _CANCELED))
    parameters: dict[str, Json] = {"count": count, "steps": expected.steps, "delay_ms": 20 + _pace(random)}
    return Order(request_id, way, expected, parameters=parameters, cancel_at=random.randint(1, 12))


def _delayed(random: Random, request_id: str, way: str) -> Order:
    return Order(request_id, way, Expected(messages=1), parameters={"count": 1}, delay_s=random.uniform(0.5, 3))


def _parent(random: Random, request_id: str, way: str) -> Order:
    return Order(request_id, way, Expected(children=3), agent="parent")


def _pace(random: Random) -> float:
    return random.choice((0, 5, 20, 50))


_KINDS: tuple[Callable[[Random, str, str], Order], ...] = (
    _messages,
    _messages,
    _steps,
    _steps,
    _deltas,
    _calls,
    _canceled,
    _delayed,
    _parent,
)
