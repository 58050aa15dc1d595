"""Runs a service as a process: starts it, tells when it is ready, drains it when it is asked to stop."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

from agentmesh.kit import names, telemetry
from agentmesh.kit.auth import ALL_SCOPES, Access, Authenticator, Grant, Keyring, load_or_create_secret
from agentmesh.kit.errors import MeshError
from agentmesh.kit.health import Check, Health, serve_health
from agentmesh.kit.log_file import LogFile
from agentmesh.kit.metrics_server import serve_metrics
from agentmesh.kit.reflection import add_reflection
from agentmesh.kit.rpc_client import Trust
from agentmesh.kit.rpc_server import Tls, build_server, listen
from agentmesh.kit.settings import Settings
from agentmesh.kit.tracing import Tracer

log = telemetry.logger(__name__)

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


@dataclass
class Built:
    """What a service's `build` returns: what to serve, what it depends on, how it lets go."""

    services: Sequence[tuple[ServiceDescriptor, object, Access]]
    checks: dict[str, Check] = field(default_factory=dict)
    """What it can't work without; `watched` is what it can."""
    watched: dict[str, Check] = field(default_factory=dict)
    tracer: Tracer | None = None
    drain: Callable[[], Awaitable[None]] | None = None
    grace_s: float | None = None  # for calls that are still open after `drain`; the configured time if None


Build = Callable[[Settings, Keyring, AsyncExitStack], Awaitable[Built]]


def run(role: str, settings: Settings, build: Build) -> None:
    """Run a gRPC service until SIGTERM or SIGINT; exit with 1 and a clear line if it can't start."""
    configure(role, settings)
    run_loop(_serve(role, settings, build))


def configure(role: str, settings: Settings, worker: int = 0) -> None:
    """Set up the logs of a process; `worker` is its number if there are several of one service."""
    logging = settings.logging
    file = None
    if logging.file:
        file = Path(logging.file) if isinstance(logging.file, str) else settings.data_dir / "logs" / f"{role}.log"
        file = file.with_stem(f"{file.stem}-{worker}") if worker else file
    json = logging.format == "json" or logging.structured
    kept = LogFile(file, max_bytes=logging.max_bytes, backups=logging.backups) if file else None
    telemetry.configure_logging(
        service=role,
        level=logging.level,
        json=json,
        console=logging.console,
        file=kept,
        queue_max_bytes=logging.queue_max_bytes,
        libraries="INFO" if settings.debug else "WARNING",
    )


def run_loop(main: Any) -> None:
    """Run a coroutine on the fastest loop there is; errors that are meant for people become one line."""
    try:
        if sys.platform == "win32":
            asyncio.run(main)
        else:
            import uvloop

            uvloop.run(main)
    except (MeshError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def spare_what_stays() -> None:
    """Keep the garbage collector from walking over everything that lives as long as the process; call it once, before
    the service starts. Modules and descriptors are 60,000 objects: each full collection stopped a busy router
    for 30 ms, once or twice a second."""
    gc.freeze()  # without a collection before it: importing leaves 300 objects of garbage, and it takes 50 ms
    # What a call makes goes when nobody holds it: hardly any of it is for the collector.
    gc.set_threshold(5_000, 20, 20)


def keyring_of(settings: Settings) -> Keyring:
    """Return the keys of the mesh: from the configuration, else from the data folder."""
    token = settings.services.token
    others = tuple(other.get_secret_value() for other in settings.services.other_tokens)
    return Keyring(token.get_secret_value() if token else load_or_create_secret(settings.data_dir), others)


def authenticator_of(settings: Settings, keyring: Keyring) -> Authenticator:
    """Return what identifies callers."""
    held = settings.security.authorization
    keys = {key.sha256: Grant(key.tenant, key.scopes if held else ALL_SCOPES) for key in settings.security.api_keys}
    return Authenticator(keyring, anonymous=not settings.security.authentication, api_keys=keys)


def tls_of(settings: Settings, role: str) -> Tls | None:
    """Return a server's certificates, if any are configured; clients outside the mesh have none of their own."""
    tls = settings.services.tls
    if not tls.cert or not tls.key:
        return None
    return Tls(tls.cert, tls.key, tls.ca if tls.verify_clients and role not in names.PUBLIC_ROLES else None)


def trust_of(settings: Settings) -> Trust | None:
    """Return what makes calls within the mesh go over TLS, if it is configured."""
    tls = settings.services.tls
    return Trust(tls.ca, tls.cert, tls.key) if tls.ca else None


def check_listener(host: str, settings: Settings) -> None:
    """Raise MeshError if a service may not listen there, or lacks a file that it needs for it."""
    check_exposure(host, settings)
    for name in ("cert", "key", "ca"):
        file = getattr(settings.services.tls, name)
        if file is not None and not os.access(file, os.R_OK):
            raise MeshError(f"services.tls.{name}: {file} can't be read: is it there?", reason="TLS_FILE_MISSING")


def check_exposure(host: str, settings: Settings) -> None:
    """Refuse to listen beyond this machine without TLS and authentication, unless told to."""
    if host in _LOOPBACK or settings.insecure_dev:
        return
    tls = settings.services.tls
    if (tls.cert is None and not tls.in_front) or not settings.security.authentication:
        raise MeshError(
            f"refusing to listen on {host} without TLS and authentication: set services.tls and "
            "security.authentication, listen on 127.0.0.1, or pass --insecure-dev",
            reason="EXPOSED",
        )


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set; a second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, asked)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(asked))
    return stop


async def _serve(role: str, settings: Settings, build: Build) -> None:
    endpoint = getattr(settings.services, role)
    check_listener(endpoint.host, settings)
    stop = stop_on_signals()
    keyring = keyring_of(settings)
    async with AsyncExitStack() as stack:
        health = Health(role=role)
        if endpoint.health_listen:
            await serve_health(health, endpoint.health_listen, stack)
        built = await _unless(stop, build(settings, keyring, stack))
        if built is None:
            log.info("stopped", role=role)
            return
        server = build_server(authenticator_of(settings, keyring), built.services, built.tracer)
        served = [descriptor.full_name for descriptor, _, _ in built.services]
        if settings.monitoring.health_checks:
            health.depend_on(served, built.checks, built.watched)
        else:
            health.depend_on(served, {}, {})
        await health.add_to(server)
        if settings.security.reflection:
            add_reflection(server, served)
        listen(server, endpoint.listen, tls_of(settings, role))
        serve_metrics(role, settings, stack)
        spare_what_stays()
        await server.start()
        log.info("started", role=role, address=endpoint.listen, pid=os.getpid())
        checking = asyncio.create_task(health.run())
        await stop.wait()
        log.info("draining", role=role)
        await health.drain()
        checking.cancel()
        if role in names.PUBLIC_ROLES:
            await asyncio.sleep(settings.drain_delay_s)
        if built.drain is not None:
            await built.drain()
        await server.stop(settings.drain_timeout_s if built.grace_s is None else built.grace_s)
    log.info("stopped", role=role)


async def _unless(stop: asyncio.Event, work: Awaitable[Built]) -> Built | None:
    """Return what is built, or None if the process is to stop before: a database may be waited for."""
    building, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((building, stopping), return_when=asyncio.FIRST_COMPLETED)
        return building.result() if building.done() else None
    finally:
        for task in (building, stopping):
            task.cancel()
        await asyncio.wait((building, stopping))
