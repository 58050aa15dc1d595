"""`config`, `migrate`, `doctor`, `debug` and `version`: what they find, and what they say to do."""

import json
import os
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentmesh import __version__
from agentmesh.cli.config_check import config
from agentmesh.cli.debug import debug
from agentmesh.cli.doctor import doctor
from agentmesh.cli.migrate import commands_for, migrate
from agentmesh.cli.version import version
from agentmesh.kit.errors import WrongState


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("AGENTMESH_", "OPENAI_", "DATABASE_", "REDIS_")) or name == "ENVIRONMENT":
            monkeypatch.delenv(name)


def test_config_check_names_every_fault_and_exits_with_2(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("environment: development\ndevelopment:\n  datebase: {}\n  api: {port: x}\n")
    result = CliRunner().invoke(config, ["check", "--config", str(file)])
    assert result.exit_code == 2
    assert "development.datebase" in result.stderr
    assert "development.api.port" in result.stderr
    listed = json.loads(CliRunner().invoke(config, ["check", "--json", "--config", str(file)]).stdout)
    assert listed["valid"] is False
    assert len(listed["errors"]) == 2


def test_config_show_masks_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "CANARY-KEY")
    result = CliRunner().invoke(config, ["show", "--ports-from", "40000"])
    assert result.exit_code == 0
    assert "40000" in result.stdout
    assert "CANARY" not in result.output


def test_config_schema_is_json() -> None:
    assert json.loads(CliRunner().invoke(config, ["schema"]).stdout)["type"] == "object"


def test_migrate_applies_once_and_a_dry_run_applies_nothing(tmp_path: Path) -> None:
    def statuses(*arguments: str) -> set[str]:
        result = CliRunner().invoke(migrate, [*arguments, "--json", "--data-dir", str(tmp_path / "data")])
        assert result.exit_code == 0, result.output
        return {migration["status"] for migration in json.loads(result.stdout)["migrations"]}

    assert statuses("status") == {"pending"}
    assert statuses("up", "--dry-run") == {"pending"}
    assert statuses("up") == {"done"}
    assert statuses("up") == {"applied"}


def test_migrating_a_backend_that_is_not_installed_says_so() -> None:
    with pytest.raises(WrongState, match="install"):
        commands_for("nothing")


def test_doctor_says_how_to_start_what_is_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "service-token").write_text("secret")
    (folder / "service-token").chmod(0o644)
    arguments = ["--data-dir", str(folder), "--ports-from", str(_free_ports()), "--json"]
    result = CliRunner().invoke(doctor, arguments)
    report = json.loads(result.stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert (result.exit_code, report["ok"]) == (1, False)
    assert checks["python"]["status"] == "ok"
    assert checks["data folder"]["status"] == "ok"
    assert "chmod 600" in checks["service token"]["advice"]
    for role in ("router", "runner", "llm", "storage", "gateway"):
        assert checks[role]["status"] == "failed"
        assert "agentmesh up" in checks[role]["advice"]


def test_doctor_tells_a_stranger_at_a_port_from_a_service(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        result = CliRunner().invoke(doctor, ["--ports-from", str(port), "--data-dir", str(tmp_path), "--json"])
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert checks["router"]["status"] == "failed"
    assert "--ports-from" in checks["router"]["advice"]


def test_doctor_lists_the_faults_of_a_bad_configuration(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("environment: development\ndevelopment:\n  datebase: {}\n")
    result = CliRunner().invoke(doctor, ["--config", str(file)])
    assert result.exit_code == 1
    assert "development.datebase" in result.stdout


def test_debug_without_a_mesh_here_makes_no_secret(tmp_path: Path) -> None:
    result = CliRunner().invoke(debug, ["echo", "hi", "--data-dir", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "--data-dir" in result.stderr
    assert not (tmp_path / "none").exists()


def test_version_is_the_package_s() -> None:
    assert json.loads(CliRunner().invoke(version, ["--json"]).stdout)["agentmesh"] == __version__


def _free_ports() -> int:
    """Return the first of ten ports where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return min(port, 65000)
