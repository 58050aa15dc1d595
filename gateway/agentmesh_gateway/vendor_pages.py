"""What happens round every request of an interface that another vendor made: credential, request id, refusals."""

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as Page

from agentmesh.kit import telemetry
from agentmesh.kit.errors import Internal, MeshError, new_error_id
from agentmesh_gateway.api import ROUTE_KEY
from agentmesh_gateway.llm_calls import LlmCalls
from agentmesh_gateway.upstream import Metadata

log = telemetry.logger(__name__)

_LEFT = 499
_REQUEST_ID_KEY = "agentmesh.request_id"
Handler = Callable[[Request, Metadata], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Vendor:
    """How a vendor's clients are told of a request's id and of its refusal."""

    request_id_header: str
    refusal: Callable[[MeshError, str], Response]

    def refuse(self, error: MeshError) -> Response:
        """Write an error as a response to a request that no handler has seen."""
        return self.refusal(error, _request_id())

    def page(self, path: str, http_method: str, calls: LlmCalls, handler: Handler) -> Page:
        """Return a route whose handler gets the metadata of calls for the client, known before its body is read."""

        async def answer(request: Request) -> Response:
            return await self.answer(request, path, calls, handler)

        return Page(path, answer, methods=[http_method])

    async def answer(self, request: Request, path: str, calls: LlmCalls, handler: Handler) -> Response:
        """Answer a request to a route by what its handler returns or raises."""
        template = request.scope[ROUTE_KEY] = path.replace(":path}", "}")
        request_id = request.scope[_REQUEST_ID_KEY] = _request_id()
        try:
            response = await handler(request, await calls.metadata_of(request))
        except ClientDisconnect:
            return Response(status_code=_LEFT)
        except MeshError as error:
            error_id = error.metadata.get("error_id", "")
            log.info("refused", route=template, request_id=request_id, reason=error.reason, error_id=error_id)
            return self.refusal(error, request_id)
        except Exception as error:
            error_id = new_error_id()
            log.error("unexpected_error", path=template, error_id=error_id, exc_info=error)
            return self.refusal(Internal("something went wrong inside the mesh"), request_id)
        response.headers[self.request_id_header] = request_id
        return response


def request_id_of(request: Request) -> str:
    """Return the id that the client is told of its request."""
    return str(request.scope[_REQUEST_ID_KEY])


def _request_id() -> str:
    return f"req_{uuid.uuid4().hex}"
