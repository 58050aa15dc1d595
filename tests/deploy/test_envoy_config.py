"""The files that are shipped for Envoy: valid, true to the contract and to the mesh's own bounds."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2

from agentmesh.kit import names
from agentmesh.kit.rpc_server import SERVER_OPTIONS
from agentmesh_gateway.routes import SERVICES, RouteTable
from agentmesh_gateway.settings import Bounds
from tests.deploy.envoy import SHIPPED, binary, installed

ROOT = SHIPPED.parents[1]
CONFIG: dict[str, Any] = yaml.safe_load((SHIPPED / "envoy.yaml").read_text())
LISTENERS = {listener["name"]: listener for listener in CONFIG["static_resources"]["listeners"]}
CLUSTERS = {cluster["name"]: cluster for cluster in CONFIG["static_resources"]["clusters"]}
HTTPS = LISTENERS["https"]["filter_chains"][0]["filters"][-1]["typed_config"]
ROUTES = {route["name"]: route for route in HTTPS["route_config"]["virtual_hosts"][0]["routes"]}


@pytest.mark.parametrize("file", ["envoy.yaml", "envoy-tls.yaml"])
def test_envoy_takes_what_is_shipped(file: str, tls: Path, tmp_path: Path) -> None:
    """Only the paths that a container mounts are put elsewhere; a field that is deprecated fails, too."""
    folder = installed(tmp_path / "envoy", tls)
    command = [binary(), "--mode", "validate", "--log-level", "warn", "-c", str(folder / file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Deprecated" not in done.stderr
    assert done.stdout.strip().endswith("OK")


def test_the_variant_with_tls_inside_is_the_other_one_with_its_lines_switched_on() -> None:
    plain = (SHIPPED / "envoy.yaml").read_text()
    made = re.sub(r"(?m)^( *)# tls\| ", r"\1", plain)
    assert made == (SHIPPED / "envoy-tls.yaml").read_text()
    with_tls = {cluster["name"]: cluster for cluster in yaml.safe_load(made)["static_resources"]["clusters"]}
    for role in ("router", "gateway"):
        socket = with_tls[role].pop("transport_socket")["typed_config"]
        assert socket["sni"] == role
        validation = socket["common_tls_context"]["combined_validation_context"]["default_validation_context"]
        assert validation["match_typed_subject_alt_names"] == [{"san_type": "DNS", "matcher": {"exact": role}}]
    assert with_tls == CLUSTERS


def test_the_descriptor_set_is_that_of_the_protos(tmp_path: Path) -> None:
    """What the repository's script makes now, byte for byte; and the paths are the gateway's, below /direct."""
    made = tmp_path / "set.binpb"
    subprocess.run([sys.executable, ROOT / "protos" / "descriptors.py", made], check=True, timeout=60)
    shipped = (SHIPPED / "agentmesh.binpb").read_bytes()
    assert made.read_bytes() == shipped, "run make proto and commit the result"
    described = descriptor_pb2.FileDescriptorSet.FromString(shipped)
    found = set()
    for file in described.file:
        for service in file.service:
            for method in service.method:
                rule = method.options.Extensions[annotations_pb2.http]
                if kind := rule.WhichOneof("pattern"):
                    found.add((kind.upper(), getattr(rule, kind), f"{file.package}.{service.name}.{method.name}"))
    assert found == {
        (route.http_method, f"/direct{route.template.text}", route.method.full_name) for route in RouteTable().routes
    }


def test_every_public_service_has_a_route_and_no_other_one() -> None:
    prefixes = {
        route["match"]["prefix"] for route in ROUTES.values() if route.get("route", {}).get("cluster") == "router"
    }
    assert {prefix for prefix in prefixes if prefix.startswith("/agentmesh.")} == {
        f"/{service.full_name}/" for service in SERVICES
    }
    transcoder = ROUTES["json"]["typed_per_filter_config"]["envoy.filters.http.grpc_json_transcoder"]
    assert set(transcoder["services"]) == {service.full_name for service in SERVICES}


def test_bounds_are_those_of_the_mesh() -> None:
    bounds, options = Bounds(), dict(SERVER_OPTIONS)
    assert (
        HTTPS["max_request_headers_kb"] * 1024 == bounds.max_header_bytes == options["grpc.absolute_max_metadata_size"]
    )
    assert HTTPS["common_http_protocol_options"]["max_headers_count"] == bounds.max_headers
    assert HTTPS["http2_protocol_options"]["max_concurrent_streams"] == options["grpc.max_concurrent_streams"]
    transcoder = ROUTES["json"]["typed_per_filter_config"]["envoy.filters.http.grpc_json_transcoder"]
    assert transcoder["max_request_body_size"] > names.MAX_MESSAGE_BYTES
    ping = CLUSTERS["router"]["typed_extension_protocol_options"][
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    ]["explicit_http_config"]["http2_protocol_options"]["connection_keepalive"]
    assert seconds(ping["interval"]) * 1000 > options["grpc.http2.min_ping_interval_without_data_ms"]


def test_streams_are_bounded_by_their_silence_and_not_by_their_length() -> None:
    for name in ("tasks", "json", "http"):
        route = ROUTES[name]["route"]
        assert seconds(route["timeout"]) == 0
        assert seconds(route["idle_timeout"]) > Bounds().answer_timeout_s
    assert seconds(ROUTES["tasks"]["route"]["max_stream_duration"]["grpc_timeout_header_max"]) == 0


def test_only_what_was_not_sent_is_sent_again() -> None:
    """A layer of retries is in the client already; Envoy may repeat what no router can have seen."""
    for route in ROUTES.values():
        if "route" in route:
            conditions = set(route["route"]["retry_policy"]["retry_on"].split(","))
            assert conditions == {"connect-failure", "refused-stream", "reset-before-request"}


def test_health_is_asked_for_without_calls_too() -> None:
    for role in ("router", "gateway"):
        (check,) = CLUSTERS[role]["health_checks"]
        assert seconds(check["no_traffic_interval"]) <= 5
        assert CLUSTERS[role]["lb_policy"] == "LEAST_REQUEST"
        assert CLUSTERS[role]["type"] == "STRICT_DNS"
    assert "grpc_health_check" in CLUSTERS["router"]["health_checks"][0]


def test_the_admin_interface_is_on_loopback_only() -> None:
    assert CONFIG["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"


def test_the_access_log_writes_no_header_that_can_hold_a_secret() -> None:
    (log,) = HTTPS["access_log"]
    written = " ".join(log["typed_config"]["log_format"]["json_format"].values())
    headers = {header.lower() for header in re.findall(r"%REQ\(([^)]*)\)%", written)}
    assert headers == {":method", "x-request-id", "traceparent", "user-agent"}
    assert "%PATH(NQ)%" in written


def seconds(text: str) -> float:
    """Return what Envoy means by 3600s."""
    return float(text.removesuffix("s"))
