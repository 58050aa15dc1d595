"""Every name that users, dashboards or other services rely on stands here once."""

from typing import Final

ERROR_DOMAIN: Final = "agentmesh"
DEFAULT_TENANT: Final = "default"

# Metadata keys.
AUTHORIZATION: Final = "authorization"
TASK_TOKEN: Final = "x-agentmesh-task-token"  # noqa: S105 - the name of a key, not a token
TENANT: Final = "x-agentmesh-tenant"
VIRTUAL_KEY: Final = "x-agentmesh-key"
TRACEPARENT: Final = "traceparent"
RETRY_PUSHBACK: Final = "grpc-retry-pushback-ms"
STATUS_DETAILS: Final = "grpc-status-details-bin"

# Roles of services; the keys of `services` in the configuration.
ROUTER: Final = "router"
RUNNER: Final = "runner"
LLM: Final = "llm"
STORAGE: Final = "storage"
GATEWAY: Final = "gateway"
ROLES: Final = (ROUTER, RUNNER, LLM, STORAGE, GATEWAY)
PUBLIC_ROLES: Final = (ROUTER, GATEWAY)
"""What clients from outside may reach."""
OPERATOR: Final = "operator"
"""Who holds the mesh's secret and is no service: the `agentmesh` command where the mesh is run."""
VIRTUAL_KEY_PREFIX: Final = "am-"
LIFELINE: Final = "AGENTMESH_LIFELINE"
"""The variable that tells a child process which descriptor ends when its parent does."""

# Names of the health protocol beside those of services.
LIVE: Final = "live"
"""The process answers, ready or not."""
DEPENDENCY_PREFIX: Final = "dependency."

# Metrics with the names that users already have dashboards for.
REQUESTS_TOTAL: Final = "agent_requests_total"
REQUEST_DURATION: Final = "agent_request_duration_seconds"
ACTIVE_TASKS: Final = "agent_active_tasks"
LLM_CALLS_TOTAL: Final = "llm_api_calls_total"
# Ours beside them.
RPC_TOTAL: Final = "agentmesh_rpc_requests_total"
RPC_DURATION: Final = "agentmesh_rpc_duration_seconds"
BUILD_INFO: Final = "agentmesh_build_info"
SERVING: Final = "agentmesh_serving"
DEPENDENCY_UP: Final = "agentmesh_dependency_up"
DISK_BYTES: Final = "agentmesh_disk_bytes"
DISK_FREE_BYTES: Final = "agentmesh_disk_free_bytes"
MEMORY_BYTES: Final = "agentmesh_memory_bytes"
MEMORY_LIMIT_BYTES: Final = "agentmesh_memory_limit_bytes"
LOG_LINES_DROPPED_TOTAL: Final = "agentmesh_log_lines_dropped_total"
SPANS_EXPORTED_TOTAL: Final = "agentmesh_spans_exported_total"
SPANS_DROPPED_TOTAL: Final = "agentmesh_spans_dropped_total"
STORAGE_COMMITS_TOTAL: Final = "agentmesh_storage_commits_total"
STORAGE_MUTATIONS_TOTAL: Final = "agentmesh_storage_mutations_total"
STORAGE_COMMIT_DURATION: Final = "agentmesh_storage_commit_duration_seconds"
ROUTER_SUBSCRIPTIONS: Final = "agentmesh_router_subscriptions"
ROUTER_FREE_SLOTS: Final = "agentmesh_router_free_slots"
STORAGE_LEASES_LOST_TOTAL: Final = "agentmesh_storage_leases_lost_total"
STORAGE_WAITING_TASKS: Final = "agentmesh_storage_waiting_tasks"
STORAGE_OLDEST_WAITING: Final = "agentmesh_storage_oldest_waiting_seconds"
STORAGE_PRUNED_TOTAL: Final = "agentmesh_storage_pruned_total"
STORAGE_NEWS_MISSED_TOTAL: Final = "agentmesh_storage_news_missed_total"
STORAGE_CONFLICTS_TOTAL: Final = "agentmesh_storage_conflicts_total"
ROUTER_REFUSED_TOTAL: Final = "agentmesh_router_refused_total"
ROUTER_ACCEPT_DELAY: Final = "agentmesh_router_accept_delay_seconds"
ROUTER_LIMITER_FALLBACKS_TOTAL: Final = "agentmesh_router_limiter_fallbacks_total"
LLM_JOINED_TOTAL: Final = "agentmesh_llm_joined_total"
LLM_LEASED_TOTAL: Final = "agentmesh_llm_leased_total"
LLM_LEASE_FAILURES_TOTAL: Final = "agentmesh_llm_lease_failures_total"
LLM_FALLBACKS_TOTAL: Final = "agentmesh_llm_fallbacks_total"
LLM_CACHE_LOOKUPS_TOTAL: Final = "agentmesh_llm_cache_lookups_total"
LLM_CACHE_BYTES: Final = "agentmesh_llm_cache_bytes"
LLM_CACHE_FAILURES_TOTAL: Final = "agentmesh_llm_cache_failures_total"
LLM_BATCH_INPUTS_TOTAL: Final = "agentmesh_llm_batch_inputs_total"
LLM_COST_TOTAL: Final = "agentmesh_llm_cost_usd_total"
LLM_USAGE_PENDING: Final = "agentmesh_llm_usage_pending"
LLM_USAGE_FAILURES_TOTAL: Final = "agentmesh_llm_usage_write_failures_total"
LLM_LIMITED_TOTAL: Final = "agentmesh_llm_limited_total"
LLM_RELOADS_TOTAL: Final = "agentmesh_llm_config_reloads_total"
LLM_BATCHES_TOTAL: Final = "agentmesh_llm_batches_total"
LLM_BATCH_WAITING: Final = "agentmesh_llm_batch_waiting"
LLM_KEPT_BYTES: Final = "agentmesh_llm_kept_bytes"
LLM_TOKENS_TOTAL: Final = "agentmesh_llm_tokens_total"
LLM_IN_FLIGHT_LIMIT: Final = "agentmesh_llm_in_flight_limit"
LLM_IN_FLIGHT: Final = "agentmesh_llm_in_flight"
LLM_OPEN: Final = "agentmesh_llm_open"
LLM_WAITING: Final = "agentmesh_llm_waiting"
LLM_WAIT: Final = "agentmesh_llm_wait_seconds"
GATEWAY_REQUESTS_TOTAL: Final = "agentmesh_gateway_requests_total"
GATEWAY_REQUEST_DURATION: Final = "agentmesh_gateway_request_duration_seconds"
GATEWAY_OPEN_STREAMS: Final = "agentmesh_gateway_open_streams"
GATEWAY_STREAM_RESUMES_TOTAL: Final = "agentmesh_gateway_stream_resumes_total"

# Reasons of RESOURCE_EXHAUSTED.
OVERLOADED: Final = "OVERLOADED"
RATE_LIMITED: Final = "RATE_LIMITED"
QUEUE_FULL: Final = "QUEUE_FULL"
BUDGET_EXHAUSTED: Final = "BUDGET_EXHAUSTED"

# Bounds that the contract and the promises fix.
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
MAX_METADATA_BYTES: Final = 8 * 1024
MAX_EVENT_BYTES: Final = 256 * 1024
MAX_BATCH_BYTES: Final = 1024 * 1024
MAX_STEP_RESULT_BYTES: Final = 256 * 1024
