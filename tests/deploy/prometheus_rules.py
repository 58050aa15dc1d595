"""Writes deploy/monitoring/rules as what the Prometheus operator reads: python -m tests.deploy.prometheus_rules

Kustomize takes no file from outside its folder and turns none into an object, so the rules are there twice; a test
holds both equal.
"""

from pathlib import Path

from tests.deploy.kustomize import FOLDER, ROOT

RULES = ROOT / "deploy" / "monitoring" / "rules"
WRITTEN = FOLDER / "components" / "monitoring" / "prometheus-rules.yaml"
_HEAD = """# Made of deploy/monitoring/rules by `python -m tests.deploy.prometheus_rules`: change them there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: agentmesh
spec:
  groups:
"""


def prometheus_rule(rules: Path) -> str:
    """Return the object for the rules of a folder, their comments left out."""
    lines: list[str] = []
    for file in sorted(rules.glob("*.yml")):
        _, found, groups = file.read_text().partition("\ngroups:\n")
        assert found, f"{file} has no groups"
        lines += [f"  {line}" if line else "" for line in groups.rstrip().splitlines() if line.lstrip()[:1] != "#"]
    return _HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    WRITTEN.write_text(prometheus_rule(RULES))
