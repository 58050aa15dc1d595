"""The models that there are, in the form of whoever asks: OpenAI's and Anthropic's clients use the same paths."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import orjson
from pydantic import Field
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Page

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh_gateway import problems
from agentmesh_gateway.json_bodies import validated
from agentmesh_gateway.llm_calls import LlmCalls
from agentmesh_gateway.upstream import Metadata
from agentmesh_gateway.vendor_fields import Loose
from agentmesh_gateway.vendor_pages import Handler, Vendor

MODELS: Final = "/v1/models"
MODEL: Final = "/v1/models/{model:path}"

_NO_STORE = {"cache-control": "no-store"}
_UNKNOWN_TIME = 0
_UNKNOWN_DATE = "1970-01-01T00:00:00Z"
# What only Anthropic's clients send.
_MARKS = ("anthropic-version", "x-api-key")


class _Place(Loose):
    """Which part of the list Anthropic's clients want; all of it unless they say."""

    limit: Annotated[int, Field(ge=1, le=1000, strict=False)] | None = None  # a query is text
    after_id: str | None = None
    before_id: str | None = None


class ModelLists:
    """Lists models and gets one: as Anthropic does for Anthropic's clients, else as OpenAI does."""

    def __init__(self, calls: LlmCalls, openai: Vendor, anthropic: Vendor) -> None:
        self._calls = calls
        self._openai = openai
        self._anthropic = anthropic

    def pages(self) -> list[Page]:
        """Return the routes."""
        return [
            self._page(MODELS, openai=self._list_openais, anthropic=self._list_anthropics),
            self._page(MODEL, openai=self._get_openais, anthropic=self._get_anthropics),
        ]

    def vendor_of(self, headers: Headers) -> Vendor:
        """Return whose form a client reads."""
        return self._anthropic if any(mark in headers for mark in _MARKS) else self._openai

    def _page(self, path: str, *, openai: Handler, anthropic: Handler) -> Page:
        async def answer(request: Request) -> Response:
            vendor = self.vendor_of(request.headers)
            handler = anthropic if vendor is self._anthropic else openai
            return await vendor.answer(request, path, self._calls, handler)

        return Page(path, answer, methods=["GET"])

    async def _list_openais(self, request: Request, metadata: Metadata) -> Response:
        return _json({"object": "list", "data": [_openais(one) for one in await self._all(request, metadata)]})

    async def _list_anthropics(self, request: Request, metadata: Metadata) -> Response:
        place = validated(_Place, dict(request.query_params))
        shown, more = _part(await self._all(request, metadata), place)
        return _json(
            {
                "data": [_anthropics(one) for one in shown],
                "has_more": more,
                "first_id": shown[0].id if shown else None,
                "last_id": shown[-1].id if shown else None,
            }
        )

    async def _get_openais(self, request: Request, metadata: Metadata) -> Response:
        return _json(_openais(await self._one(request, metadata)))

    async def _get_anthropics(self, request: Request, metadata: Metadata) -> Response:
        return _json(_anthropics(await self._one(request, metadata)))

    async def _all(self, request: Request, metadata: Metadata) -> Sequence[pb.Model]:
        answer = await self._calls.unary("ListModels", pb.ListModelsRequest(), request, metadata)
        return list(answer.models)

    async def _one(self, request: Request, metadata: Metadata) -> pb.Model:
        asked = pb.GetModelRequest(model=request.path_params["model"])
        answer: pb.GetModelResponse = await self._calls.unary("GetModel", asked, request, metadata)
        return answer.model


def _part(models: Sequence[pb.Model], place: _Place) -> tuple[Sequence[pb.Model], bool]:
    """Return what lies between two models, at most so many next to the one that is given; and if there is more."""
    ids = [model.id for model in models]
    start = ids.index(place.after_id) + 1 if place.after_id in ids else 0
    end = ids.index(place.before_id) if place.before_id in ids else len(ids)
    found = models[start:end]
    limit = place.limit or len(models)
    backwards = place.before_id is not None and place.after_id is None
    return found[-limit:] if backwards else found[:limit], len(found) > limit


def _openais(model: pb.Model) -> dict[str, Any]:
    return {"id": model.id, "object": "model", "created": _UNKNOWN_TIME, "owned_by": model.provider}


def _anthropics(model: pb.Model) -> dict[str, Any]:
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.id,
        "created_at": _UNKNOWN_DATE,
        "lifecycle": "active",
    }


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type=problems.JSON, headers=_NO_STORE)
