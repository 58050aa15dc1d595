"""A real Prometheus with the shipped rules watches a live mesh on PostgreSQL and Redis; a failure reaches people."""

import base64
import re
import signal
import urllib.request
from collections.abc import Iterator

import pytest

from agentmesh.client import Client
from tests.deploy.declared import declared_labels
from tests.deploy.monitoring import ALERTS, asked_by_dashboards, asked_by_rules, rules
from tests.deploy.promql import read
from tests.deploy.watchtower import PASSWORD, Watchtower
from tests.support.mesh import Mesh
from tests.support.postgres import Postgres
from tests.support.redis import RedisServer

_DEPLOYED_AS = {
    "router": "router",
    "runner": "agent-runner",
    "llm": "llm-proxy",
    "storage": "storage",
    "gateway": "gateway",
}
_RECORDED = {rule["record"] for rule in rules("recording.yml")}
# Nobody waited for a provider.
_RECORDED_OF_WORK = sorted(_RECORDED - {"provider:llm_wait_seconds:p95_5m"})
# Prometheus gives them to all that it scrapes.
_GIVEN = frozenset({"job", "instance"})
# What other tests do to the machine: they keep it busy, and write to its disk.
_BUSY = {"SubmitSlow", "StorageCommitSlow", "GatewaySlow", "FirstTokenSlow", "TasksWaitLong", "ModelCallsWait"}
_BUSY |= {"DiskFillsSoon"}
_SUFFIXES = {
    "counter": ("",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
    "summary": ("_count", "_sum"),
}


@pytest.fixture(scope="module")
def mesh(postgres: Postgres, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    url = postgres.new_database()
    environment = {
        "DATABASE_URL": url,
        "AGENTMESH_DATABASE__CREATE_TABLES": "true",
        "REDIS_URL": redis_server.url(),
        "AGENTMESH_CACHE__BACKEND": "redis",
        "AGENTMESH_MONITORING__ALERTS": "true",
        "AGENTMESH_API__WORKERS": "2",
    }
    with Mesh(tmp_path_factory.mktemp("mesh"), environment=environment) as running:
        work(running, "about tea")
        yield running
    postgres.drop(url)


@pytest.fixture(scope="module")
def tower(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watchtower]:
    targets = {job: mesh.events[-1]["services"][role]["metrics"] for role, job in _DEPLOYED_AS.items()}
    with Watchtower(tmp_path_factory.mktemp("tower"), targets) as running:
        running.until(lambda: len(running.values("up == 1")) == 6, timeout_s=20)
        work(mesh, "about coffee")  # rates need a before and an after
        running.until(lambda: not _unrecorded(running), timeout_s=20, or_say=lambda: f"no {_unrecorded(running)}")
        yield running


def _unrecorded(tower: Watchtower) -> list[str]:
    return [record for record in _RECORDED_OF_WORK if not tower.values(f"{record} >= 0")]


def work(mesh: Mesh, topic: str) -> None:
    """Run a task, and one that asks a model what it was not asked before; look at the agents over HTTP."""
    with Client(mesh.router) as client:
        for agent in ("echo", "content_generation"):
            assert client.run(agent, topic).completed
    with urllib.request.urlopen(f"http://{mesh.address('gateway')}/v1/agents", timeout=5) as answer:
        assert answer.status == 200


def exported(tower: Watchtower) -> set[str]:
    """Return the names of all samples that Prometheus scrapes, of metrics that nothing was counted in too."""
    found = set()
    for target in tower.ask("targets")["activeTargets"]:
        with urllib.request.urlopen(target["scrapeUrl"], timeout=5) as answer:
            for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", answer.read().decode(), re.MULTILINE):
                found |= {name + suffix for suffix in _SUFFIXES[kind]}
    return found | {"up"}


def test_every_service_of_a_live_mesh_is_scraped(tower: Watchtower) -> None:
    def up() -> dict[str, float]:
        return {dict(labels)["job"]: value for labels, value in tower.values("up").items()}

    tower.until(lambda: len(up()) == 6, timeout_s=20)
    assert up() == dict.fromkeys([*_DEPLOYED_AS.values(), "prometheus"], 1.0)
    for target in tower.ask("targets")["activeTargets"]:
        assert (target["health"], target["lastError"]) == ("up", "")


def test_every_rule_is_evaluated_without_error(tower: Watchtower) -> None:
    def found() -> list[dict[str, str]]:
        return [rule for group in tower.ask("rules")["groups"] for rule in group["rules"]]

    tower.until(lambda: all(rule["health"] != "unknown" for rule in found()), timeout_s=20)
    assert {rule["name"]: rule.get("lastError", "") for rule in found()} == {
        rule.get("record") or rule["alert"]: "" for file in ("recording.yml", "alerts.yml") for rule in rules(file)
    }
    assert all(rule["health"] == "ok" for rule in found())


def test_what_is_recorded_is_what_the_mesh_did(tower: Watchtower, mesh: Mesh) -> None:
    def counted(expression: str) -> float:
        return sum(tower.values(expression).values())

    for expression in (
        'agent:agent_requests:rate5m{agent_type="echo", status="completed"}',
        'provider:llm_api_calls:rate5m{provider="offline", status="success"}',
        "mesh:calls:rate5m",
    ):
        assert counted(expression) > 0, expression
    assert counted('agent_requests_total{agent_type="echo", status="completed"}') == 2
    assert counted("mesh:errors:ratio_rate5m") == 0
    assert counted("provider:llm_api_errors:ratio_rate5m") == 0
    assert 0 < counted("mesh:accept_delay_seconds:p99_5m") < 60
    for metric in ("agent_request_duration_seconds_count", "agent_active_tasks", "llm_api_calls_total"):
        assert tower.values(metric)


def test_every_metric_that_rules_and_dashboards_ask_for_is_exported_by_a_running_service(tower: Watchtower) -> None:
    known = exported(tower) | _RECORDED | {ALERTS}
    missing = {
        f"{asked}: {metric}"
        for asked in asked_by_rules() + asked_by_dashboards()
        for metric in read(asked.expression).metrics - known
    }
    assert not missing


def test_every_label_that_is_matched_grouped_or_shown_is_there(tower: Watchtower) -> None:
    declared = declared_labels()
    assert len(declared) > 30
    wrong, unseen = set(), set()
    for asked in asked_by_rules() + asked_by_dashboards():
        query = read(asked.expression)
        labels = set(_GIVEN)
        whole = ALERTS not in query.metrics
        for metric, matched in query.selectors:
            series = tower.ask("series", **{"match[]": metric})
            base = metric.removesuffix("_bucket")
            own = {name for one in series for name in one} or declared.get(base, frozenset()) | _GIVEN
            if not series and base not in declared:
                unseen.add(metric)
                whole = False
                continue
            labels |= own
            wrong |= {f"{asked}: {metric} has no label {name}" for name in matched - own}
        if whole:
            wrong |= {f"{asked}: no label {name}" for name in (query.grouped | asked.shown) - labels - {"le"}}
    assert not wrong
    assert unseen <= {ALERTS, *_RECORDED.difference(_RECORDED_OF_WORK)}


def test_prometheus_evaluates_every_expression_and_shows_the_labels_that_are_named(tower: Watchtower) -> None:
    answered = 0
    for asked in asked_by_rules() + asked_by_dashboards():
        result = tower.values(asked.expression)
        answered += bool(result)
        for labels in result:
            assert asked.shown - _GIVEN <= {name for name, _ in labels}, asked
    assert answered > 80


def test_no_alert_fires_while_the_mesh_is_well_even_without_its_patience(tower: Watchtower) -> None:
    firing = {alert["labels"]["alertname"] for alert in tower.ask("alerts")["alerts"]}
    assert firing <= _BUSY
    told = [attachment["title"] for message in tower.slack.messages for attachment in message["attachments"]]
    assert {title.split()[2] for title in told} <= _BUSY, told


# The mesh isn't well from here on.
def test_redis_that_is_away_is_a_warning_in_slack_and_no_mail(tower: Watchtower, redis_server: RedisServer) -> None:
    redis_server.freeze()
    try:
        tower.until(lambda: "RedisDown" in str(tower.slack.messages), timeout_s=40)
    finally:
        redis_server.thaw()
    assert not any("Redis" in letter for letter in tower.mailbox.letters)


def test_a_frozen_storage_is_told_by_mail_and_slack(tower: Watchtower, mesh: Mesh) -> None:
    mesh.signal("storage", signal.SIGSTOP)
    try:
        tower.until(lambda: any("ServiceDown" in letter for letter in tower.mailbox.letters), timeout_s=40)
        tower.until(lambda: any("ServiceDown" in str(message) for message in tower.slack.messages), timeout_s=20)
    finally:
        mesh.signal("storage", signal.SIGCONT)
    letter = next(letter for letter in tower.mailbox.letters if "ServiceDown" in letter)
    assert "Subject: Agent mesh alert: ServiceDown (firing)" in letter
    assert "To: admin@your-domain.com" in letter
    assert "Alert: No storage answers" in letter
    assert "docs/operations.md#servicedown" in letter
    assert PASSWORD in base64.b64decode(tower.mailbox.logins[0]).decode()
    (attachment,) = next(m for m in tower.slack.messages if "ServiceDown" in str(m))["attachments"]
    assert attachment["title"] == "Agent mesh: ServiceDown (firing)"
    assert "No storage answers" in attachment["text"]
    tower.until(lambda: any("resolved" in letter for letter in tower.mailbox.letters), timeout_s=40)
