"""An engine for Docker's real client that only listens: it keeps what it is asked, and does nothing."""

import http.server
import io
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.support.needs import missing

_TIMEOUT_S = 30
_ANSWERS = {
    "/containers/create": (201, b'{"Id": "made"}'),
    "/start": (204, b""),
    "/build": (200, b'{"stream": "built"}'),
}


class Engine:
    """Use it in a `with`, and run the client with `docker`; `asked` has the paths and bodies of what it posted."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(200, b"")

            def do_GET(self) -> None:
                self._answer(200, b"{}")

            def do_POST(self) -> None:
                path = self.path.partition("?")[0].partition("/v1.")[2]
                path = path[path.find("/") :]
                asked.append((path, self._body()))
                ends = [answer for end, answer in _ANSWERS.items() if path.endswith(end)]
                self._answer(*(ends[0] if ends else (201, b'{"Name": "made"}')))

            def _body(self) -> bytes:
                if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Api-Version", "1.44")
                self.send_header("Content-Type", "application/json")
                if status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def run(self, command: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
        """Run a command whose `docker` speaks to this engine; without a client the test can't run."""
        if shutil.which("docker") is None:
            missing("the docker command", "install Docker's client; no engine is needed")
        address = f"tcp://127.0.0.1:{self._server.server_port}"
        return subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "DOCKER_HOST": address, "DOCKER_BUILDKIT": "0", "DOCKER_CONFIG": str(folder)},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )

    def context(self) -> set[str]:
        """Return the files of the context that it was sent."""
        (body,) = [body for path, body in self.asked if path == "/build"]
        with tarfile.open(fileobj=io.BytesIO(body)) as archive:
            return {member.name for member in archive if member.isfile()}
