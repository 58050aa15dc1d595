"""A child process under a test's control, which is gone when the test process is, however that went."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

# Waits until the test process closes its end, by intent or by dying, and then kills what it is told.
_TETHER = 'read -r _; kill -9 "$1"'
_POLL_S = 0.02
_FREEZE_S = 5.0


# Not by subprocess's own `user`: with that it forks instead of vforking, and a fork beside the threads of gRPC may die.
_AS_USER = (
    "import os, sys; user = int(sys.argv[1]); os.setgroups([]); os.setgid(user); os.setuid(user); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


def as_user(user: int | None, command: Sequence[str]) -> list[str]:
    """Return the command that runs a command as another user; the command itself for None."""
    return list(command) if user is None else [sys.executable, "-I", "-S", "-c", _AS_USER, str(user), *command]


class Daemon:
    """A process that can be started again and again with the same command; its output goes to `log`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        user: int | None = None,
        folder: Path | None = None,
    ) -> None:
        self.command = as_user(user, command)
        self.name = Path(command[0]).name
        self.log = log
        self.environment = environment
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._tether: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it must not be running."""
        assert not self.running, f"{self.name} is running"
        self._let_go()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,
            )
        tether = ["/bin/sh", "-c", _TETHER, "tether", str(self._process.pid)]
        # In a session of its own: what ends the test's whole group must not end this too.
        self._tether = subprocess.Popen(
            tether, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )

    @property
    def pid(self) -> int:
        """Return the process id that it has now."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it runs; a frozen one does."""
        return self._process is not None and self._process.poll() is None

    def family(self) -> list[psutil.Process]:
        """Return the process and what it started, if it runs."""
        try:
            process = psutil.Process(self.pid)
            return [process, *process.children(recursive=True)] if self.running else []
        except psutil.NoSuchProcess:
            return []

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def freeze(self) -> None:
        """Stop it and its children in the middle of what they do; returns when they stand still."""
        end = time.monotonic() + _FREEZE_S
        stopped: set[psutil.Process] = set()
        # Whoever still moves may start another one, until it stands still too.
        while (moving := [one for one in self.family() if _moves(one)]) and time.monotonic() < end:
            for process in moving:
                if process not in stopped:
                    stopped.add(process)
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.suspend()
            time.sleep(_POLL_S / 10)

    def thaw(self) -> None:
        """Let them go on."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def kill(self) -> None:
        """Kill it and its children with SIGKILL, and wait for its end."""
        if self._process is None:
            return
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGSTOP)  # so that it starts no child meanwhile
        family = self.family()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(10)
        psutil.wait_procs(family, timeout=10)
        self._let_go()

    def end(self, number: signal.Signals = signal.SIGTERM, *, timeout_s: float = 20.0) -> int:
        """Send a signal, wait for the end, return the exit code; raises subprocess.TimeoutExpired."""
        self.send(number)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float) -> int:
        """Wait for its end and return the exit code; raises subprocess.TimeoutExpired."""
        assert self._process is not None
        code = self._process.wait(timeout_s)
        self._let_go()
        return code

    def until(self, holds: Callable[[], bool], *, timeout_s: float) -> None:
        """Wait until something holds; raises TimeoutError with the end of the log, also when the process ends."""
        end = time.monotonic() + timeout_s
        while not holds():
            if not self.running:
                raise TimeoutError(f"{self.name} ended with {self.wait(1)}: {self.tail()}")
            if time.monotonic() > end:
                raise TimeoutError(f"{self.name} is not ready after {timeout_s} s: {self.tail()}")
            time.sleep(_POLL_S)

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _let_go(self) -> None:
        """End the tether of a process that is gone."""
        tether, self._tether = self._tether, None
        if tether is not None:
            tether.kill()
            tether.wait()
            assert tether.stdin is not None
            tether.stdin.close()


def _moves(process: psutil.Process) -> bool:
    try:
        return process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
