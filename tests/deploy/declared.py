"""Labels of metrics as the code declares them, for those in which a healthy mesh has counted nothing yet."""

import ast
from collections.abc import Iterator

from agentmesh.kit import names
from tests.deploy.monitoring import ROOT

_MAKERS = frozenset({"counter", "gauge", "histogram", "Counter", "Gauge", "Histogram", "Tallies", "Spreads"})


def declared_labels() -> dict[str, frozenset[str]]:
    """Return the labels by metric, of each that is declared with a name from `kit.names` and literal labels."""
    found = {}
    for folder in ("libs", "services", "gateway"):
        for file in (ROOT / folder).rglob("*.py"):
            for call in _calls(ast.parse(file.read_text(encoding="utf-8"))):
                name, labels = call.args[0], call.args[2] if len(call.args) > 2 else ast.Tuple([])
                if isinstance(name, ast.Attribute) and isinstance(labels, ast.Tuple | ast.List):
                    literal = [one.value for one in labels.elts if isinstance(one, ast.Constant)]
                    if len(literal) == len(labels.elts) and hasattr(names, name.attr):
                        found[str(getattr(names, name.attr))] = frozenset(map(str, literal))
    return found


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and len(node.args) >= 2:
            made = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if made in _MAKERS:
                yield node
