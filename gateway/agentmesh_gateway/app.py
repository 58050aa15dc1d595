"""The composition root of the gateway."""

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Route as Page
from starlette.types import ASGIApp

from agentmesh.kit import lifecycle, names, telemetry
from agentmesh.kit.auth import Keyring
from agentmesh.kit.errors import MeshError
from agentmesh.kit.health import Health, serve_health
from agentmesh.kit.metrics_server import serve_metrics
from agentmesh.kit.service_settings import Endpoint
from agentmesh.kit.settings import Settings
from agentmesh.kit.tracing import open_tracer
from agentmesh_gateway import workers
from agentmesh_gateway.anthropic_api import ANTHROPIC, AnthropicApi
from agentmesh_gateway.api import Api
from agentmesh_gateway.documents import documents
from agentmesh_gateway.edge import Edge
from agentmesh_gateway.health import HealthPages, ServiceHealth
from agentmesh_gateway.llm_calls import LlmCalls
from agentmesh_gateway.model_lists import ModelLists
from agentmesh_gateway.openai_api import OPENAI, OpenAiApi
from agentmesh_gateway.request_spans import RequestSpans
from agentmesh_gateway.routes import SERVICES, RouteTable
from agentmesh_gateway.server import bind, serve_until
from agentmesh_gateway.settings import Bounds
from agentmesh_gateway.upstream import Upstream
from agentmesh_gateway.vendor_pages import Vendor
from agentmesh_gateway.vendor_paths import VendorPaths
from agentmesh_gateway.worker_metrics import WorkerMetrics
from agentmesh_gateway.workers import Place, Workers

log = telemetry.logger(__name__)


@dataclass(frozen=True, slots=True)
class Gateway:
    """The application, the events that make its readiness false and its streams end, and how those behind it are."""

    app: ASGIApp
    leaving: asyncio.Event
    draining: asyncio.Event
    health: ServiceHealth


def build(settings: Settings, keyring: Keyring, stack: AsyncExitStack, bounds: Bounds | None = None) -> Gateway:
    """Put the gateway together; what it opens is closed by the stack."""
    bounds = bounds or Bounds()
    services = settings.services
    trust = lifecycle.trust_of(settings)
    leaving, draining = asyncio.Event(), asyncio.Event()
    behind = frozenset(services.gateway.behind)
    table = RouteTable(SERVICES if names.ROUTER in behind else ())
    upstream = Upstream(services.router.addresses, trust=trust, max_channels=bounds.max_channels)
    stack.push_async_callback(upstream.aclose)
    health = _service_health(settings, bounds, stack)
    models = Upstream(services.llm.addresses, trust=trust, max_channels=bounds.max_channels)
    stack.push_async_callback(models.aclose)
    # The router checks the credentials of its clients itself; for the llm-proxy it is done here.
    authenticator = lifecycle.authenticator_of(settings, keyring)
    calls = LlmCalls(models, authenticator, keyring, bounds)
    paths = VendorPaths()
    model_pages = _model_pages(calls, paths) if names.LLM in behind else []
    health_pages = HealthPages(health, _needed(settings), leaving)
    pages = [
        Page("/health", health_pages.live, methods=["GET"]),
        Page("/health/ready", health_pages.ready, methods=["GET"]),
        Page("/health/detailed", health_pages.detailed, methods=["GET"]),
        *model_pages,
        *documents(table, authenticator, models=names.LLM in behind, metrics=settings.monitoring.metrics),
    ]
    app = Starlette(
        routes=pages,
        exception_handlers={HTTPException: paths.on_exception, MeshError: paths.on_exception},
    )
    app.router.redirect_slashes = False
    app.router.default = Api(table, upstream, bounds, draining)
    edge = Edge(
        app,
        bounds,
        pages=frozenset(page.path for page in pages),
        refuse=paths.refuse,
        anonymous=not settings.security.authentication,
        loopback=services.gateway.is_loopback,
        spans=RequestSpans(open_tracer(settings.monitoring, names.GATEWAY, stack)),
    )
    return Gateway(edge, leaving, draining, health)


def _service_health(settings: Settings, bounds: Bounds, stack: AsyncExitStack) -> ServiceHealth:
    """Return what asks the services that the gateway stands before."""
    services = settings.services
    addresses: dict[str, Sequence[str]] = {
        name: getattr(services, name).addresses for name in names.ROLES if name in services.gateway.behind
    }
    health = ServiceHealth(addresses, trust=lifecycle.trust_of(settings), bounds=bounds)
    stack.push_async_callback(health.aclose)
    return health


