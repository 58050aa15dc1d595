"""What writing on is for the micro-batcher: prompts with equal sampling share a call."""

from collections.abc import Sequence

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit.semantic_names import TEXT_COMPLETION
from agentmesh_llm import counting
from agentmesh_llm.answers.cache_keys import CacheKey, completion_keys
from agentmesh_llm.batches.batch_wire import from_completion, to_completion
from agentmesh_llm.batches.shares import Weight
from agentmesh_llm.domain import Batch, Completion, FinishReason, PromptsQuestion, Sampling
from agentmesh_llm.ports import Provider
from agentmesh_llm.routing.catalogue import Served

_WHOLE = (FinishReason.STOP, FinishReason.LENGTH)


class Completing:
    """Writes how prompts go on; the terms are how."""

    kind = "completion"
    operation = TEXT_COMPLETION

    async def ask(self, provider: Provider, model: str, terms: Sampling, texts: Sequence[str]) -> Batch[Completion]:
        """See Work."""
        return await provider.complete(PromptsQuestion(model, tuple(texts), terms))

    def most(self, served: Served) -> int:
        """See Work."""
        return min(one.offer.completion_batch for one in served.deployments)

    def weight(self, terms: Sampling, text: str, value: Completion) -> Weight:
        """See Work."""
        return counting.tokens_of_text(text), counting.tokens_of_text(value.text)

    def keys(self, tenant: str, served: Served, terms: Sampling, texts: Sequence[str]) -> list[CacheKey]:
        """See Work."""
        return completion_keys(tenant, served.model, terms, texts)

    def write(self, value: Completion) -> bytes | None:
        """See Work; what a filter stopped is not kept."""
        return to_completion(value).SerializeToString() if value.reason in _WHOLE else None

    def read(self, entry: bytes) -> Completion:
        """See Work."""
        return from_completion(pb.Completion.FromString(entry))
