"""Reads OpenAI's legacy completion requests, whose prompts are plain texts, and writes how they go on."""

import time
import uuid
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh_gateway import vendor_fields
from agentmesh_gateway.vendor_fields import Given

_INT32_MAX = 2**31 - 1
# Fields that would change the answer, with the values that don't.
_NOT_HONOURED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (),
    "logit_bias": ({},),
    # Texts that share a call come back together: who wants them piece by piece asks for a chat.
    "stream": (False,),
    "stream_options": (),
}
_PASSED_OVER = frozenset({"user"})
_REASONS = {pb.FINISH_REASON_LENGTH: "length", pb.FINISH_REASON_CONTENT_FILTER: "content_filter"}
_SAMPLING = ("temperature", "top_p", "seed", "frequency_penalty", "presence_penalty")


def _as_texts(value: Any) -> Any:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and any(isinstance(item, int | list) for item in value):
        raise ValueError("must be text: models have different tokens, so numbers can't be read here")
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class CompletionRequest(Given):
    """What is left of a request once `only_honoured` has looked at the fields that aren't honoured."""

    model: Annotated[str, Field(min_length=1)]
    prompt: Annotated[list[str], Field(min_length=1), BeforeValidator(_as_texts)]
    max_tokens: Annotated[int, Field(ge=1, le=_INT32_MAX)] | None = None
    stop: Annotated[list[str] | None, BeforeValidator(_as_list)] = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None


def only_honoured(tree: dict[str, Any]) -> dict[str, Any]:
    """See vendor_fields.only_honoured."""
    return vendor_fields.only_honoured(tree, _NOT_HONOURED, _PASSED_OVER)


def to_complete(request: CompletionRequest) -> pb.CompletePromptsRequest:
    """Return the request to the llm-proxy."""
    asked = pb.CompletePromptsRequest(model=request.model, prompts=request.prompt)
    asked.sampling.max_output_tokens = request.max_tokens or 0
    asked.sampling.stop.extend(request.stop or ())
    for name in _SAMPLING:
        value = getattr(request, name)
        if value is not None:
            setattr(asked.sampling, name, value)
    return asked


def completions_of(answer: pb.CompletePromptsResponse, request: CompletionRequest) -> dict[str, Any]:
    """Return a `text_completion` with a choice for each prompt."""
    usage = answer.usage
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [
            {"text": one.text, "index": at, "logprobs": None, "finish_reason": _REASONS.get(one.finish_reason, "stop")}
            for at, one in enumerate(answer.completions)
        ],
        "usage": {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
        },
    }