def _needed(settings: Settings) -> str:
    """Return the service that the gateway can't do without; empty if nobody is to be asked."""
    if not settings.monitoring.health_checks:
        return ""
    return names.ROUTER if names.ROUTER in settings.services.gateway.behind else names.LLM


def _model_pages(calls: LlmCalls, paths: VendorPaths) -> list[Page]:
    """Return the routes of other vendors' clients, and note whose they are."""
    lists = ModelLists(calls, OPENAI, ANTHROPIC)
    made: list[tuple[list[Page], Callable[[Headers], Vendor]]] = [
        (OpenAiApi(calls).pages(), lambda _: OPENAI),
        (AnthropicApi(calls).pages(), lambda _: ANTHROPIC),
        (lists.pages(), lists.vendor_of),
    ]
    for pages, owner in made:
        paths.add(pages, owner)
    return [page for pages, _ in made for page in pages]


def serve(settings: Settings) -> None:
    """Run the gateway until SIGTERM or SIGINT; exit with 1 and a clear line if it can't start.

    With several workers, this process only keeps them running; each of them is such a call of its own.
    """
    place = Place.here()
    lifecycle.configure(names.GATEWAY, settings, place.number if place else 0)
    several = place is None and workers.needed(settings.api)
    lifecycle.run_loop(_keep_workers(settings) if several else _serve(settings, place))


async def _serve(settings: Settings, place: Place | None) -> None:
    endpoint = settings.services.gateway
    lifecycle.check_listener(endpoint.host, settings)
    stop = lifecycle.stop_on_signals()
    listener = place.open_listener() if place else bind(endpoint.bound_host, endpoint.port)
    async with AsyncExitStack() as stack:
        gateway = build(settings, lifecycle.keyring_of(settings), stack)
        if place is None:
            await _tell_of_itself(settings, gateway.health, gateway.leaving, stack)
            serve_metrics(names.GATEWAY, settings, stack)
        lifecycle.spare_what_stays()
        _log_start(listener, endpoint)
        if place is not None:
            place.started()
        gone = asyncio.Event()
        stack.callback(asyncio.create_task(_leave(stop, gateway.leaving, gone, settings.drain_delay_s)).cancel)
        await serve_until(
            gone,
            gateway.app,
            listener,
            bounds=Bounds(),
            draining=gateway.draining,
            drain_timeout_s=settings.drain_timeout_s,
            tls=lifecycle.tls_of(settings, names.GATEWAY),
            max_requests=settings.api.max_requests if place else 0,
            max_requests_jitter=settings.api.max_requests_jitter,
            on_enough=place.enough if place else lambda retire: None,
        )
    log.info("stopped", role=names.GATEWAY)


async def _keep_workers(settings: Settings) -> None:
    endpoint = settings.services.gateway
    lifecycle.check_listener(endpoint.host, settings)
    stop = lifecycle.stop_on_signals()
    listener = bind(endpoint.bound_host, endpoint.port)
    async with AsyncExitStack() as stack:
        stack.callback(listener.close)
        await _tell_of_itself(settings, _service_health(settings, Bounds(), stack), stop, stack)
        metrics = WorkerMetrics(stack)
        serve_metrics(names.GATEWAY, settings, stack, metrics.registry)
        _log_start(listener, endpoint)
        await Workers(settings, listener, metrics).run(stop)
    log.info("stopped", role=names.GATEWAY)


async def _tell_of_itself(
    settings: Settings, services: ServiceHealth, leaving: asyncio.Event, stack: AsyncExitStack
) -> None:
    """Serve the health protocol, if it has a port, and measure readiness, until the stack is left."""
    needed = _needed(settings)
    health = Health((), {needed: lambda: services.serves(needed)} if needed else {}, role=names.GATEWAY)
    if address := settings.services.gateway.health_listen:
        await serve_health(health, address, stack)
    for work in (health.run(), _drain_with(leaving, health)):
        stack.callback(asyncio.create_task(work).cancel)


async def _leave(stop: asyncio.Event, leaving: asyncio.Event, gone: asyncio.Event, delay_s: float) -> None:
    """Once it is to stop, say so for a while before nothing new is taken: proxies look only now and then."""
    await stop.wait()
    leaving.set()
    await asyncio.sleep(delay_s)
    gone.set()


async def _drain_with(leaving: asyncio.Event, health: Health) -> None:
    await leaving.wait()
    await health.drain()


def _log_start(listener: socket.socket, endpoint: Endpoint) -> None:
    port = listener.getsockname()[1]
    log.info("started", role=names.GATEWAY, address=f"{endpoint.bound_host}:{port}", pid=os.getpid())
