"""Where a model runs, how it fares there, and which place is asked next; pure but for the clock that is passed in."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from agentmesh.kit import names, telemetry
from agentmesh.kit.errors import MeshError, ResourceExhausted, Unavailable
from agentmesh_llm.books.prices import Price
from agentmesh_llm.domain import Priority
from agentmesh_llm.ports import Provider
from agentmesh_llm.routing.concurrency import CallLimit
from agentmesh_llm.watching.calls import Server, Watch

_OPEN_AFTER: Final = 5
"""Failures in a row after which a place is left alone for a while."""
_FIRST_REST_S: Final = 1.0
_LONGEST_REST_S: Final = 30.0
_LEAST_HINT_S: Final = 0.1
_LONGEST_COOL_S: Final = 600.0
_SMOOTHING: Final = 0.2
_QUICK_S: Final = 0.05  # what a place that was never asked is taken to need


_open = telemetry.gauge(names.LLM_OPEN, "Whether a model at a provider may be asked now", ("provider", "model"))


@dataclass(frozen=True, slots=True)
class Offer:
    """A provider as configured, with the models it is asked for.

    `total_timeout_s` bounds what is no stream, the batches the texts of one call, `limit` the calls at a time. With
    `share_batches` texts of several tenants go in one call. `prices` has those of the models that have one.
    """

    name: str
    provider: Provider
    models: tuple[str, ...]
    embedding_models: tuple[str, ...]
    total_timeout_s: float
    embedding_batch: int = 256
    prices: Mapping[str, Price] = field(default_factory=dict)
    rerank_models: tuple[str, ...] = ()
    rerank_batch: int = 256
    completion_models: tuple[str, ...] = ()
    completion_batch: int = 32
    share_batches: bool = False
    limit: CallLimit = field(default_factory=CallLimit)
    server: Server = field(default_factory=Server)
    watch: Watch = field(default_factory=Watch)
    send_traceparent: bool = False


class Attempted(NamedTuple):
    """A call that a place was asked to answer; `trial` says that it is to show whether the place works again."""

    began: float
    trial: bool


class Deployment:
    """A model at a provider. `now` tells monotonic seconds.

    After a 429 it is left alone for as long as the provider said; after five failures in a row for a second, doubling
    with each further one to 30 s. When that is over one call tries it, and others follow once that has succeeded.
    """

    def __init__(self, offer: Offer, model: str, now: Callable[[], float]) -> None:
        self.offer = offer
        self.model = model
        self.name = f"{offer.name}/{model}"
        self._now = now
        self._in_flight = 0
        self._waiting = 0
        self._first_word_s = _QUICK_S
        self._failures = 0
        self._cool_until = 0.0
        self._full_until = 0.0  # of these, what a 429 asked for
        self._trial: Attempted | None = None
        # Read when somebody looks: a call must not pay for it.
        _open.labels(offer.name, model).set_function(lambda: self.is_open)

    @property
    def in_flight(self) -> int:
        """How many calls run here, or wait for it."""
        return self._in_flight + self._waiting

    @property
    def price(self) -> Price | None:
        """Return what it costs, if that is known."""
        return self.offer.prices.get(self.model)

    @property
    def is_open(self) -> bool:
        """Whether it may be asked now."""
        if self._now() < self._cool_until:
            return False
        return self._trial is None

    @property
    def is_full(self) -> bool:
        """Whether one more call would have to wait for its turn."""
        return self.offer.limit.is_full

    def load(self, priority: Priority = Priority.INTERACTIVE) -> float:
        """Return how long one more call would wait here for its turn and its first word, roughly."""
        return (self._in_flight + 1) * self._first_word_s + self.offer.limit.wait_s(priority)

    def take(self) -> bool:
        """Take the room for a call, if there is any: `begin` it at once."""
        return self.offer.limit.take()

    async def wait(self, tenant: str, priority: Priority) -> None:
        """Wait until there is room, and take it: `begin` the call at once.

        Raises ResourceExhausted if too many wait, and the refusal if meanwhile it is left alone.
        """
        self._waiting += 1
        try:
            went = await self.offer.limit.wait(self, tenant, priority)
        finally:
            self._waiting -= 1
        if not went:
            raise self.refusal()
        if not self.is_open:
            self.offer.limit.put_back()
            raise self.refusal()

    def begin(self) -> Attempted:
        """Hear that it is asked, in room that was taken; `end` it with what this returns."""
        self._in_flight += 1
        attempted = Attempted(self._now(), self._failures >= _OPEN_AFTER)
        if attempted.trial:
            self._trial = attempted
        return attempted

    def spoke(self, after_s: float) -> None:
        """Hear that the first word came, so many seconds after it was asked."""
        self._first_word_s += _SMOOTHING * (after_s - self._first_word_s)

    def end(self, attempted: Attempted, error: BaseException | None) -> None:
        """Hear how a call ended; only what is the provider's fault counts against it.

        Once it is left alone only the call that tries it tells whether it works: those from before tell of before.
        """
        self._in_flight -= 1
        was_trial = attempted is self._trial
        if was_trial:
            self._trial = None
        counts = was_trial or self._failures < _OPEN_AFTER
        now = self._now()
        if isinstance(error, ResourceExhausted):
            wait_s = min(max(error.retry_after_s or _FIRST_REST_S, _LEAST_HINT_S), _LONGEST_COOL_S)
            self._cool_until = self._full_until = max(self._cool_until, now + wait_s)
        elif isinstance(error, Unavailable) and counts:
            self._failures += 1
            if self._failures >= _OPEN_AFTER:
                doubled = _FIRST_REST_S * 2.0 ** min(self._failures - _OPEN_AFTER, 16)
                self._cool_until = max(self._cool_until, now + min(doubled, _LONGEST_REST_S))
        elif error is None and counts:
            self._failures = 0
        if now < self._cool_until:
            self.offer.limit.turn_away(self)
        self.offer.limit.give_back(attempted.began, error)

    def refusal(self) -> MeshError:
        """Return why it is not asked now, with the time until it may be."""
        now = self._now()
        wait_s = max(self._cool_until - now, _LEAST_HINT_S)
        if now < self._full_until:
            return ResourceExhausted(
                "the provider asked for patience", reason="PROVIDER_RATE_LIMITED", retry_after_s=wait_s
            )
        return Unavailable("the provider has failed again and again", reason="PROVIDER_DOWN", retry_after_s=wait_s)


def next_of(
    deployments: Iterable[Deployment], tried: Iterable[Deployment], priority: Priority = Priority.INTERACTIVE
) -> Deployment | None:
    """Return the place with the least to wait for that may be asked and was not tried yet, full ones last."""
    left = [one for one in deployments if one not in tried and one.is_open]
    if len(left) == 1:
        return left[0]
    return min(left, key=lambda one: (one.is_full, one.load(priority)), default=None)


def soonest(deployments: Sequence[Deployment]) -> MeshError:
    """Return what to answer when none may be asked: the refusal of the one that may be again first."""
    return min((one.refusal() for one in deployments), key=lambda error: error.retry_after_s or 0.0)
