"""Reads OpenAI's embedding requests and writes the vectors, as numbers or as base64 of 32-bit floats."""

import base64
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit.floats import packed

_MAX_DIMENSIONS = 65_536


def _as_texts(value: Any) -> Any:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and any(isinstance(item, int | list) for item in value):
        raise ValueError("must be text: models have different tokens, so numbers can't be read here")
    return value


class EmbeddingsRequest(BaseModel):
    """Texts to turn into vectors; `user` changes nothing."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: Annotated[str, Field(min_length=1)]
    input: Annotated[list[str], Field(min_length=1), BeforeValidator(_as_texts)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=_MAX_DIMENSIONS)] | None = None
    user: Any = None


def to_embed(request: EmbeddingsRequest) -> pb.EmbedRequest:
    """Return the request to the llm-proxy."""
    return pb.EmbedRequest(model=request.model, inputs=request.input, dimensions=request.dimensions or 0)


def embeddings_of(answer: pb.EmbedResponse, request: EmbeddingsRequest) -> dict[str, Any]:
    """Return the vectors as a list of `embedding` objects, in the order of the texts."""
    write = _base64 if request.encoding_format == "base64" else _numbers
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": at, "embedding": write(embedding)}
            for at, embedding in enumerate(answer.embeddings)
        ],
        "model": request.model,
        "usage": {"prompt_tokens": answer.usage.input_tokens, "total_tokens": answer.usage.input_tokens},
    }


def _numbers(embedding: pb.Embedding) -> list[float]:
    return list(embedding.values)


def _base64(embedding: pb.Embedding) -> str:
    return base64.b64encode(packed(embedding.values)).decode()
