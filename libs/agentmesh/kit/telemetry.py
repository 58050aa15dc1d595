"""Logs and metrics of a service: fields instead of sentences, names from one table."""

import logging
import re
import sys
from collections.abc import Iterable, MutableMapping
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from agentmesh.kit import names
from agentmesh.kit.bare_structlog import structlog
from agentmesh.kit.log_file import LogFile
from agentmesh.kit.log_sinks import open_sinks
from agentmesh.kit.tallies import Spreads, Tallies

_SECRET_FIELDS = re.compile(r"token|secret|password|api_?key|authorization|prompt", re.IGNORECASE)

# Without the local variables, which hold keys and prompts.
_FRAMES = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)

# A stream or a call takes from well under a millisecond to many minutes.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

rpc_total = Tallies(names.RPC_TOTAL, "Calls that a service answered", ("service", "method", "code"))
rpc_duration = Spreads(names.RPC_DURATION, "How long calls took", ("service", "method"), _BUCKETS)


def counter(name: str, text: str, labels: tuple[str, ...] = (), values: Iterable[str] = ()) -> Counter:
    """Make a counter with a name from `kit.names`.

    Those `values` of its one label that are known beforehand are shown as 0 from the start: an alert sees only what
    rises, and would miss the first of what comes into being as 1.
    """
    made = Counter(name, text, labels)
    for value in values:
        made.labels(value)
    return made


def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
    """Make a gauge with a name from `kit.names`; over the workers of a service it is the sum."""
    return Gauge(name, text, labels, multiprocess_mode="livesum")


def histogram(name: str, text: str, labels: tuple[str, ...] = ()) -> Histogram:
    """Make a histogram of seconds with a name from `kit.names`."""
    return Histogram(name, text, labels, buckets=_BUCKETS)


def configure_logging(
    *,
    service: str,
    level: str = "INFO",
    json: bool = False,
    console: bool = True,
    file: LogFile | None = None,
    queue_max_bytes: int = 4 * 1024 * 1024,
    libraries: str = "WARNING",
) -> None:
    """Send structured lines to standard error, to a file, or both; JSON or for people.

    For each at most `queue_max_bytes` of lines wait to be written; what does not fit is dropped and counted.
    `libraries` is the level from which libraries are heard.
    """
    sinks = open_sinks(sys.stderr if console else None, file, queue_max_bytes)
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(colors=file is None and sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _mask_secrets,
            structlog.processors.ExceptionRenderer(_FRAMES) if json else structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=structlog.WriteLoggerFactory(file=sinks),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(level=libraries, handlers=[_Libraries()], force=True)


class _Libraries(logging.Handler):
    """Takes what libraries log into the same lines as ours, in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record of a library."""
        log: structlog.typing.FilteringBoundLogger = structlog.get_logger(module=record.name)
        log.log(record.levelno, record.getMessage(), exc_info=record.exc_info)


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return the logger of a module."""
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger(module=name)
    return log


def bind_log_fields(**fields: object) -> None:
    """Add fields, such as task and tenant, to every line that the current asyncio task logs from now on."""
    structlog.contextvars.bind_contextvars(**fields)


def _mask_secrets(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in event:
        if _SECRET_FIELDS.search(key):
            event[key] = "***"
    return event
