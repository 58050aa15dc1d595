"""What happens round every request: the bounds, the guard against foreign web pages, the errors, the counting."""

import ipaddress
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentmesh.kit import errors, telemetry
from agentmesh.kit.tracing import OpenSpan
from agentmesh_gateway import metrics, problems
from agentmesh_gateway.api import ROUTE_KEY
from agentmesh_gateway.request_spans import RequestSpans
from agentmesh_gateway.settings import Bounds

log = telemetry.logger(__name__)

_LEFT = 499
_PROBED = "/health"  # asked every few seconds, by machines; spans of it would hide the others
Refusal = Callable[[Scope, errors.MeshError], Response]


class Edge:
    """Wraps the application; `pages` are the paths that are counted by their own name, `refuse` writes errors in the
    shape that the clients of a path know.

    A web page of another site can make a browser call a gateway that asks nobody for a key. What it sends carries
    an Origin that differs from the Host, or, after it made its own name point here, a Host that is not this machine.
    """

    def __init__(
        self,
        app: ASGIApp,
        bounds: Bounds,
        *,
        pages: frozenset[str],
        refuse: Refusal,
        anonymous: bool,
        loopback: bool,
        spans: RequestSpans,
    ) -> None:
        self._app = app
        self._bounds = bounds
        self._pages = pages
        self._refuse = refuse
        self._anonymous = anonymous
        self._loopback = loopback
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        span = self._spans.begin(scope)
        status = 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                self._check(scope)
                await self._app(scope, receive, counted)
            except ClientDisconnect:
                status = status or _LEFT
            except Exception as error:  # noqa: BLE001 - the one place where exceptions become responses
                problem = _known(error, scope)
                if status:
                    # The client sees it by the missing end of the body.
                    log.warning("response_cut", path=scope["path"], reason=problem.reason)
                else:
                    await self._refuse(scope, problem)(scope, receive, counted)
        finally:
            self._count(scope, status or _LEFT, started, span)

    def _check(self, scope: Scope) -> None:
        target = len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"])
        if target > self._bounds.max_target_bytes:
            raise problems.HttpProblem(414, "the address is too long", reason="ADDRESS_TOO_LONG")
        if self._anonymous:
            self._check_sender(Headers(scope=scope), scope["method"])

    def _check_sender(self, headers: Headers, method: str) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        if foreign or (headers.get("sec-fetch-site") == "cross-site" and method not in ("GET", "HEAD")):
            raise errors.PermissionDenied("web pages of other sites may not call here", reason="FOREIGN_ORIGIN")
        if self._loopback and host and not _is_local(host):
            raise errors.PermissionDenied(
                "this gateway answers to localhost only, because it asks nobody for a key", reason="FOREIGN_HOST"
            )

    def _count(self, scope: Scope, status: int, started: float, span: OpenSpan | None) -> None:
        path = scope["path"] if scope["path"] in self._pages else metrics.UNMATCHED
        labels = (scope.get(ROUTE_KEY, path), scope["method"])
        metrics.requests_total.labels(*labels, str(status)).inc()
        if span is not None and not path.startswith(_PROBED):
            self._spans.end(span, scope["method"], labels[0], status)
        metrics.request_duration.labels(*labels).observe(time.perf_counter() - started)


def _known(error: Exception, scope: Scope) -> errors.MeshError:
    if isinstance(error, errors.MeshError):
        return error
    error_id = errors.new_error_id()
    log.error("unexpected_error", path=scope["path"], error_id=error_id, exc_info=error)
    return errors.Internal("something went wrong inside the mesh", metadata={"error_id": error_id})


def _is_local(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
