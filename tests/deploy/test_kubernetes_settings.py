"""What the pods are told is a valid configuration, and fits to their ports, names and times."""

import hashlib

import pytest

from agentmesh.kit import config, lifecycle
from agentmesh_llm.adapters.books_postgres.store import _CONNECTIONS
from tests.deploy import kustomize
from tests.deploy.kustomize import OVERLAYS, SERVICES

_SECRETS = {
    "DATABASE_URL": "postgresql://mesh:secret@database:5432/mesh",
    "REDIS_URL": "redis://cache:6379/0",
    "AGENTMESH_SERVICES__TOKEN": "a-secret-of-thirty-two-characters",
    "AGENTMESH_SECURITY__API_KEYS": f'[{{"sha256": "{hashlib.sha256(b"key").hexdigest()}", "tenant": "acme"}}]',
    "OPENAI_API_KEY": "sk-of-nobody",
}
_NEEDED_BY = {
    "router": {"REDIS_URL", "AGENTMESH_SERVICES__TOKEN", "AGENTMESH_SECURITY__API_KEYS"},
    "agent-runner": {"AGENTMESH_SERVICES__TOKEN"},
    "llm-proxy": {"DATABASE_URL", "REDIS_URL", "AGENTMESH_SERVICES__TOKEN", "OPENAI_API_KEY"},
    "storage": {"DATABASE_URL", "REDIS_URL", "AGENTMESH_SERVICES__TOKEN"},
    "gateway": {"AGENTMESH_SERVICES__TOKEN", "AGENTMESH_SECURITY__API_KEYS"},
    "agentmesh-migrate": {"DATABASE_URL"},
}
each = pytest.mark.parametrize(("overlay", "service"), [(o, s) for o in OVERLAYS for s in SERVICES])


def _environment(overlay: str, name: str, kind: str = "Deployment") -> dict[str, str]:
    return kustomize.environment_of(overlay, kustomize.named(overlay, kind, name), _SECRETS)


def _settings(overlay: str, service: str) -> config.Settings:
    """Load the configuration of a service as `agentmesh serve` does."""
    return config.load(environ=_environment(overlay, service), unused=config.UNUSED_BY.get(SERVICES[service], ()))


@each
def test_the_configuration_is_valid_and_fits_the_pod(overlay: str, service: str) -> None:
    settings = _settings(overlay, service)
    container = kustomize.container_of(overlay, service)
    role = SERVICES[service]
    assert container["args"] == ["serve", role]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    endpoint = getattr(settings.services, role)
    main = ports["http" if service == "gateway" else "grpc"]
    assert (endpoint.port, endpoint.metrics_port, endpoint.health_port) == (main, ports["metrics"], ports["health"])
    assert not endpoint.is_loopback
    lifecycle.check_exposure(endpoint.host, settings)
    assert settings.environment == "production"
    assert settings.security.authentication
    assert not settings.database.create_tables
    assert (settings.logging.console, settings.logging.file, settings.logging.format) == (True, False, "json")
    assert str(settings.data_dir) in [mount["mountPath"] for mount in container["volumeMounts"]]


@each
def test_the_others_are_found_by_the_names_of_their_services(overlay: str, service: str) -> None:
    settings = _settings(overlay, service)
    for name, role in SERVICES.items():
        if role != "gateway":
            (port,) = kustomize.named(overlay, "Service", name)["spec"]["ports"]
            assert getattr(settings.services, role).addresses == (f"{name}:{port['port']}",)
    assert settings.services.gateway.behind == ("router", "llm")


@each
def test_a_pod_is_killed_only_after_its_drain(overlay: str, service: str) -> None:
    settings = _settings(overlay, service)
    pod = kustomize.named(overlay, "Deployment", service)["spec"]["template"]["spec"]
    pre_stop = kustomize.container_of(overlay, service)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= pre_stop + settings.drain_delay_s + settings.drain_timeout_s + 5


@each
def test_nobody_is_told_a_secret_that_it_does_not_need(overlay: str, service: str) -> None:
    told = {name for name, value in _environment(overlay, service).items() if value in _SECRETS.values()}
    assert told == _NEEDED_BY[service]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_migration_reaches_the_database_and_knows_nothing_else(overlay: str) -> None:
    environment = _environment(overlay, "agentmesh-migrate", "Job")
    settings = config.load(environ=environment, unused=config.UNUSED_BY["migrate"])
    assert not settings.database.is_embedded
    told = {name for name, value in environment.items() if value in _SECRETS.values()}
    assert told == _NEEDED_BY["agentmesh-migrate"]


def test_runners_have_the_names_of_their_pods() -> None:
    settings = _settings("production", "agent-runner")
    assert settings.runner.name == "agent-runner-5d9c-x7k2p"
    assert settings.runner.hosts == 2


def test_in_production_services_prove_themselves_with_certificates() -> None:
    container = kustomize.container_of("production", "router")
    (folder,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "tls"]
    tls = _settings("production", "router").services.tls
    assert [str(file) for file in (tls.cert, tls.key, tls.ca)] == [
        f"{folder}/{name}" for name in ("tls.crt", "tls.key", "ca.crt")
    ]
    assert tls.verify_clients
    assert not tls.in_front


def test_in_dev_nothing_asks_for_certificates() -> None:
    tls = _settings("dev", "router").services.tls
    assert tls.in_front
    assert tls.cert is None


def test_connections_of_all_pods_fit_into_postgresql() -> None:
    """PostgreSQL takes 100 by default, and keeps 3 of them for its operator. A storage has one more, which listens."""
    database = config.load(environ=_environment("production", "storage")).database
    (scaler,) = [
        one
        for one in kustomize.of_kind("production", "HorizontalPodAutoscaler")
        if one["metadata"]["name"] == "llm-proxy"
    ]
    storages = kustomize.named("production", "Deployment", "storage")["spec"]["replicas"] + 1
    proxies = scaler["spec"]["maxReplicas"] + 1  # one more of each during an update
    assert storages * (database.pool_size + database.max_overflow + 1) + proxies * _CONNECTIONS <= 97
