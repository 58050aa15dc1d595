"""One container of the image as docs/deploy/docker.md starts it, as a process of this machine."""

import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

from agentmesh.kit import names
from tests.deploy.image import Image
from tests.support.daemon import Daemon
from tests.support.markdown import blocks_of
from tests.support.ports import free_ports, give_back

_READY_S = 60.0


class Container:
    """Runs the image's own command with the page's mesh.env; use it in a `with`."""

    def __init__(self, image: Image, folder: Path, page: Path) -> None:
        self._image = image
        (block,) = [block for block in blocks_of(page) if "cat > mesh.env" in block.code]
        subprocess.run(["bash", "-euo", "pipefail", "-c", block.code], cwd=folder, check=True, timeout=30)
        self.key = (folder / "client.key").read_text()
        self._first_port = free_ports()
        self.ports = {role: self._first_port + index for index, role in enumerate(names.ROLES)}
        self.variables = variables_of(folder / "mesh.env")
        self.variables["DATABASE_URL"] = self.variables["DATABASE_URL"].replace("/var/lib/agentmesh", str(image.data))
        for role, port in self.ports.items():
            self.variables[f"AGENTMESH_SERVICES__{role.upper()}__PORT"] = str(port)
            self.variables[f"AGENTMESH_SERVICES__{role.upper()}__METRICS_PORT"] = str(port + len(names.ROLES))
        path = image.environment()["PATH"]
        self._executable = shutil.which(image.command("ENTRYPOINT")[0], path=path) or ""
        self._daemon = Daemon(
            [self._executable, *image.command("CMD")],
            log=folder / "log",
            environment={**image.environment(), **self.variables},
            folder=image.data,
        )
        self.started = time.time()
        self.health_before_start = self._health()

    def __enter__(self) -> Self:
        try:
            self._daemon.start()
            self._daemon.until(lambda: "agentmesh is up" in self._daemon.tail(30), timeout_s=_READY_S)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def log(self) -> list[str]:
        """Return what it wrote to its console."""
        return self._daemon.log.read_text().splitlines()

    def stop(self) -> int:
        """Ask it to stop as an engine does, and return its exit code."""
        return self._daemon.end(getattr(signal, self._image.final.one("STOPSIGNAL").text), timeout_s=40)

    def close(self) -> None:
        """End it, whatever state it is in."""
        self._daemon.kill()
        give_back(self._first_port)

    def _health(self) -> int:
        command = [self._executable, *self._image.command("HEALTHCHECK")[1:]]
        environment = {**self._image.environment(), **self.variables}
        return subprocess.run(
            command, env=environment, cwd=self._image.data, capture_output=True, check=False, timeout=30
        ).returncode


def variables_of(file: Path) -> dict[str, str]:
    """Read a file as `--env-file` does: NAME=value, nothing quoted, nothing expanded."""
    lines = [line for line in file.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)
