"""Between the contract's messages about documents and prompts and the domain."""

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh_llm.batches.batch_checks import check_prompts, check_rerank
from agentmesh_llm.domain import Completion, PromptsQuestion, RerankQuestion
from agentmesh_llm.wire import from_reason, from_sampling, to_reason


def from_rerank_request(request: pb.RerankRequest) -> RerankQuestion:
    """Read documents to be ordered; raise InvalidRequest with the paths of the fields that are wrong."""
    check_rerank(request)
    return RerankQuestion(request.model, request.query, tuple(request.documents))


def from_prompts_request(request: pb.CompletePromptsRequest) -> PromptsQuestion:
    """Read texts to go on with; raise InvalidRequest with the paths of the fields that are wrong."""
    check_prompts(request)
    return PromptsQuestion(request.model, tuple(request.prompts), from_sampling(request.sampling))


def to_completion(completion: Completion) -> pb.Completion:
    """Write how a text goes on."""
    return pb.Completion(text=completion.text, finish_reason=to_reason(completion.reason))


def from_completion(completion: pb.Completion) -> Completion:
    """Read what `to_completion` wrote."""
    return Completion(completion.text, from_reason(completion.finish_reason))
