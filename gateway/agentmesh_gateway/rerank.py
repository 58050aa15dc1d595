"""Reads rerank requests in the form that Cohere and Jina share, and writes which documents fit best."""

import uuid
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh_gateway.vendor_fields import Given, Loose

_INT32_MAX = 2**31 - 1


def _as_document(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


class _Document(Loose):
    text: str


class RerankRequest(Given):
    """Documents to be held against a query; `user` changes nothing."""

    model: Annotated[str, Field(min_length=1)]
    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[list[Annotated[_Document, BeforeValidator(_as_document)]], Field(min_length=1)]
    top_n: Annotated[int, Field(ge=1, le=_INT32_MAX)] | None = None
    return_documents: bool | None = None
    user: Any = None


def to_rerank(request: RerankRequest) -> pb.RerankRequest:
    """Return the request to the llm-proxy."""
    return pb.RerankRequest(
        model=request.model,
        query=request.query,
        documents=[document.text for document in request.documents],
        top_n=request.top_n or 0,
    )


def results_of(answer: pb.RerankResponse, request: RerankRequest) -> dict[str, Any]:
    """Return the best documents, the best first, with their texts if that was asked."""
    results: list[dict[str, Any]] = []
    for ranking in answer.rankings:
        result: dict[str, Any] = {"index": ranking.document, "relevance_score": ranking.score}
        if request.return_documents:
            result["document"] = {"text": request.documents[ranking.document].text}
        results.append(result)
    tokens = answer.usage.input_tokens
    return {
        "id": f"rerank-{uuid.uuid4().hex}",
        "model": request.model,
        "results": results,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
