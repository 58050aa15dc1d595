"""Both overlays of deploy/kubernetes are what a cluster takes, and hang together."""

import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deploy import kustomize
from tests.deploy.facts import PUBLIC_SERVICES
from tests.deploy.kustomize import OVERLAYS, SERVICES, Manifest
from tests.deploy.network import selects
from tests.deploy.prometheus_rules import RULES, WRITTEN, prometheus_rule

_SCHEMAS = yaml.safe_load((Path(__file__).parent / "schemas" / "custom_resources.yaml").read_text())
_GUIDE = (kustomize.ROOT / "docs" / "deploy" / "kubernetes.md").read_text()
_KUBERNETES = "1.37"
overlays = pytest.mark.parametrize("overlay", OVERLAYS)


def _is_core(manifest: Manifest) -> bool:
    group = manifest["apiVersion"].rpartition("/")[0]
    return "." not in group or (group.endswith(".k8s.io") and not group.startswith("gateway."))


def _schema_of(manifest: Manifest) -> dict[str, Any]:
    return {"$defs": _SCHEMAS["$defs"], **_SCHEMAS[f"{manifest['apiVersion']}/{manifest['kind']}"]}


@overlays
def test_every_object_has_the_schema_of_its_kind_and_no_key_beside(overlay: str) -> None:
    for manifest in kustomize.rendered(overlay):
        if _is_core(manifest):
            kubernetes_validate.validate(manifest, _KUBERNETES, strict=True)
        else:
            assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
            jsonschema.validate(manifest["spec"], _schema_of(manifest))


