"""The names of OpenTelemetry's conventions that spans and metrics use, so that any dashboard for them fits.

Source: the conventions for generative AI, in their own repository (semantic-conventions-genai) since 2026, and the
general ones for RPC, HTTP, databases, errors and servers. In Prometheus a metric has its unit in its name, and dots
become underscores.
"""

from typing import Final

# Attributes.
OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
USAGE_CACHE_CREATION_INPUT_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
USAGE_REASONING_OUTPUT_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - the name of an attribute
AGENT_NAME: Final = "gen_ai.agent.name"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
TOOL_NAME: Final = "gen_ai.tool.name"
RPC_SYSTEM: Final = "rpc.system.name"
RPC_METHOD: Final = "rpc.method"
RPC_STATUS: Final = "rpc.response.status_code"
HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
DB_SYSTEM: Final = "db.system.name"
DB_OPERATION: Final = "db.operation.name"
DB_BATCH_SIZE: Final = "db.operation.batch.size"
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
# Ours beside them.
PROVIDER: Final = "agentmesh.provider"
STATUS: Final = "agentmesh.status"
TENANT: Final = "agentmesh.tenant"
TASK_ID: Final = "agentmesh.task.id"
ATTEMPT: Final = "agentmesh.attempt"
STEP: Final = "agentmesh.step"
KEY_ID: Final = "agentmesh.key.id"
USAGE_ESTIMATED: Final = "agentmesh.usage.estimated"

# Values.
CHAT: Final = "chat"
EMBEDDINGS: Final = "embeddings"
INVOKE_AGENT: Final = "invoke_agent"
EXECUTE_TOOL: Final = "execute_tool"
GRPC: Final = "grpc"
TEXT_COMPLETION: Final = "text_completion"
RERANK: Final = "rerank"  # ours: the conventions have no word for it yet
INPUT: Final = "input"
OUTPUT: Final = "output"

# Metrics, as Prometheus writes them.
OPERATION_DURATION: Final = "gen_ai_client_operation_duration_seconds"
TIME_TO_FIRST_CHUNK: Final = "gen_ai_client_operation_time_to_first_chunk_seconds"
TOKEN_USAGE: Final = "gen_ai_client_token_usage"  # noqa: S105 - the name of a metric

# The bounds that the conventions give for the buckets.
DURATION_BUCKETS: Final = tuple(0.01 * 2**step for step in range(14))
FIRST_CHUNK_BUCKETS: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
TOKEN_BUCKETS: Final = tuple(4**step for step in range(14))


def label(attribute: str) -> str:
    """Return an attribute's name as a label of Prometheus."""
    return attribute.replace(".", "_")
