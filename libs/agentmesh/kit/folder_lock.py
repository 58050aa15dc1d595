"""One storage process per data folder, held by a lock that dies with the process."""

import os
from pathlib import Path

from agentmesh.kit.errors import WrongState


class FolderLock:
    """An exclusive lock on a folder; raises WrongState if another process holds it."""

    def __init__(self, folder: Path, name: str = "storage.lock") -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._handle = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(self._handle)
        except OSError as error:
            os.close(self._handle)
            raise WrongState(
                f"the data folder {folder} is in use by another mesh: stop that one or pass --data-dir",
                reason="DATA_DIR_IN_USE",
            ) from error

    def release(self) -> None:
        """Let the folder go."""
        os.close(self._handle)


if os.name == "nt":  # pragma: no cover - not run on the machines of the tests
    import msvcrt

    def _lock(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]

else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
