"""Every key of the shipped configuration files has a test that holds it to what it says."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ("development", "test", "production")

DO = "tests/contract/test_settings_do.py"
CONFIG = "tests/unit/test_config.py"
SUPERVISION = "tests/integration/test_supervision.py"
POSTGRES = "tests/contract/test_postgres_stores.py"
WORKERS = "tests/contract/test_gateway_workers.py"
ACCESS = "tests/contract/test_service_access.py"

# Key: where its test is, and what it is called.
TESTS = {
    "debug": (DO, "test_debug_logs_everything_and_hears_libraries_unless_a_level_is_given"),
    "hot_reload": (SUPERVISION, "test_hot_reload_and_api_reload_start_again_what_a_change_touches"),
    "auto_restart": (SUPERVISION, "test_a_service_that_dies_is_started_again_only_if_auto_restart_is_on"),
    "data_dir": (CONFIG, "test_the_database_lies_in_the_data_folder_unless_a_url_says_otherwise"),
    "drain_delay_s": (
        "tests/contract/test_gateway_process.py",
        "test_a_gateway_that_is_to_stop_says_so_for_a_while_before_it_takes_nothing_new",
    ),
    "drain_timeout_s": (
        "tests/contract/test_gateway_process.py",
        "test_sigterm_ends_streams_lets_requests_finish_and_exits_with_0",
    ),
    "database.url": (CONFIG, "test_the_database_lies_in_the_data_folder_unless_a_url_says_otherwise"),
    "database.echo": (DO, "test_echo_shows_statements_but_never_values"),
    "database.create_tables": (DO, "test_tables_are_made_at_the_start_only_if_create_tables_says_so"),
    "database.pool_size": (POSTGRES, "test_a_pool_that_is_used_up_says_so_and_takes_up_again"),
    "database.max_overflow": (POSTGRES, "test_a_pool_that_is_used_up_says_so_and_takes_up_again"),
    "database.pool_timeout": (POSTGRES, "test_a_pool_that_is_used_up_says_so_and_takes_up_again"),
    "database.pool_recycle": (POSTGRES, "test_connections_are_replaced_by_age"),
    "cache.backend": (DO, "test_redis_is_used_over_no_more_connections_than_pool_size"),
    "cache.url": (DO, "test_redis_is_used_over_no_more_connections_than_pool_size"),
    "cache.pool_size": (DO, "test_redis_is_used_over_no_more_connections_than_pool_size"),
    "cache.ttl": (DO, "test_answers_are_forgotten_after_ttl"),
    "logging.level": (DO, "test_the_level_decides_what_is_logged"),
    "logging.console": (DO, "test_lines_go_where_console_and_file_say"),
    "logging.file": (DO, "test_lines_go_where_console_and_file_say"),
    "logging.structured": (DO, "test_lines_are_json_if_format_or_structured_says_so_and_never_hold_a_secret"),
    "logging.format": (DO, "test_lines_are_json_if_format_or_structured_says_so_and_never_hold_a_secret"),
    "api.host": (CONFIG, "test_the_gateway_and_the_api_always_agree_and_the_gateway_wins"),
    "api.port": (CONFIG, "test_the_gateway_and_the_api_always_agree_and_the_gateway_wins"),
    "api.reload": (SUPERVISION, "test_hot_reload_and_api_reload_start_again_what_a_change_touches"),
    "api.workers": (WORKERS, "test_workers_share_a_port_and_are_counted_on_one_page"),
    "api.worker_class": (DO, "test_a_worker_class_that_nothing_runs_is_refused"),
    "api.max_requests": (WORKERS, "test_a_worker_that_served_enough_is_replaced_and_cuts_nothing"),
    "api.max_requests_jitter": (WORKERS, "test_a_worker_that_served_enough_is_replaced_and_cuts_nothing"),
    "security.authentication": (ACCESS, "test_public_methods_demand_a_known_key_where_authentication_is_on"),
    "security.authorization": (ACCESS, "test_scopes_mean_nothing_where_authorization_is_off"),
    "security.rate_limiting": (DO, "test_tenants_are_held_to_their_rate_only_if_rate_limiting_is_on"),
    "security.input_validation": (
        DO,
        "test_parameters_are_held_against_the_agents_schema_only_if_input_validation_is_on",
    ),
    "security.reflection": ("tests/clients/test_grpcurl.py", "test_grpcurl_lists_the_public_services_and_no_others"),
    "monitoring.metrics": ("tests/unit/kit/test_metrics_server.py", "test_metrics_that_are_off_are_served_nowhere"),
    "monitoring.tracing": (
        "tests/integration/test_traces.py",
        "test_one_trace_leads_from_the_client_through_every_service_to_the_provider",
    ),
    "monitoring.health_checks": (
        SUPERVISION,
        "test_dependencies_are_asked_and_what_alerts_need_is_measured_only_if_monitoring_says_so",
    ),
    "monitoring.alerts": (
        SUPERVISION,
        "test_dependencies_are_asked_and_what_alerts_need_is_measured_only_if_monitoring_says_so",
    ),
}


def keys_of(environment: str) -> list[str]:
    """Return the dotted keys of a shipped file, below its section."""
    document = yaml.safe_load((ROOT / "configs" / "environments" / f"{environment}.yaml").read_text())
    return [".".join(path) for path in _leaves(document[environment], ())]


def _leaves(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if not isinstance(node, dict):
        yield path
        return
    for key, child in node.items():
        yield from _leaves(child, (*path, key))


@cache
def functions_of(file: str) -> frozenset[str]:
    """Return the names of the functions of a file."""
    tree = ast.parse((ROOT / file).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_key_of_a_shipped_file_has_a_test_that_exists(environment: str) -> None:
    keys = keys_of(environment)
    assert len(keys) > 10
    for key in keys:
        assert key in TESTS, f"no test is known that holds {key} to what it says"
        file, name = TESTS[key]
        assert name in functions_of(file), f"{file} has no {name}"
