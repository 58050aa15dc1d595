"""The composition root of the gateway."""

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from prometheus_client import start_http_server
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Route as Page
from starlette.types import ASGIApp

from agentmesh.kit import lifecycle, names, telemetry
from agentmesh.kit.auth import Keyring
from agentmesh.kit.errors import MeshError
from agentmesh.kit.rpc_server import PortInUse
from agentmesh.kit.settings import Endpoint, Settings
from agentmesh_gateway.anthropic_api import ANTHROPIC, AnthropicApi
from agentmesh_gateway.api import Api
from agentmesh_gateway.documents import documents
from agentmesh_gateway.edge import Edge
from agentmesh_gateway.health import HealthPages, ServiceHealth
from agentmesh_gateway.llm_calls import LlmCalls
from agentmesh_gateway.model_lists import ModelLists
from agentmesh_gateway.openai_api import OPENAI, OpenAiApi
from agentmesh_gateway.routes import SERVICES, RouteTable
from agentmesh_gateway.server import bind, serve_until
from agentmesh_gateway.settings import Bounds
from agentmesh_gateway.upstream import Upstream
from agentmesh_gateway.vendor_pages import Vendor
from agentmesh_gateway.vendor_paths import VendorPaths

log = telemetry.logger(__name__)


@dataclass(frozen=True, slots=True)
class Gateway:
    """The application, and the event that makes its streams end and its readiness false."""

    app: ASGIApp
    draining: asyncio.Event


def build(settings: Settings, keyring: Keyring, stack: AsyncExitStack, bounds: Bounds | None = None) -> Gateway:
    """Put the gateway together; what it opens is closed by the stack."""
    bounds = bounds or Bounds()
    services = settings.services
    ca = services.tls.ca
    draining = asyncio.Event()
    behind = frozenset(services.gateway.behind)
    table = RouteTable(SERVICES if names.ROUTER in behind else ())
    upstream = Upstream(services.router.addresses, ca=ca, max_channels=bounds.max_channels)
    stack.push_async_callback(upstream.aclose)
    endpoints: dict[str, Endpoint] = {
        names.ROUTER: services.router,
        names.RUNNER: services.runner,
        names.LLM: services.llm,
        names.STORAGE: services.storage,
    }
    health = ServiceHealth(
        {name: endpoint.addresses for name, endpoint in endpoints.items() if name in behind}, ca=ca, bounds=bounds
    )
    stack.push_async_callback(health.aclose)
    models = Upstream(services.llm.addresses, ca=ca, max_channels=bounds.max_channels)
    stack.push_async_callback(models.aclose)
    # The router checks the credentials of its clients itself; for the llm-proxy it is done here.
    authenticator = lifecycle.authenticator_of(settings, keyring)
    calls = LlmCalls(models, authenticator, keyring, bounds)
    paths = VendorPaths()
    model_pages = _model_pages(calls, paths) if names.LLM in behind else []
    health_pages = HealthPages(health, names.ROUTER if names.ROUTER in behind else names.LLM, draining)
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
    )
    return Gateway(edge, draining)


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
    """Run the gateway as a process until SIGTERM or SIGINT; exit with 1 and a clear line if it can't start."""
    lifecycle.configure(names.GATEWAY, settings)
    lifecycle.run_loop(_serve(settings))


async def _serve(settings: Settings) -> None:
    endpoint = settings.services.gateway
    lifecycle.check_exposure(endpoint.host, settings)
    stop = lifecycle.stop_on_signals()
    listener = bind(endpoint.bound_host, endpoint.port)
    async with AsyncExitStack() as stack:
        gateway = build(settings, lifecycle.keyring_of(settings), stack)
        if settings.monitoring.metrics:
            _serve_metrics(endpoint, stack)
        lifecycle.spare_what_stays()
        port = listener.getsockname()[1]
        log.info("started", role=names.GATEWAY, address=f"{endpoint.bound_host}:{port}", pid=os.getpid())
        await serve_until(
            stop,
            gateway.app,
            listener,
            bounds=Bounds(),
            draining=gateway.draining,
            drain_timeout_s=settings.drain_timeout_s,
            tls=lifecycle.tls_of(settings),
        )
    log.info("stopped", role=names.GATEWAY)


def _serve_metrics(endpoint: Endpoint, stack: AsyncExitStack) -> None:
    try:
        server, _ = start_http_server(endpoint.metrics_port, addr=endpoint.bound_host)
    except OSError as error:
        raise PortInUse(
            f"can't listen on {endpoint.metrics_listen} for metrics: is the port in use? Stop what uses it or "
            "choose another metrics_port",
            reason="PORT_IN_USE",
        ) from error
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
