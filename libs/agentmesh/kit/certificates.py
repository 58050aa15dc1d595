"""Watches the files of a server's certificate, so that a new one is shown without a restart."""

import ssl
from pathlib import Path

from agentmesh.kit import telemetry

log = telemetry.logger(__name__)


class CertificateFiles:
    """A certificate and its key, and who signs those of clients, if they must show one; PEM.

    They may be replaced one after the other: a pair that does not fit is passed over, and looked at again.
    """

    def __init__(self, cert: Path, key: Path, ca: Path | None = None) -> None:
        self.cert, self.key, self.ca = cert, key, ca
        self._seen = self._refused = self._look()

    def changed(self) -> bool:
        """Say whether there is a new pair that can be used, once for each."""
        now = self._look()
        if now in (self._seen, self._refused) or None in now:
            return False
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            log.warning("certificate_not_used", kind=type(error).__name__)
            self._refused = now
            return False
        self._seen = now
        log.info("certificate_renewed")
        return True

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        marks: list[tuple[int, int, int] | None] = []
        for file in filter(None, (self.cert, self.key, self.ca)):
            try:
                status = file.stat()
            except OSError:  # it is being replaced
                marks.append(None)
            else:
                marks.append((status.st_mtime_ns, status.st_ino, status.st_size))
        return tuple(marks)
