"""Whose paths are whose, so that what no route answers is refused in the shape that its client reads."""

from collections.abc import Callable, Iterable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Page
from starlette.types import Scope

from agentmesh.kit.errors import MeshError
from agentmesh_gateway import problems
from agentmesh_gateway.vendor_pages import Vendor

_SEGMENTS = 3  # of /v1/messages/count_tokens, the first is empty; what follows is the vendor's as well


class VendorPaths:
    """Tells by the beginning of a path, and where vendors share it by the headers, whose client asks."""

    def __init__(self) -> None:
        self._owners: dict[str, Callable[[Headers], Vendor]] = {}

    def add(self, pages: Iterable[Page], owner: Callable[[Headers], Vendor]) -> None:
        """Give the beginnings of these routes, such as /v1/chat, to who is their owner for a request's headers."""
        for page in pages:
            self._owners[_beginning(page.path)] = owner

    def refuse(self, scope: Scope, error: MeshError) -> Response:
        """Write an error as a response to a request that no handler has answered."""
        owner = self._owners.get(_beginning(scope["path"]))
        return problems.response_of(error) if owner is None else owner(Headers(scope=scope)).refuse(error)

    def on_exception(self, request: Request, error: Exception) -> Response:
        """Answer with what Starlette, or a route that is no vendor's, has raised."""
        return self.refuse(request.scope, problems.of_exception(error))


def _beginning(path: str) -> str:
    return "/".join(path.split("/", _SEGMENTS)[:_SEGMENTS])
