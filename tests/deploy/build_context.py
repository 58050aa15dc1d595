"""What a build's context holds: by the rules of .dockerignore, and by what the real client sends to an engine."""

import fnmatch
import http.server
import io
import os
import re
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

_TIMEOUT_S = 30


def files_of(root: Path) -> Iterator[Path]:
    """Yield the files that .dockerignore lets into the context, relative to `root`; the last rule that fits wins."""
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [(not line.startswith("!"), _pattern(line.removeprefix("!"))) for line in lines if _is_rule(line)]
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in (".git", ".venv", "__pycache__")]
        for name in files:
            path = (Path(folder) / name).relative_to(root)
            whole = [str(path), *map(str, path.parents[:-1])]
            outside = False
            for excludes, pattern in rules:
                if any(pattern.fullmatch(part) for part in whole):
                    outside = excludes
            if not outside:
                yield path


def _is_rule(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _pattern(rule: str) -> re.Pattern[str]:
    rule = rule.strip().strip("/")
    parts = [".*" if part == "**" else fnmatch.translate(part)[4:-3].replace(".*", "[^/]*") for part in rule.split("/")]
    return re.compile("/".join(parts).replace(".*/", "(?:.*/)?"))


def sent_by_client(docker: str, root: Path, dockerfile: Path) -> set[str]:
    """Return the files that `docker build` sends, as an engine that only listens sees them."""
    with _Engine() as engine:
        command = [docker, "build", "--file", str(dockerfile), str(root)]
        environment = {**os.environ, "DOCKER_HOST": engine.address, "DOCKER_BUILDKIT": "0"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        assert engine.context, done.stderr
        with tarfile.open(fileobj=io.BytesIO(engine.context)) as archive:
            return {member.name for member in archive if member.isfile()}


class _Engine:
    """Takes the context of one build and builds nothing."""

    def __init__(self) -> None:
        self.context = b""
        engine = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(b"")

            def do_GET(self) -> None:
                self._answer(b"{}")

            def do_POST(self) -> None:
                engine.context = self._body()
                self._answer(b'{"stream":"Successfully built 0"}\n')

            def _body(self) -> bytes:
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Api-Version", "1.44")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"tcp://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "_Engine":
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
