"""The NetworkPolicies allow the arrows of the architecture and nothing beside them."""

import itertools

import pytest

from tests.deploy import kustomize
from tests.deploy.kustomize import OVERLAYS
from tests.deploy.network import Peer, allows

_NAMESPACE = "agentmesh"
_METRICS = {"router": 9090, "agent-runner": 9091, "llm-proxy": 9092, "storage": 9093, "gateway": 9094}

# source, target, port: everything that may be. What is not here must not be.
_MESH = {
    ("gateway", "router", 50051),
    ("gateway", "llm-proxy", 50053),
    ("router", "agent-runner", 50052),
    ("router", "storage", 50054),
    ("agent-runner", "llm-proxy", 50053),
    ("agent-runner", "storage", 50054),
    ("llm-proxy", "internet", 443),
    *(("prometheus", service, port) for service, port in _METRICS.items()),
    *((service, "collector", 4317) for service in _METRICS),
}
_BY_OVERLAY = {
    "dev": {
        ("storage", "postgres", 5432),
        ("llm-proxy", "postgres", 5432),
        ("migrate", "postgres", 5432),
        ("storage", "redis", 6379),
        ("llm-proxy", "redis", 6379),
        ("router", "redis", 6379),
    },
    "production": {
        ("envoy", "router", 50051),
        ("envoy", "gateway", 8000),
        ("envoy", "challenge", 8089),
        ("storage", "database subnet", 5432),
        ("llm-proxy", "database subnet", 5432),
        ("migrate", "database subnet", 5432),
        ("storage", "database subnet", 6379),
        ("llm-proxy", "database subnet", 6379),
        ("router", "database subnet", 6379),
    },
}
_OUTSIDE = (
    Peer("internet", ip="104.18.7.192"),
    Peer("database subnet", ip="10.20.30.40"),
    Peer("metadata server", ip="169.254.169.254"),
    Peer("internet by IPv6", ip="2606:4700::6812:7c0"),
    Peer("neighbour by IPv6", ip="fd00::1"),
    Peer("prometheus", "monitoring", {"app.kubernetes.io/name": "prometheus"}),
    Peer("collector", "monitoring", {"app.kubernetes.io/name": "otel-collector"}),
    Peer("envoy", "envoy-gateway-system", {"app.kubernetes.io/name": "envoy"}),
    Peer("dns", "kube-system", {"k8s-app": "kube-dns"}),
    Peer("other pod of the system", "kube-system", {"k8s-app": "metrics-server"}),
    Peer("stranger", "other", {"app.kubernetes.io/component": "router", "app.kubernetes.io/part-of": "agentmesh"}),
    Peer("stray", _NAMESPACE, {"app": "left-over"}),
    Peer("challenge", _NAMESPACE, {"acme.cert-manager.io/http01-solver": "true"}),
)
_PORTS = (53, 80, 443, 4317, 5432, 6379, 8000, 8081, 8089, 50051, 50052, 50053, 50054, *_METRICS.values())
# What both ends of a connection are outside of is not ours to allow; these two have many pods behind one name.
_MANY = {"monitoring": {"prometheus", "collector"}}


def _pods(overlay: str) -> list[Peer]:
    pods = []
    for workload in kustomize.workloads(overlay):
        labels = kustomize.pod_labels(workload)
        (container,) = kustomize.containers(workload)
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
        pods.append(Peer(labels["app.kubernetes.io/component"], _NAMESPACE, labels, ports))
    return pods


def _allowed(overlay: str, protocol: str = "TCP") -> set[tuple[str, str, int]]:
    policies = kustomize.of_kind(overlay, "NetworkPolicy")
    peers = [*_pods(overlay), *_OUTSIDE]
    ours = {peer.name for peer in peers if peer.namespace == _NAMESPACE}
    return {
        (source.name, target.name, port)
        for source, target in itertools.permutations(peers, 2)
        if ours & {source.name, target.name}
        for port in _PORTS
        if allows(policies, source, target, port, protocol)
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_exactly_the_arrows_of_the_architecture_are_allowed(overlay: str) -> None:
    expected = _MESH | _BY_OVERLAY[overlay]
    # A namespace is let in or reached as a whole, so its other pods are as well.
    for source, target, port in set(expected):
        for names in _MANY.values():
            expected |= {(other, target, port) for other in names if source in names}
            expected |= {(source, other, port) for other in names if target in names}
    expected |= {(s, "internet by IPv6", port) for s, target, port in set(expected) if target == "internet"}
    ours = {pod.name for pod in _pods(overlay)} | {"stray", "challenge"}
    expected |= {(source, "dns", 53) for source in ours}
    assert _allowed(overlay) == expected


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_by_udp_names_are_asked_for_and_nothing_else(overlay: str) -> None:
    ours = {pod.name for pod in _pods(overlay)} | {"stray", "challenge"}
    assert _allowed(overlay, "UDP") == {(source, "dns", 53) for source in ours}


def test_without_policies_everything_is_allowed_and_an_empty_one_forbids() -> None:
    source, target = Peer("a", "x"), Peer("b", "x")
    closed = {"metadata": {"namespace": "x"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}
    assert allows([], source, target, 80)
    assert not allows([closed], source, target, 80)
    open_again = {**closed, "spec": {**closed["spec"], "ingress": [{}]}}
    assert allows([closed, open_again], source, target, 80)
