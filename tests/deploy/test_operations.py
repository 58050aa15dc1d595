"""docs/operations.md: what it tells to type is run, a backup is restored, and what it names is there."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentmesh.client import Client, Result
from tests.deploy import page_names
from tests.deploy.monitoring import MONITORING, ROOT, RULES
from tests.support.deploy_tools import tool
from tests.support.markdown import Block, blocks_of
from tests.support.mesh import Mesh
from tests.support.postgres import Postgres

_PAGE = ROOT / "docs" / "operations.md"
_TEXT = _PAGE.read_text(encoding="utf-8")
_BLOCKS = blocks_of(_PAGE)


def block(beginning: str) -> Block:
    """Return the one block that begins so."""
    (found,) = [block for block in _BLOCKS if block.code.startswith(beginning)]
    return found


CHECK = block("promtool check config")
DUMP, DUMP_BACK = block("pg_dump "), block("pg_restore ")
COPY, COPY_BACK = block("mkdir -p -m 700 backup\n"), block('mkdir -p -m 700 "$RESTORED_DIR"')


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who types a page's commands in a folder."""

    folder: Path
    path: tuple[Path, ...] = ()

    def run(self, block: Block, **environment: str) -> str:
        """Run a block as it stands; every command in it must succeed."""
        own = [str(folder) for folder in (*self.path, Path(sys.executable).parent)]
        known = {name: value for name, value in os.environ.items() if not name.startswith("AGENTMESH_")}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.code],
            cwd=self.folder,
            env={**known, **environment, "PATH": os.pathsep.join([*own, os.environ["PATH"]])},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def test_no_block_of_the_page_is_left_untried() -> None:
    assert _BLOCKS == [CHECK, DUMP, COPY, DUMP_BACK, COPY_BACK]


def test_changed_files_are_checked_as_the_page_says(tmp_path: Path) -> None:
    # The tests of the rules are all run by test_monitoring_files.py: one of them is enough here.
    others = [file.name for file in (RULES / "tests").glob("*.yml") if file.stem != "errors"]
    shutil.copytree(MONITORING, tmp_path / "deploy" / "monitoring", ignore=shutil.ignore_patterns(*others))
    for name in ("promtool", "amtool"):
        (tmp_path / name).symlink_to(tool(name))
    said = Reader(tmp_path, (tmp_path,)).run(CHECK)
    assert said.count("SUCCESS") == 6


def test_a_running_mesh_on_sqlite_is_backed_up_and_restored(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    data, restored = tmp_path / "data", tmp_path / "restored"
    with Mesh(data) as mesh:
        before = written(mesh)
        said = reader.run(COPY, AGENTMESH_DATA_DIR=str(data))
        after = written(mesh)
    assert said.split() == ["copied", "agentmesh.db", "copied", "llm.db"]
    said = reader.run(COPY_BACK, RESTORED_DIR=str(restored))
    assert "pending" not in said
    assert (restored / "service-token").read_text() == (data / "service-token").read_text()
    with Mesh(restored) as mesh:
        assert_kept(mesh, before, tmp_path)
        with Client(mesh.router) as client:
            assert after.task_id not in {task.id for task in client.list().tasks}
            assert client.run("echo", "and on").completed


def test_a_running_mesh_on_postgresql_is_dumped_and_restored(postgres: Postgres, tmp_path: Path) -> None:
    reader = Reader(tmp_path, (postgres.binaries,))
    url, restored = postgres.new_database(), postgres.new_database()
    with Mesh(tmp_path / "data", environment=_on(url)) as mesh:
        before = written(mesh)
        reader.run(DUMP, DATABASE_URL=url)
    said = reader.run(DUMP_BACK, RESTORED_URL=restored)
    assert "0001_tasks" in said
    assert "pending" not in said
    with Mesh(tmp_path / "other-data", environment=_on(restored)) as mesh:
        assert_kept(mesh, before, tmp_path)
    for name in (url, restored):
        postgres.drop(name)


def _on(url: str) -> Mapping[str, str]:
    return {"DATABASE_URL": url, "AGENTMESH_DATABASE__CREATE_TABLES": "true"}


def written(mesh: Mesh) -> Result:
    """Run a task that asks a model and leaves an artifact."""
    with Client(mesh.router) as client:
        result = client.run("content_generation", "about tea")
    assert result.completed
    assert result.artifacts
    return result


def assert_kept(mesh: Mesh, before: Result, folder: Path) -> None:
    """See that a task, its events and its artifact's bytes are what they were."""
    with Client(mesh.router) as client:
        after = client.result(before.task_id)
        assert (after.text, len(after.events)) == (before.text, len(before.events))
        (artifact,) = after.artifacts
        kept = client.download(artifact.artifact_id, folder / "kept")
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == artifact.sha256


def test_log_events_reasons_and_metrics_of_the_page_are_in_the_code() -> None:
    assert page_names.unknown_names(_TEXT) == []
    assert page_names.unknown_reasons(_TEXT, elsewhere=frozenset({"RESTORED_URL", "RESTORED_DIR"})) == []


def test_settings_and_variables_of_the_page_are_there() -> None:
    assert page_names.unknown_settings(_TEXT) == []
    assert page_names.unknown_variables(_TEXT) == []


def test_links_and_anchors_of_the_page_lead_somewhere() -> None:
    assert page_names.broken_links(_PAGE) == []
