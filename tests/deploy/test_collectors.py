"""The collectors of spans and log lines: their files hold together, and a service's lines are what Fluentd expects."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.deploy.monitoring import MONITORING, load
from tests.support.ports import free_ports


def test_the_collector_takes_spans_where_services_send_them_and_limits_its_memory_first() -> None:
    config = load(MONITORING / "otel-collector.yaml")
    assert config["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"] == "0.0.0.0:4317"
    service = config["service"]
    assert service["extensions"] == list(config["extensions"]) == ["health_check"]
    pipeline = service["pipelines"]["traces"]
    for kind in ("receivers", "processors", "exporters"):
        assert pipeline[kind] == list(config[kind]), kind
    assert pipeline["processors"] == ["memory_limiter", "batch"]
    assert config["exporters"]["otlp"]["endpoint"] == "${env:TRACES_ENDPOINT:-jaeger:4317}"


@dataclass(slots=True)
class Directive:
    """A section of Fluentd's configuration."""

    name: str
    pattern: str
    settings: dict[str, str] = field(default_factory=dict)
    inner: list["Directive"] = field(default_factory=list)

    def the(self, name: str, pattern: str = "") -> "Directive":
        """Return its one section of that name."""
        (found,) = [one for one in self.inner if (one.name, one.pattern) == (name, pattern)]
        return found


def read(text: str) -> Directive:
    """Return Fluentd's configuration; fail where sections don't balance or a line is none of its forms."""
    whole = Directive("", "")
    open_ = [whole]
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if line.startswith("#"):
            continue
        if end := re.fullmatch(r"</(\w+)>", line):
            assert open_.pop().name == end[1], line
        elif begin := re.fullmatch(r"<(\w+)(?: (\S+))?>", line):
            section = Directive(begin[1], begin[2] or "")
            open_[-1].inner.append(section)
            open_.append(section)
        else:
            setting = re.fullmatch(r"(@?\w+) (.+)", line)
            assert setting is not None, line
            assert setting[1] not in open_[-1].settings, line
            open_[-1].settings[setting[1]] = setting[2]
    assert open_ == [whole], f"<{open_[-1].name}> is not closed"
    return whole


@pytest.fixture(scope="module")
def fluentd() -> Directive:
    return read((MONITORING / "fluentd.conf").read_text())


def test_fluentd_takes_agents_lines_to_elasticsearch_and_keeps_them_in_a_bounded_file_meanwhile(
    fluentd: Directive,
) -> None:
    assert fluentd.the("source").settings == {"@type": "forward", "port": "24224", "bind": "0.0.0.0"}
    sent = fluentd.the("match", "agent.**")
    assert sent.settings["@type"] == "elasticsearch"
    assert (sent.settings["host"], sent.settings["port"]) == ("elasticsearch", "9200")
    assert sent.settings["index_name"] == "agent-logs"
    assert "type_name" not in sent.settings
    buffer = sent.the("buffer").settings
    assert buffer["@type"] == "file"
    assert buffer["path"] == "/var/log/fluentd-buffers/agent.buffer"
    assert (buffer["total_limit_size"], buffer["overflow_action"]) == ("1GB", "drop_oldest_chunk")
    # The first match takes a record: what takes everything comes last.
    assert [one.pattern for one in fluentd.inner if one.name == "match"] == ["agent.**", "**"]


@pytest.mark.parametrize("text", ["<a>\n<b>\n</a>\n</b>", "<a>", "</a>", "lonely", "<a>\nx 1\nx 2\n</a>"])
def test_a_configuration_that_does_not_hold_together_is_found(text: str) -> None:
    with pytest.raises((AssertionError, IndexError)):
        read(text)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a service writes to the console in a container, from its start to its end."""
    port = free_ports()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AGENTMESH_")},
        "AGENTMESH_LOGGING__CONSOLE": "true",
        "AGENTMESH_LOGGING__FILE": "false",
        "AGENTMESH_LOGGING__FORMAT": "json",
        "AGENTMESH_DATA_DIR": str(tmp_path_factory.mktemp("data")),
        "AGENTMESH_SERVICES__LLM__METRICS_PORT": str(port + 1),
    }
    command = [sys.executable, "-m", "agentmesh", "serve", "llm", "--port", str(port)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        try:
            said = [service.stderr.readline()]
            while '"started"' not in said[-1]:
                assert said[-1], said
                said.append(service.stderr.readline())
            service.send_signal(signal.SIGTERM)
            said += service.stderr.read().splitlines()
            assert service.wait(20) == 0
        finally:
            service.kill()
    return [line for line in said if line.strip()]


def test_a_services_lines_are_what_fluentds_filter_reads(fluentd: Directive, lines: list[str]) -> None:
    parser = fluentd.the("filter", "agent.**")
    assert (parser.settings["key_name"], parser.settings["emit_invalid_record_to_error"]) == ("log", "false")
    parse = parser.the("parse").settings
    assert parse["@type"] == "json"
    # Ruby's %N are the digits of a second that Python calls %f; both read Z by %z.
    time_format = parse["time_format"].replace("%N", "%f")
    assert len(lines) >= 2
    for line in lines:
        record = json.loads(line)
        assert {"event", "level", parse["time_key"], "service", "module"} <= set(record), line
        moment = datetime.strptime(record[parse["time_key"]], time_format).astimezone(UTC)
        assert timedelta(0) <= datetime.now(UTC) - moment < timedelta(minutes=2)
        assert record["service"] == "llm"
    assert [json.loads(line)["event"] for line in lines][-1] == "stopped"


def test_no_other_file_lies_in_the_folder_that_nothing_reads() -> None:
    known = {"prometheus.yml", "alertmanager.yml", "otel-collector.yaml", "fluentd.conf", "rules", "grafana"}
    assert {path.name for path in Path(MONITORING).iterdir()} == known
