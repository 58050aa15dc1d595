"""What deploy/monitoring says, read by the tools that will read it, and held against the runbooks."""

import json
import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.monitoring import ALERTS, DASHBOARDS, MONITORING, ROOT, RULES, asked_by_rules, load, panels, rules
from tests.deploy.promql import NotUnderstood, read
from tests.support.deploy_tools import tool

_OPERATIONS = ROOT / "docs" / "operations.md"
_SERVICES = {"router": 9090, "agent-runner": 9091, "llm-proxy": 9092, "storage": 9093, "gateway": 9094}


def _run(name: str, *words: str | Path) -> str:
    done = subprocess.run([tool(name), *words], cwd=MONITORING, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_its_configuration_and_rules() -> None:
    said = _run("promtool", "check", "config", "--lint=all", "--lint-fatal", "prometheus.yml")
    assert "prometheus.yml is valid" in said
    _run("promtool", "check", "rules", "--lint=all", "--lint-fatal", "rules/recording.yml", "rules/alerts.yml")


def test_prometheus_finds_every_service_by_its_dns_name() -> None:
    config = load(MONITORING / "prometheus.yml")
    found = {}
    for job in config["scrape_configs"]:
        for search in job.get("dns_sd_configs", ()):
            assert (search["names"], search["type"]) == ([job["job_name"]], "A")
            found[job["job_name"]] = search["port"]
    assert found == _SERVICES
    assert config["rule_files"] == ["rules/recording.yml", "rules/alerts.yml"]


@pytest.mark.parametrize("file", sorted((RULES / "tests").glob("*.yml")), ids=lambda file: file.stem)
def test_alerts_fire_and_stay_silent_as_their_tests_say(file: Path) -> None:
    assert "SUCCESS" in _run("promtool", "test", "rules", file)


def test_every_alert_has_a_test_that_sees_it_silent_and_one_that_sees_it_fire() -> None:
    fired: dict[str, list[set[str]]] = defaultdict(list)
    silent: set[str] = set()
    for file in (RULES / "tests").glob("*.yml"):
        for case in load(file)["tests"]:
            for check in case["promql_expr_test"]:
                match = re.fullmatch(rf'{ALERTS}{{alertname="(\w+)", alertstate="firing"}}', check["expr"])
                assert match is not None, f"{file.name}: {check['expr']}"
                assert match[1] == case["name"]
                if not check["exp_samples"]:
                    silent.add(match[1])
                for sample in check["exp_samples"]:
                    fired[match[1]].append(set(re.findall(r'(\w+)="', sample["labels"])))
    alerts = {rule["alert"] for rule in rules("alerts.yml")}
    assert set(fired) == silent == alerts
    # A label that a text names and an alert has not would be an empty place in a message.
    for asked in asked_by_rules():
        for labels in fired.get(asked.place.removeprefix("alerts.yml: "), ()):
            assert asked.shown <= labels, f"{asked}: {asked.shown - labels}"


@pytest.mark.parametrize("rule", rules("alerts.yml"), ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_how_bad_it_is_and_has_a_runbook(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert {"summary", "description", "runbook_url"} == set(rule["annotations"])
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert ROOT / page == _OPERATIONS
    section = _sections(_OPERATIONS).get(anchor)
    assert section is not None, f"docs/operations.md has no heading {rule['alert']}"
    assert anchor == rule["alert"].lower()
    for part in ("Means", "Look", "Do"):
        assert f"**{part}:**" in section, f"{rule['alert']} does not say what to do: {part}"


def test_no_runbook_is_left_of_an_alert_that_is_gone() -> None:
    alerts = {rule["alert"].lower() for rule in rules("alerts.yml")}
    assert {anchor for anchor, text in _sections(_OPERATIONS).items() if "**Means:**" in text} == alerts


def _sections(page: Path) -> dict[str, str]:
    """Return a page's sections by the anchors of their headings."""
    found, anchor = {"": ""}, ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            anchor = re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
            assert anchor not in found, f"{page.name} has two headings {anchor}"
            found[anchor] = ""
        found[anchor] += line + "\n"
    return found


def test_alertmanager_takes_its_configuration_and_sends_what_is_critical_by_mail() -> None:
    said = _run("amtool", "check-config", "alertmanager.yml")
    assert "SUCCESS" in said
    for severity in ("critical", "warning"):
        routed = _run("amtool", "config", "routes", "test", "--config.file=alertmanager.yml", f"severity={severity}")
        assert routed.strip() == severity
    ways = {one["name"]: set(one) - {"name"} for one in load(MONITORING / "alertmanager.yml")["receivers"]}
    assert ways == {"critical": {"email_configs", "slack_configs"}, "warning": {"slack_configs"}}


def test_alertmanager_keeps_its_secrets_in_files_and_inhibits_only_what_there_is() -> None:
    config = load(MONITORING / "alertmanager.yml")
    for key, value in config["global"].items():
        if re.search("password|api_url|secret|token", key):
            assert key.endswith("_file"), key
            assert value.startswith("/run/secrets/"), value
    alerts = {rule["alert"] for rule in rules("alerts.yml")}
    for rule in config["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            named = re.fullmatch(r'alertname=~?"([\w|]+)"', matcher)
            assert named is not None, matcher
            assert set(named[1].split("|")) <= alerts


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_has_panels_that_say_what_they_show(dashboard: Path) -> None:
    board = json.loads(dashboard.read_text())
    every = board["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert len({panel["title"] for panel in every}) == len(every)
    assert board["uid"] == f"agentmesh-{dashboard.stem}"
    assert len(panels(dashboard)) >= 15
    taken: set[tuple[int, int]] = set()
    for panel in every:
        assert panel["title"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
    for panel in panels(dashboard):
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert all(target["expr"] for target in panel["targets"])


def test_dashboards_ask_sources_that_are_provisioned() -> None:
    provisioning = MONITORING / "grafana" / "provisioning"
    sources = {one["uid"]: one["type"] for one in load(provisioning / "datasources" / "agentmesh.yml")["datasources"]}
    for dashboard in DASHBOARDS:
        for uid, kind in re.findall(
            r'"type": "(\w+)",\s+"uid": "(\w+)"\s+\}', dashboard.read_text().replace("\n", " ")
        ):
            assert sources[kind] == uid
    (provider,) = load(provisioning / "dashboards" / "agentmesh.yml")["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
    assert len({json.loads(board.read_text())["uid"] for board in DASHBOARDS}) == len(DASHBOARDS) == 3


@pytest.mark.parametrize(
    ("expression", "metrics", "grouped"),
    [
        ('up{job="a{b}"} == 0 or absent(up)', {"up"}, set()),
        ("sum by (le, a) (rate(x_bucket[5m])) / on (job) group_left (v) y", {"x_bucket", "y"}, {"le", "a", "job", "v"}),
        ("topk(5, sum(z) by (m)) > bool 1e3 # w", {"z"}, {"m"}),
        ("a:b:rate5m unless a:b:rate5m offset 15m", {"a:b:rate5m"}, set()),
        ("predict_linear(free[1h:5m], 4 * 3600) < 0 and on () inf", {"free"}, set()),
        ('label_replace(m, "to", "$1", "from", "(.*)")', {"m"}, set()),
    ],
)
def test_the_metrics_of_an_expression_are_read(expression: str, metrics: set[str], grouped: set[str]) -> None:
    assert (read(expression).metrics, read(expression).grouped) == (metrics, grouped)


@pytest.mark.parametrize("expression", ['{__name__=~"a.*"}', "sum by (a", "x{a=1", "x ; y"])
def test_an_expression_that_is_not_understood_is_refused(expression: str) -> None:
    with pytest.raises(NotUnderstood):
        read(expression)
