"""Serves the pages for people and for machines: start page, documentation, OpenAPI, metrics."""

import base64
import hashlib
import re
from importlib import resources

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Page

from agentmesh.kit import names
from agentmesh.kit.auth import PUBLIC, Authenticator
from agentmesh_gateway import openapi, problems
from agentmesh_gateway.routes import RouteTable
from agentmesh_gateway.worker_metrics import registry_here

_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def documents(table: RouteTable, authenticator: Authenticator, *, models: bool, metrics: bool) -> list[Page]:
    """Return the pages; /metrics is among them if asked for, and `models` says whether the routes of the
    llm-proxy are described, and wants the credential that the API wants."""
    counted = registry_here()
    described = orjson.dumps(openapi.document(table, models=models))

    async def description(_: Request) -> Response:
        return Response(described, media_type=problems.JSON, headers={"cache-control": "no-cache"})

    async def measured(request: Request) -> Response:
        authenticator.identify({names.AUTHORIZATION: request.headers.get(names.AUTHORIZATION, "")}, PUBLIC)
        return Response(generate_latest(counted), headers={"content-type": CONTENT_TYPE_LATEST})

    pages = [
        _page("/", "index.html"),
        _page("/docs", "docs.html"),
        Page("/openapi.json", description, methods=["GET"]),
    ]
    return [*pages, Page("/metrics", measured, methods=["GET"])] if metrics else pages


def _page(path: str, file: str) -> Page:
    html = resources.files("agentmesh_gateway.pages").joinpath(file).read_text(encoding="utf-8")
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in _SCRIPT.findall(html)]
    scripts = " ".join(f"'sha256-{digest}'" for digest in digests)
    headers = {
        "content-security-policy": (
            f"default-src 'none'; style-src 'unsafe-inline'; connect-src 'self'; script-src {scripts}; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
    }

    async def serve(_: Request) -> Response:
        return Response(html, media_type="text/html", headers=headers)

    return Page(path, serve, methods=["GET"])
