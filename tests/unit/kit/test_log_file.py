import os
from pathlib import Path

import pytest

from agentmesh.kit.log_file import LogFile


def write(file: LogFile, line: str) -> None:
    os.write(file.descriptor_for(len(line)), line.encode())


def kept(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_a_full_file_is_put_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "logs" / "router.log", max_bytes=10, backups=2)
    for line in ("1111\n", "2222\n", "3333\n", "4444\n", "5555\n", "6666\n", "7777\n"):
        write(file, line)
    assert kept(tmp_path / "logs") == {
        "router.log": "7777\n",
        "router.log.1": "5555\n6666\n",
        "router.log.2": "3333\n4444\n",
    }


def test_what_was_there_at_the_start_counts(tmp_path: Path) -> None:
    (tmp_path / "router.log").write_text("from before\n")
    write(LogFile(tmp_path / "router.log", max_bytes=10, backups=1), "new\n")
    assert kept(tmp_path) == {"router.log": "new\n", "router.log.1": "from before\n"}


def test_a_line_that_is_longer_than_a_file_may_be_is_written_whole(tmp_path: Path) -> None:
    write(LogFile(tmp_path / "router.log", max_bytes=10, backups=1), "a line of its own\n")
    assert kept(tmp_path) == {"router.log": "a line of its own\n"}


@pytest.mark.parametrize(("max_bytes", "backups", "left"), [(0, 5, "1111\n2222\n3333\n"), (10, 0, "3333\n")])
def test_a_file_without_a_bound_grows_and_one_without_backups_is_emptied(
    tmp_path: Path, max_bytes: int, backups: int, left: str
) -> None:
    file = LogFile(tmp_path / "router.log", max_bytes=max_bytes, backups=backups)
    for line in ("1111\n", "2222\n", "3333\n"):
        write(file, line)
    assert kept(tmp_path) == {"router.log": left}


def test_a_file_that_somebody_else_moved_away_is_begun_anew(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "router.log", max_bytes=0, backups=0)
    write(file, "1111\n")
    (tmp_path / "router.log").rename(tmp_path / "router.log-20260101")
    write(file, "2222\n")
    assert kept(tmp_path) == {"router.log-20260101": "1111\n", "router.log": "2222\n"}


def test_a_folder_in_which_nothing_can_be_renamed_costs_no_line(tmp_path: Path) -> None:
    (tmp_path / "router.log.1").mkdir()
    file = LogFile(tmp_path / "router.log", max_bytes=5, backups=1)
    write(file, "1111\n")
    write(file, "2222\n")
    assert (tmp_path / "router.log").read_text() == "1111\n2222\n"
