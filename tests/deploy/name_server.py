"""A name server for tests, and replicas of something that serves HTTP, at addresses of their own."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_A, _IN = b"\x00\x01", b"\x00\x01"


class NameServer:
    """Answers for `addresses`, which may change; use it as `with NameServer() as names:`."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "NameServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, sender = self._socket.recvfrom(4096)
            if not query:
                return
            self._socket.sendto(self._answer(query), sender)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        end = at + 5
        known = self.addresses.get(".".join(labels).lower(), [])
        found = known if query[at + 1 : at + 3] == _A else []
        records = [b"\xc0\x0c" + _A + _IN + bytes((0, 0, 0, 1, 0, 4)) + socket.inet_aton(one) for one in found]
        # Authoritative, and without an error; for a name that is not known, that there is none.
        flags = b"\x84\x00" if known else b"\x84\x03"
        counts = b"\x00\x01" + len(records).to_bytes(2, "big") + bytes(4)
        return query[:2] + flags + counts + query[12:end] + b"".join(records)


class _Replica(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    let_go: threading.Event

    def do_GET(self) -> None:
        """Say which one answers; for /slow, twice, the second time when it is let go."""
        body = f"{self.server.server_address[0]}\n".encode()
        times = 2 if self.path == "/slow" else 1
        self.send_response(200)
        self.send_header("content-length", str(len(body) * times))
        self.end_headers()
        self.wfile.write(body)
        if times == 2:
            self.let_go.wait(60)
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def replicas(port: int, *addresses: str) -> Iterator[threading.Event]:
    """Serve at the same port of several addresses of this machine; yield what lets slow answers end."""
    handler = type("Replica", (_Replica,), {"let_go": threading.Event()})
    with ExitStack() as stack:
        for address in addresses:
            server = stack.enter_context(ThreadingHTTPServer((address, port), handler))
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
        yield handler.let_go
