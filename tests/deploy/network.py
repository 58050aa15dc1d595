"""Says which connections a set of NetworkPolicies allows, as the Kubernetes documentation defines it."""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Policy = Mapping[str, Any]


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod by its namespace and labels, or an address outside the cluster."""

    name: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    ports: Mapping[str, int] = field(default_factory=dict, hash=False)
    """The named ports of a pod."""
    ip: str = ""


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; an empty one matches everything, None nothing."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for expression in selector.get("matchExpressions", ()):
        there = labels.get(expression["key"])
        holds = {
            "In": there in expression.get("values", ()),
            "NotIn": there not in expression.get("values", ()),
            "Exists": there is not None,
            "DoesNotExist": there is None,
        }
        if not holds[expression["operator"]]:
            return False
    return True


def allows(policies: Sequence[Policy], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection is let out at its source and in at its target."""
    ways = (("Egress", "egress", "to", source, target), ("Ingress", "ingress", "from", target, source))
    for kind, rules, peers, own, other in ways:
        holding = [one for one in policies if _is_for(one, own) and kind in one["spec"]["policyTypes"]]
        if holding and not any(
            _peer_matches(rule.get(peers), other, one["metadata"]["namespace"])
            and _port_matches(rule.get("ports"), target, port, protocol)
            for one in holding
            for rule in one["spec"].get(rules, ())
        ):
            return False
    return True


def _is_for(policy: Policy, pod: Peer) -> bool:
    inside = pod.namespace == policy["metadata"]["namespace"]
    return inside and selects(policy["spec"]["podSelector"], pod.labels)


def _peer_matches(peers: Iterable[Mapping[str, Any]] | None, other: Peer, namespace: str) -> bool:
    return not peers or any(_one_peer_matches(peer, other, namespace) for peer in peers)


def _one_peer_matches(peer: Mapping[str, Any], other: Peer, namespace: str) -> bool:
    if "ipBlock" in peer:
        if not other.ip:
            return False
        ip, block = ipaddress.ip_address(other.ip), peer["ipBlock"]
        return ip in ipaddress.ip_network(block["cidr"]) and not any(
            ip in ipaddress.ip_network(hole) for hole in block.get("except", ())
        )
    if other.ip:
        return False
    if "namespaceSelector" in peer:
        in_namespace = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace})
    else:
        in_namespace = other.namespace == namespace
    return in_namespace and selects(peer.get("podSelector", {}), other.labels)


def _port_matches(ports: Iterable[Mapping[str, Any]] | None, target: Peer, port: int, protocol: str) -> bool:
    if not ports:
        return True
    return any(
        one.get("protocol", "TCP") == protocol
        and ("port" not in one or target.ports.get(one["port"], one["port"]) == port)
        for one in ports
    )
