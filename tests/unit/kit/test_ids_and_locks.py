import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from agentmesh.kit.errors import WrongState
from agentmesh.kit.folder_lock import FolderLock
from agentmesh.kit.ids import incarnation_of, is_id, new_id


@pytest.mark.parametrize("shard", [0, 7, 255])
def test_an_id_is_a_uuid_7_with_its_shard(shard: int) -> None:
    parsed = uuid.UUID(new_id(shard))
    assert (parsed.version, parsed.variant, parsed.bytes[9]) == (7, uuid.RFC_4122, shard)
    assert str(parsed) == str(parsed).lower()


def test_ids_are_all_different_and_sort_by_time() -> None:
    ids = [new_id() for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert [i[:13] for i in ids] == sorted(i[:13] for i in ids)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "../../etc/passwd",
        "{" + "0" * 36 + "}",
        "0" * 32,
        "0" * 36,
        "urn:uuid:29a1950d-56e1-4a2f-9387-282c544883c9",
    ],
)
def test_only_the_canonical_form_is_an_id(text: str) -> None:
    assert not is_id(text)
    assert not is_id(str(uuid.uuid4()).upper())
    assert is_id(str(uuid.uuid4()))


def test_incarnations_keep_the_name_and_differ() -> None:
    first, second = incarnation_of("runner-1"), incarnation_of("runner-1")
    assert first != second
    assert first.partition("~")[0] == second.partition("~")[0] == "runner-1"


def test_a_folder_is_held_by_one_process_and_free_when_that_is_gone(tmp_path: Path) -> None:
    code = (
        f"from agentmesh.kit.folder_lock import FolderLock; FolderLock(__import__('pathlib').Path({str(tmp_path)!r}))"
    )
    lock = FolderLock(tmp_path)
    with pytest.raises(WrongState) as refused:
        FolderLock(tmp_path)
    assert refused.value.reason == "DATA_DIR_IN_USE"
    other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, timeout=30, check=False)
    assert other.returncode != 0
    lock.release()
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=30, check=True)
    FolderLock(tmp_path).release()
