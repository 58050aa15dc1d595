"""The files of deploy/monitoring, as tests read them: rules, dashboards, and every expression in them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = MONITORING / "rules"
DASHBOARDS = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
# Prometheus makes this one itself.
ALERTS = "ALERTS"

_VARIABLE = re.compile(r"label_values\((?P<metric>[\w:]+), (?P<label>\w+)\)")
_LEGEND = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True, slots=True)
class Asked:
    """An expression, where it stands, and the labels that are shown of its results."""

    place: str
    expression: str
    shown: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.place


def load(path: Path) -> Any:
    """Return what a YAML file says."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules(file: str) -> list[dict[str, Any]]:
    """Return the rules of rules/<file>."""
    return [rule for group in load(RULES / file)["groups"] for rule in group["rules"]]


def panels(dashboard: Path) -> list[dict[str, Any]]:
    """Return a dashboard's panels that show something."""
    return [panel for panel in json.loads(dashboard.read_text())["panels"] if panel["type"] != "row"]


def asked_by_rules() -> list[Asked]:
    """Return the expressions of the rules, with the labels that their texts name."""
    found = [Asked(f"recording.yml: {rule['record']}", rule["expr"]) for rule in rules("recording.yml")]
    for alert in rules("alerts.yml"):
        texts = " ".join(alert["annotations"].values())
        shown = frozenset(re.findall(r"\$labels\.(\w+)", texts))
        found.append(Asked(f"alerts.yml: {alert['alert']}", alert["expr"], shown))
    return found


def asked_by_dashboards() -> list[Asked]:
    """Return the expressions of the dashboards, any value standing for their variables."""
    return [asked for dashboard in DASHBOARDS for asked in _asked_by(dashboard)]


def _asked_by(dashboard: Path) -> Iterator[Asked]:
    read = json.loads(dashboard.read_text())
    variables = {}
    for variable in read["templating"]["list"]:
        match = _VARIABLE.fullmatch(variable["query"]["query"])
        assert match is not None, f"{dashboard.name}: {variable['name']}"
        variables[variable["name"]] = variable["allValue"]
        yield Asked(f"{dashboard.name}: ${variable['name']}", f"count by ({match['label']}) ({match['metric']})")
    for note in read["annotations"]["list"]:
        yield Asked(f"{dashboard.name}: {note['name']}", note["expr"])
    for panel in panels(dashboard):
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in variables.items():
                expression = expression.replace(f"${name}", value)
            assert "$" not in expression, f"{dashboard.name}: {expression}"
            shown = frozenset(_LEGEND.findall(target["legendFormat"]))
            yield Asked(f"{dashboard.name}: {panel['title']} {target['refId']}", expression, shown)
