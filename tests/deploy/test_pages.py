"""docs/deploy/docker.md and compose.md: what they say to type can be typed, and what they name is there."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from agentmesh.kit import config
from tests.deploy.compose import FOLDER, ROOT, environment_of, make_secrets, read, role_of
from tests.deploy.engine import Engine
from tests.support.markdown import Block, blocks_of

PAGES = [ROOT / "docs" / "deploy" / name for name in ("docker.md", "compose.md")]
DOCKER, COMPOSE = (page.read_text(encoding="utf-8") for page in PAGES)
DOCUMENT = read()
SHELL = [block for page in PAGES for block in blocks_of(page) if block.language == "sh"]
STARTED = [block for block in blocks_of(PAGES[0]) if "docker run --detach" in block.code]


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_a_block_is_sound_shell(block: Block) -> None:
    checked = subprocess.run(["bash", "-n", "-c", block.code], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_real_client_takes_the_command_and_the_container_can_do_little(tmp_path: Path) -> None:
    (tmp_path / "mesh.env").write_text("A=b\n")
    with Engine() as engine:
        done = engine.run(["bash", "-euo", "pipefail", "-c", STARTED[0].code], tmp_path)
    assert done.returncode == 0, done.stderr
    (made,) = [json.loads(body) for path, body in engine.asked if path == "/containers/create"]
    host = made["HostConfig"]
    assert (made["Image"], made["Env"], made["StopTimeout"]) == ("agentmesh", ["A=b"], 45)
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Init"]) == (True, ["ALL"], True)
    assert (host["Memory"], host["NanoCpus"]) == (2 * 1024**3, 2 * 10**9)
    assert host["Tmpfs"] == {"/tmp": ""}
    assert host["Binds"] == ["agentmesh:/var/lib/agentmesh"]
    assert {port["HostIp"] for ports in host["PortBindings"].values() for port in ports} == {"127.0.0.1"}
    assert host["PortBindings"].keys() == {"8000/tcp", "50051/tcp"}


@pytest.mark.parametrize("block", STARTED[1:], ids=str)
def test_the_real_client_takes_another_command(block: Block, tmp_path: Path) -> None:
    (tmp_path / "mesh.env").write_text("A=b\n")
    with Engine() as engine:
        done = engine.run(["bash", "-euo", "pipefail", "-c", block.code], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "/containers/made/start" in dict(engine.asked)


def test_every_service_profile_and_file_of_a_command_is_there() -> None:
    commands = re.findall(r"docker compose ([^`\n|<>]+)", COMPOSE)
    assert len(commands) > 12
    services = {*DOCUMENT["services"], "agentmesh"}
    profiles = {name for service in DOCUMENT["services"].values() for name in service.get("profiles", [])}
    for command in commands:
        assert set(re.findall(r"--file (\S+)", command)) <= {file.name for file in FOLDER.glob("*.yaml")}
        assert set(re.findall(r"--profile (\S+)", command)) <= profiles
        assert set(re.findall(r"--scale ([\w-]+)=", command)) <= services
        action, *words = re.sub(r"--(file|profile|env|scale)[= ]\S+( secrets/\S+)?", "", command).split()
        plain = [word for word in words if not word.startswith("-")]
        if action == "exec":
            assert plain[0] in services, command
        elif action in ("logs", "restart", "stop", "up"):
            assert set(plain) <= services, command


def test_ports_variables_and_secrets_are_those_of_the_file() -> None:
    text = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
    variables = dict(re.findall(r"\$\{(\w+):-([^}]+)\}", text))
    (table,) = re.findall(r"\| variable \| default \|\n((?:\|.*\n)+)", COMPOSE)
    told = {
        name: default.split(";")[0].strip(" `")
        for names, defaults in re.findall(r"^\| (`.*`) \| (.*) \|$", table, re.MULTILINE)
        for name, default in zip(re.findall(r"`(\w+)`", names), _each(defaults, names), strict=True)
    }
    assert told == variables
    for name in ("GRAFANA_PORT", "PROMETHEUS_PORT"):
        assert f"http://127.0.0.1:{variables[name]}" in COMPOSE
    assert {secret["file"].removeprefix("secrets/") for secret in DOCUMENT["secrets"].values()} <= set(
        re.findall(r"`([a-z_.]+)`", COMPOSE)
    )


def test_the_override_and_a_configuration_of_ones_own_are_valid(tmp_path: Path) -> None:
    (block,) = [block for block in blocks_of(PAGES[1]) if block.language == "yaml"]
    override = yaml.safe_load(block.code)["services"]
    make_secrets(tmp_path / "secrets")
    copy = tmp_path / "config.yaml"
    provider = '{name: mine, base_url: "https://m.example/v1", api_key: "${OPENAI_API_KEY}", models: [a]}'
    models = f"  llm:\n    providers: [{provider}]\n"
    copy.write_text((ROOT / "configs" / "environments" / "production.yaml").read_text() + models)
    (tmp_path / "secrets" / "openai_api_key").write_text("a-key-of-mine\n")
    for name, changes in override.items():
        environment = environment_of(DOCUMENT["services"][name], tmp_path / "secrets")
        environment |= {
            key: str(copy) if key == "AGENTMESH_CONFIG" else text for key, text in changes["environment"].items()
        }
        unused = config.UNUSED_BY.get(role_of(DOCUMENT["services"][name]), ())
        settings = config.load(environ=environment, unused=unused)
        if name == "llm-proxy":
            assert settings.llm.providers[0].api_key.get_secret_value() == "a-key-of-mine"  # type: ignore[union-attr]
        else:
            assert settings.runner.hosts == 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files_that_are_there(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert targets
    assert [target for target in targets if not (page.parent / target).exists()] == []


def _each(defaults: str, names: str) -> list[str]:
    """Return one default for each name of a row."""
    count = names.count("`") // 2
    return [text.strip() for text in defaults.split(",")] if count > 1 else [defaults]
