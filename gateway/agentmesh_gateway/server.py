"""Runs an ASGI application on uvicorn inside our own event loop, with our own signals and our own drain."""

import asyncio
import math
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from agentmesh.kit.certificates import CertificateFiles
from agentmesh.kit.rpc_server import PortInUse, Tls
from agentmesh_gateway.http_protocol import bounded_protocol
from agentmesh_gateway.settings import Bounds

_BACKLOG = 2048
_LAST_ANSWER_S = 3600
_LOOK_S = 1.0
_CUT_S = 1.0  # for uvicorn to cut what did not end in time


class _Server(uvicorn.Server):
    on_enough: Callable[[], None]
    retiring = False

    async def on_tick(self, counter: int) -> bool:
        if self.limit_max_requests is not None and self.server_state.total_requests >= self.limit_max_requests:
            self.limit_max_requests = None
            self.on_enough()
        return await super().on_tick(counter) or self.retiring

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.retiring and not self.should_exit:
            self.config.timeout_graceful_shutdown = _LAST_ANSWER_S
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn would raise the signal again after the drain, and the process would die of it.
        yield


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; raise PortInUse if the address is taken or isn't this machine's."""
    shown = f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # `localhost` can be both; the services that are told it listen on 127.0.0.1.
        family, kind, protocol, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise PortInUse(f"can't listen on {shown}: no such address here", reason="NO_SUCH_ADDRESS") from error
    try:
        if os.name == "posix":  # elsewhere it would share the port with whoever has it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise PortInUse(
            f"can't listen on {shown}: is the port in use? Stop what uses it or choose another port",
            reason="PORT_IN_USE",
        ) from error
    return listener


async def serve_until(
    stop: asyncio.Event,
    app: ASGIApp,
    listener: socket.socket,
    *,
    bounds: Bounds,
    draining: asyncio.Event,
    drain_timeout_s: float,
    tls: Tls | None = None,
    max_requests: int = 0,
    max_requests_jitter: int = 0,
    on_enough: Callable[[Callable[[], None]], None] = lambda retire: None,
) -> None:
    """Serve until `stop` is set, then set `draining` and let requests end for at most `drain_timeout_s`.

    After `max_requests` and some of the jitter, if there is such a bound, `on_enough` is called. What it is given makes
    this server retire: nothing new is taken, streams that can be resumed end, and every other answer may go on for an
    hour, the longest that any takes.
    """
    server = _Server(
        uvicorn.Config(
            app,
            http=bounded_protocol(bounds),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=math.ceil(drain_timeout_s),
            ssl_certfile=tls.cert if tls else None,
            ssl_keyfile=tls.key if tls else None,
            limit_max_requests=max_requests or None,
            limit_max_requests_jitter=max_requests_jitter,
        )
    )

    def retire() -> None:
        server.retiring = True
        draining.set()

    server.on_enough = partial(on_enough, retire)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    renewing = asyncio.create_task(_renew(server.config, CertificateFiles(tls.cert, tls.key))) if tls else None
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        if renewing is not None:
            renewing.cancel()
        draining.set()
        server.should_exit = True
        # It may have begun to end before, with more patience.
        _, still = await asyncio.wait({serving}, timeout=drain_timeout_s + _CUT_S)
        server.force_exit = bool(still)
        await serving


async def _renew(config: uvicorn.Config, files: CertificateFiles) -> None:
    """Show a new certificate to whoever connects from then on, until cancelled."""
    while True:
        await asyncio.sleep(_LOOK_S)
        if config.ssl is not None and await asyncio.to_thread(files.changed):
            config.ssl.load_cert_chain(files.cert, files.key)
