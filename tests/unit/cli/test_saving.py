"""Artifact names are a stranger's: none leaves the folder, none replaces a file."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.api.types.v1 import types_pb2
from agentmesh.cli.saving import numbered, safe_name, save_all
from agentmesh.client import AsyncClient

HOSTILE = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/../..",
    "..\\..\\x",
    "C:\\Windows\\x.dll",
    "\x00",
    "~/.ssh",
]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("report.md", "report.md"),
        ("../../etc/passwd", "passwd"),
        ("..\\evil.exe", "evil.exe"),
        (".bashrc", "bashrc"),
        ("a/b/", "b"),
        ("con", "_con"),
        ("NUL.txt", "_NUL.txt"),
        ("a:b?.txt", "a_b_.txt"),
        ("übung.csv", "übung.csv"),
        ("\u202egnp.exe", "gnp.exe"),
        ("...", "artifact"),
    ],
)
def test_name_keeps_what_is_harmless(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@given(st.text(max_size=400) | st.sampled_from(HOSTILE))
def test_no_name_leaves_its_folder(name: str) -> None:
    safe = safe_name(name)
    assert safe
    assert Path(safe).name == safe
    assert "\\" not in safe
    assert not safe.startswith(".")
    assert len(safe.encode()) <= 155
    assert safe_name(safe) == safe


def test_numbers_go_before_the_suffix() -> None:
    assert [numbered("a.md", n) for n in (1, 2, 3)] == ["a.md", "a-2.md", "a-3.md"]
    assert numbered("README", 2) == "README-2"


async def test_saving_never_overwrites_and_makes_no_folder_for_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    parts = [types_pb2.Part(text="new")]
    artifacts = [types_pb2.Artifact(artifact_id=str(n), name="../a.txt", parts=parts) for n in (1, 2, 2)]
    async with AsyncClient("127.0.0.1:1") as client:
        assert await save_all(client, [], folder) == []
        assert not folder.exists()
        folder.mkdir()
        (folder / "a.txt").write_text("old")
        saved = await save_all(client, artifacts, folder)
    assert [path.name for _, path in saved] == ["a-2.txt", "a-3.txt"]
    assert (folder / "a.txt").read_text() == "old"
    assert saved[0][1].read_text() == "new"


async def test_a_link_planted_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a.txt").symlink_to(target)
    artifact = types_pb2.Artifact(artifact_id="1", name="a.txt", parts=[types_pb2.Part(text="x")])
    async with AsyncClient("127.0.0.1:1") as client:
        await save_all(client, [artifact], folder)
    assert not target.exists()
