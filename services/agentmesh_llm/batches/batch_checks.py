"""Finds everything that is wrong with a request about documents or prompts before a provider is asked."""

from collections.abc import Iterator, Sequence

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh_llm.checks import Violation, check_policy, check_sampling, refuse

_MAX_DOCUMENTS = 2048
_MAX_PROMPTS = 256


def check_rerank(request: pb.RerankRequest) -> None:
    """Raise InvalidRequest with the path of every field that is wrong."""
    found: list[Violation] = []
    if not request.query:
        found.append(("query", "must not be empty"))
    found += _texts("documents", request.documents, _MAX_DOCUMENTS)
    if request.top_n < 0:
        found.append(("top_n", "must not be negative"))
    refuse(found)
    check_policy(request.cache)


def check_prompts(request: pb.CompletePromptsRequest) -> None:
    """Raise InvalidRequest with the path of every field that is wrong."""
    refuse([*_texts("prompts", request.prompts, _MAX_PROMPTS), *check_sampling(request.sampling)])
    check_policy(request.cache)


def _texts(field: str, texts: Sequence[str], most: int) -> Iterator[Violation]:
    if not 1 <= len(texts) <= most:
        yield field, f"must be 1 to {most} texts"
    for at, text in enumerate(texts):
        if not text:
            yield f"{field}[{at}]", "must not be empty"
