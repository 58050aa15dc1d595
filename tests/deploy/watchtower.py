"""Real Prometheus and Alertmanager on the shipped files, and a mail server and a Slack of ours that get the alerts."""

import copy
import http.server
import json
import shutil
import socketserver
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import yaml

from tests.deploy.monitoring import MONITORING, RULES, load
from tests.support.daemon import Daemon
from tests.support.deploy_tools import tool
from tests.support.ports import free_ports

_START_S = 20.0


class Watchtower:
    """Prometheus over `targets` (address by job) and Alertmanager; use it as `with Watchtower(...) as tower:`.

    Their configurations are those of deploy/monitoring but for three things: where the services are found, how often
    is looked, and how long is waited before somebody is told.
    """

    def __init__(self, folder: Path, targets: Mapping[str, str]) -> None:
        self._folder, self._targets = folder, targets
        first = free_ports()
        self.address, self._alertmanager = f"127.0.0.1:{first}", f"127.0.0.1:{first + 1}"
        self._stack = ExitStack()
        self.mailbox, self.slack = Mailbox(), Slack()

    def __enter__(self) -> Self:
        try:
            for server in (self.mailbox, self.slack):
                self._stack.enter_context(server)
            self._start("alertmanager", self._alertmanager, self._alertmanager_words())
            self._start("prometheus", self.address, self._prometheus_words())
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of Prometheus' answer; raise HTTPError if it refuses."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def values(self, expression: str) -> dict[frozenset[tuple[str, str]], float]:
        """Return what an expression comes to now, by labels."""
        result = self.ask("query", query=expression)["result"]
        return {frozenset(one["metric"].items()): float(one["value"][1]) for one in result}

    def until(
        self, holds: Callable[[], bool], *, timeout_s: float, or_say: Callable[[], str] = lambda: "it does not hold"
    ) -> None:
        """Wait until something holds; raises TimeoutError with what is the matter, and the ends of the logs."""
        try:
            self._daemons["prometheus"].until(holds, timeout_s=timeout_s)
        except TimeoutError as late:
            raise TimeoutError(f"{or_say()}\n{self.logs}") from late

    @property
    def logs(self) -> str:
        """Return the ends of both logs."""
        return "\n".join(daemon.tail() for daemon in self._daemons.values())

    _daemons: dict[str, Daemon]

    def _start(self, name: str, address: str, words: list[str]) -> None:
        command = [str(tool(name)), *words, f"--web.listen-address={address}"]
        daemon = Daemon(command, log=self._folder / f"{name}.log", folder=self._folder)
        self._daemons = {**getattr(self, "_daemons", {}), name: daemon}
        self._stack.callback(daemon.kill)
        daemon.start()
        daemon.until(lambda: _answers(f"http://{address}/-/ready"), timeout_s=_START_S)

    def _prometheus_words(self) -> list[str]:
        config = load(MONITORING / "prometheus.yml")
        config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [self._alertmanager]
        for job in config["scrape_configs"]:
            job.pop("dns_sd_configs", None)
            address = self.address if job["job_name"] == "prometheus" else self._targets[job["job_name"]]
            job["static_configs"] = [{"targets": [address]}]
        shutil.copytree(RULES, self._folder / "rules", ignore=shutil.ignore_patterns("tests"))
        alerts = load(RULES / "alerts.yml")
        for group in alerts["groups"]:
            for rule in group["rules"]:
                rule.pop("for", None)
        _write(self._folder / "rules" / "alerts.yml", alerts)
        _write(self._folder / "prometheus.yml", config)
        return ["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn"]

    def _alertmanager_words(self) -> list[str]:
        config = copy.deepcopy(load(MONITORING / "alertmanager.yml"))
        for name, secret in (("smtp_auth_password_file", PASSWORD), ("slack_api_url_file", self.slack.url)):
            (self._folder / name).write_text(secret)
            config["global"][name] = str(self._folder / name)
        config["global"] |= {"smtp_smarthost": self.mailbox.address, "smtp_require_tls": False}
        config["route"] |= {"group_wait": "100ms", "group_interval": "1s"}
        _write(self._folder / "alertmanager.yml", config)
        return ["--config.file=alertmanager.yml", "--storage.path=alerts", "--cluster.listen-address="]


PASSWORD = "mail-password"


class Mailbox(socketserver.ThreadingTCPServer):
    """A mail server that keeps what it is sent, with the words of AUTH."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Smtp)
        self.letters: list[str] = []
        self.logins: list[str] = []

    @property
    def address(self) -> str:
        """Return host:port."""
        return f"127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Smtp(socketserver.StreamRequestHandler):
    server: Mailbox

    def handle(self) -> None:
        self._say("220 mailbox")
        while line := self.rfile.readline().decode().strip():
            match line.split()[0].upper():
                case "EHLO":
                    self._say("250-mailbox\r\n250 AUTH PLAIN")
                case "AUTH":
                    self.server.logins.append(line.split()[-1])
                    self._say("235 welcome")
                case "DATA":
                    self._say("354 go on")
                    letter = b""
                    while (part := self.rfile.readline()) != b".\r\n" and part:
                        letter += part
                    self.server.letters.append(letter.decode())
                    self._say("250 kept")
                case "QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 fine")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


class Slack(http.server.ThreadingHTTPServer):
    """Takes messages as Slack's incoming webhooks do."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hook)
        self.messages: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        """Return the webhook's address."""
        return f"http://127.0.0.1:{self.server_address[1]}/services/hook"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Hook(http.server.BaseHTTPRequestHandler):
    server: Slack
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.server.messages.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        return


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _write(path: Path, said: object) -> None:
    path.write_text(yaml.safe_dump(said, sort_keys=False))
