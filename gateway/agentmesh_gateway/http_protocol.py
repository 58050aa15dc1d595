"""Holds HTTP connections to bounds that uvicorn leaves open: the size of the head, and the time to send it."""

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from agentmesh_gateway import problems
from agentmesh_gateway.settings import Bounds


class _Refused(Exception):
    """Stops the parser; what is answered is kept beside it."""


def bounded_protocol(bounds: Bounds) -> type[HttpToolsProtocol]:
    """Return the protocol class of a server that keeps these bounds."""

    class BoundedProtocol(_BoundedProtocol):
        _bounds = bounds

    return BoundedProtocol


class _BoundedProtocol(HttpToolsProtocol):
    _bounds: Bounds
    _refusal: problems.HttpProblem | None = None
    _in_head = True
    _fed_bytes = 0
    _head_bytes = 0
    _alarm: asyncio.TimerHandle | None = None
    _leaving = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # The parser keeps a header to itself until it is whole, so what was fed is counted too.
        self._fed_bytes = self._fed_bytes + len(data) if self._in_head else 0
        limit = self._bounds.max_header_bytes + self._bounds.max_target_bytes
        if self._fed_bytes > limit and not self.transport.is_closing():
            self._refusal = _head_too_large()
            self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        if self._alarm is None:
            self._watch_head()
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self._bounds.max_target_bytes:
            self._refuse(problems.HttpProblem(414, "the address is too long", reason="ADDRESS_TOO_LONG"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._bounds.max_header_bytes or len(self.headers) >= self._bounds.max_headers:
            self._refuse(_head_too_large())
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_watching()
        super().on_headers_complete()
        if self._leaving:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close after the answer that is under way, or soon if none is.

        A proxy may be sending a request at this moment: to close at once would lose it.
        """
        self._leaving = True
        if self.cycle is not None and not self.cycle.response_complete:
            super().shutdown()
        else:
            self._unset_keepalive_if_required()
            linger_s = self._bounds.linger_s
            self.timeout_keep_alive_task = self.loop.call_later(linger_s, self.timeout_keep_alive_handler)

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong with a request that can't be parsed, in the shape that every refusal has."""
        problem = self._refusal or problems.HttpProblem(400, "this is not valid HTTP", reason="MALFORMED_HTTP")
        body = problems.body_of(problem)
        self.transport.write(
            STATUS_LINE[problem.http_status]
            + b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()

    def _refuse(self, problem: problems.HttpProblem) -> None:
        self._refusal = problem
        raise _Refused

    def _watch_head(self) -> None:
        self._stop_watching()
        self._alarm = self.loop.call_later(self._bounds.header_timeout_s, self._head_is_late)

    def _stop_watching(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _head_is_late(self) -> None:
        self._alarm = None
        if not self.transport.is_closing():
            self.transport.close()


def _head_too_large() -> problems.HttpProblem:
    return problems.HttpProblem(431, "the headers are too large", reason="HEADERS_TOO_LARGE")