def test_a_misspelt_key_is_noticed_in_kinds_of_kubernetes_and_in_others() -> None:
    deployment = yaml.safe_load(yaml.safe_dump(kustomize.named("production", "Deployment", "router")))
    deployment["spec"]["minReadySecond"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, _KUBERNETES, strict=True)
    route = yaml.safe_load(yaml.safe_dump(kustomize.named("production", "GRPCRoute", "router")))
    route["spec"]["rules"][0]["timeouts"] = {"request": "0s"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(route["spec"], _schema_of(route))


@overlays
def test_each_object_is_there_once_and_in_the_namespace(overlay: str) -> None:
    rendered = kustomize.rendered(overlay)
    ids = [(one["kind"], one["metadata"]["name"]) for one in rendered]
    assert len(ids) == len(set(ids))
    for one in rendered:
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "agentmesh"
    assert {one["metadata"]["name"] for one in kustomize.of_kind(overlay, "Deployment")} == set(SERVICES)


@overlays
def test_pods_have_no_rights_at_all(overlay: str) -> None:
    for workload in kustomize.workloads(overlay):
        pod = workload["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        if workload["kind"] != "StatefulSet":
            assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["runAsGroup"] == 10001
        for container in kustomize.containers(workload):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["readOnlyRootFilesystem"] is True
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
    enforced = kustomize.of_kind(overlay, "Namespace")[0]["metadata"]["labels"]
    assert enforced["pod-security.kubernetes.io/enforce"] == "restricted"


@overlays
def test_what_a_read_only_container_writes_is_a_volume(overlay: str) -> None:
    for workload in kustomize.of_kind(overlay, "Deployment", "Job"):
        volumes = {volume["name"]: volume for volume in workload["spec"]["template"]["spec"]["volumes"]}
        (container,) = kustomize.containers(workload)
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        for path in ("/tmp", "/var/lib/agentmesh"):
            assert "emptyDir" in mounts[path]


@overlays
def test_probes_ask_the_plain_health_port_for_life_and_for_readiness(overlay: str) -> None:
    for service in SERVICES:
        container = kustomize.container_of(overlay, service)
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports["health"] == 8081
        assert container["startupProbe"]["grpc"] == {"port": 8081, "service": "live"}
        assert container["livenessProbe"]["grpc"] == {"port": 8081, "service": "live"}
        assert container["readinessProbe"]["grpc"] == {"port": 8081, "service": ""}


@overlays
def test_a_rolling_update_never_takes_a_pod_before_another_serves(overlay: str) -> None:
    for service in SERVICES:
        spec = kustomize.named(overlay, "Deployment", service)["spec"]
        assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        # gRPC looks up a name again after 30 s at the earliest.
        assert spec["minReadySeconds"] > 30 or spec.get("replicas") == 1


@overlays
def test_selectors_match_the_pods_that_they_mean(overlay: str) -> None:
    pods = {(one["kind"], one["metadata"]["name"]): kustomize.pod_labels(one) for one in kustomize.workloads(overlay)}
    for workload in kustomize.of_kind(overlay, "Deployment", "StatefulSet"):
        matched = [key for key, labels in pods.items() if selects(workload["spec"]["selector"], labels)]
        assert matched == [(workload["kind"], workload["metadata"]["name"])]
    for service in kustomize.of_kind(overlay, "Service"):
        matched = [
            name for (_, name), labels in pods.items() if selects({"matchLabels": service["spec"]["selector"]}, labels)
        ]
        assert matched == [service["metadata"]["name"]]
    for budget in kustomize.of_kind(overlay, "PodDisruptionBudget"):
        matched = [name for (_, name), labels in pods.items() if selects(budget["spec"]["selector"], labels)]
        assert matched == [budget["metadata"]["name"]]


@overlays
def test_a_services_port_is_one_of_its_containers(overlay: str) -> None:
    for service in kustomize.of_kind(overlay, "Service"):
        name = service["metadata"]["name"]
        (workload,) = [one for one in kustomize.workloads(overlay) if one["metadata"]["name"] == name]
        (container,) = kustomize.containers(workload)
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]


@overlays
def test_names_stand_for_all_pods_and_a_draining_runner_stays_reachable(overlay: str) -> None:
    published = {}
    for service in SERVICES:
        spec = kustomize.named(overlay, "Service", service)["spec"]
        if service != "gateway":
            assert spec["clusterIP"] == "None"
            published[service] = spec["publishNotReadyAddresses"]
    assert published == {"router": False, "agent-runner": True, "llm-proxy": False, "storage": False}
    assert kustomize.named(overlay, "Service", "gateway")["spec"]["type"] == "ClusterIP"


def test_in_production_everything_is_there_twice_and_not_taken_away_together() -> None:
    scaled = {}
    for scaler in kustomize.of_kind("production", "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        scaled[target["name"]] = scaler["spec"]
        # Each `kubectl apply` would set the number back otherwise.
        assert "replicas" not in kustomize.named("production", target["kind"], target["name"])["spec"]
    assert set(scaled) == {"router", "agent-runner", "llm-proxy", "gateway"}
    assert all(2 <= spec["minReplicas"] < spec["maxReplicas"] for spec in scaled.values())
    assert kustomize.named("production", "Deployment", "storage")["spec"]["replicas"] == 2
    budgets = kustomize.of_kind("production", "PodDisruptionBudget")
    assert {one["metadata"]["name"] for one in budgets} == set(SERVICES)
    assert all(one["spec"]["maxUnavailable"] == 1 for one in budgets)
    for service in SERVICES:
        spread = kustomize.named("production", "Deployment", service)["spec"]["template"]["spec"]
        keys = {one["topologyKey"] for one in spread["topologySpreadConstraints"]}
        assert keys == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}


def test_in_dev_there_is_one_of_each() -> None:
    assert all(one["spec"]["replicas"] == 1 for one in kustomize.of_kind("dev", "Deployment", "StatefulSet"))
    assert not kustomize.of_kind("dev", "HorizontalPodAutoscaler", "PodDisruptionBudget")


@overlays
def test_images_are_pinned(overlay: str) -> None:
    for workload in kustomize.workloads(overlay):
        for container in kustomize.containers(workload):
            image, _, tag = container["image"].rpartition(":")
            assert image
            assert tag not in ("", "latest")
            if overlay == "production":
                assert re.fullmatch(r"\d+\.\d+\.\d+", tag)


@overlays
def test_every_secret_and_setting_that_is_referred_to_exists_or_is_explained(overlay: str) -> None:
    made = {(one["kind"], one["metadata"]["name"]): one for one in kustomize.rendered(overlay)}
    by_certificates = {one["spec"]["secretName"] for one in kustomize.of_kind(overlay, "Certificate")}
    for workload in kustomize.workloads(overlay):
        for kind, name, key in _references(workload):
            if (kind, name) in made:
                data = made[kind, name].get("data", {})
                assert key is None or key in data or key in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
            elif name not in by_certificates:
                assert kind == "Secret"
                assert name in _GUIDE
                assert key is None or key in _GUIDE
    for gateway in kustomize.of_kind(overlay, "Gateway"):
        for listener in gateway["spec"]["listeners"]:
            for certificate in listener.get("tls", {}).get("certificateRefs", ()):
                assert certificate["name"] in _GUIDE


def _references(workload: Manifest) -> list[tuple[str, str, str | None]]:
    found: list[tuple[str, str, str | None]] = []
    pod = workload["spec"]["template"]["spec"]
    for container in kustomize.containers(workload):
        found += [("ConfigMap", one["configMapRef"]["name"], None) for one in container.get("envFrom", ())]
        for entry in container.get("env", ()):
            if reference := entry.get("valueFrom", {}).get("secretKeyRef"):
                found.append(("Secret", reference["name"], reference["key"]))
    for volume in pod["volumes"]:
        if "secret" in volume:
            found.append(("Secret", volume["secret"]["secretName"], None))
    return found


def test_no_secret_is_in_the_repository() -> None:
    assert not kustomize.of_kind("production", "Secret")
    ignored = (kustomize.FOLDER / "overlays" / "dev" / ".gitignore").read_text().splitlines()
    assert "secrets.env" in ignored


@overlays
def test_what_the_migration_needs_is_applied_with_it(overlay: str) -> None:
    job = kustomize.named(overlay, "Job", "agentmesh-migrate")
    before = {
        (one["kind"], one["metadata"]["name"])
        for one in kustomize.rendered(overlay)
        if one["metadata"].get("labels", {}).get("agentmesh/step") == "before"
    }
    needed = {(kind, name) for kind, name, _ in _references(job)} - {("Secret", "agentmesh-secrets")}
    needed |= {("Job", "agentmesh-migrate"), ("ServiceAccount", "agentmesh"), ("Namespace", "agentmesh")}
    needed |= {(one["kind"], one["metadata"]["name"]) for one in kustomize.of_kind(overlay, "NetworkPolicy", "Secret")}
    if overlay == "dev":
        needed |= {("StatefulSet", "postgres"), ("Service", "postgres")}
    assert needed <= before
    assert not {kind for kind, _ in before} & {"Deployment", "HorizontalPodAutoscaler", "Gateway"}
    annotations = job["metadata"]["annotations"]
    assert annotations["argocd.argoproj.io/hook"] == "Sync"
    assert annotations["argocd.argoproj.io/hook-delete-policy"] == "BeforeHookCreation"
    for one in kustomize.rendered(overlay) if overlay == "production" else ():
        wave = int(one["metadata"].get("annotations", {}).get("argocd.argoproj.io/sync-wave", "0"))
        is_before = (one["kind"], one["metadata"]["name"]) in before
        assert wave == (0 if not is_before else -1 if one["kind"] == "Job" else -2), one["metadata"]["name"]


def test_prometheus_scrapes_every_pod_of_the_mesh_and_the_migration_by_no_port() -> None:
    (monitor,) = kustomize.of_kind("production", "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    scraped = {}
    for workload in kustomize.workloads("production"):
        (container,) = kustomize.containers(workload)
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
        if selects(monitor["spec"]["selector"], kustomize.pod_labels(workload)) and endpoint["port"] in ports:
            scraped[kustomize.pod_labels(workload)[monitor["spec"]["jobLabel"]]] = ports[endpoint["port"]]
    expected = {"router": 9090, "agent-runner": 9091, "llm-proxy": 9092, "storage": 9093, "gateway": 9094}
    assert scraped == expected


def test_routes_lead_to_services_and_only_to_public_methods() -> None:
    (gateway,) = kustomize.of_kind("production", "Gateway")
    listeners = {one["name"]: one for one in gateway["spec"]["listeners"]}
    for route in kustomize.of_kind("production", "HTTPRoute", "GRPCRoute"):
        for parent in route["spec"]["parentRefs"]:
            assert parent["name"] == gateway["metadata"]["name"]
            hostname = listeners[parent["sectionName"]].get("hostname")
            assert hostname is None or route["spec"]["hostnames"] == [hostname]
        for rule in route["spec"]["rules"]:
            for backend in rule.get("backendRefs", ()):
                service = kustomize.named("production", "Service", backend["name"])
                assert backend["port"] in [port["port"] for port in service["spec"]["ports"]]
    rules = kustomize.named("production", "GRPCRoute", "router")["spec"]["rules"]
    routed = {match["method"]["service"] for rule in rules for match in rule["matches"]}
    assert routed == PUBLIC_SERVICES | {"grpc.health.v1.Health"}


def test_certificates_name_every_service_and_what_envoy_expects() -> None:
    names = kustomize.named("production", "Certificate", "agentmesh-tls")["spec"]["dnsNames"]
    assert set(SERVICES) <= set(names)
    issuers = {one["metadata"]["name"] for one in kustomize.of_kind("production", "Issuer")}
    assert {one["spec"]["issuerRef"]["name"] for one in kustomize.of_kind("production", "Certificate")} == issuers
    (policy,) = kustomize.of_kind("production", "BackendTLSPolicy")
    assert {target["name"] for target in policy["spec"]["targetRefs"]} == {"router", "gateway"}
    assert policy["spec"]["validation"]["hostname"] in names
    (reference,) = policy["spec"]["validation"]["caCertificateRefs"]
    assert reference["name"] == "agentmesh-tls"


def test_envoy_cuts_no_stream() -> None:
    (traffic,) = kustomize.of_kind("production", "BackendTrafficPolicy")
    targets = {(one["kind"], one["name"]) for one in traffic["spec"]["targetRefs"]}
    assert targets == {("GRPCRoute", "router"), ("HTTPRoute", "gateway")}
    assert traffic["spec"]["timeout"]["http"]["requestTimeout"] == "0s"
    assert traffic["spec"]["timeout"]["http"]["maxStreamDuration"] == "0s"
    (clients,) = kustomize.of_kind("production", "ClientTrafficPolicy")
    assert clients["spec"]["timeout"]["http"]["streamIdleTimeout"] == "1h"


def test_the_prometheus_operator_is_given_the_rules_of_every_other_deployment() -> None:
    if not RULES.exists():
        pytest.skip("deploy/monitoring/rules is not there yet")
    written = prometheus_rule(RULES)
    assert WRITTEN.read_text() == written, "write it anew: python -m tests.deploy.prometheus_rules"
    (rule,) = kustomize.of_kind("production", "PrometheusRule")
    groups = [group for file in sorted(RULES.glob("*.yml")) for group in yaml.safe_load(file.read_text())["groups"]]
    assert rule["spec"]["groups"] == groups
