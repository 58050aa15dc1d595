"""docs/guides/observability.md names every metric that there is, and no other."""

import re
from pathlib import Path

from agentmesh.kit import config, names, semantic_names
from tests.deploy import page_names
from tests.deploy.monitoring import ROOT
from tests.support.markdown import blocks_of

PAGE = ROOT / "docs" / "guides" / "observability.md"
TEXT = PAGE.read_text(encoding="utf-8")
METRICS = {value for value in vars(names).values() if re.fullmatch(r"(agent|agentmesh|llm)_[a-z_]+", str(value))}
METRICS |= {semantic_names.OPERATION_DURATION, semantic_names.TIME_TO_FIRST_CHUNK, semantic_names.TOKEN_USAGE}


def test_every_metric_has_its_row() -> None:
    assert len(METRICS) > 45
    rows = "\n".join(line for line in TEXT.splitlines() if line.startswith("|"))
    named = set(re.findall(r"`((?:agent|agentmesh|llm|gen_ai)_[a-z_]+)`", rows))
    assert named == METRICS


def test_the_configuration_of_the_page_sends_traces(tmp_path: Path) -> None:
    (written,) = [block.code for block in blocks_of(PAGE) if block.language == "yaml"]
    lines = "".join(f"  {line}\n" for line in written.splitlines())
    (tmp_path / "mesh.yaml").write_text(f"environment: development\ndevelopment:\n{lines}")
    monitoring = config.load(tmp_path / "mesh.yaml", environ={}).monitoring
    assert (monitoring.tracing, monitoring.otlp_endpoint) == (True, "http://collector:4317")


def test_spans_of_the_tree_have_names_that_services_give() -> None:
    (tree,) = re.findall(r"```text\n(POST /v1/tasks.*?)```", TEXT, re.DOTALL)
    spans = [re.split(r"  +", line.lstrip("└├│ "))[0] for line in tree.splitlines()]
    made = ("POST ", "commit ", "invoke_agent ", "step ", "execute_tool ", "chat ", "agentmesh.api.")
    assert all(span.startswith(made) for span in spans), spans
    for method in (span for span in spans if "/" in span and "agentmesh.api" in span):
        service, name = method.rsplit(".", 1)[1].split("/")
        assert f"class {service}Stub" in _stubs()
        assert f"/{name}'" in _stubs()


def test_what_the_page_names_is_there() -> None:
    assert page_names.unknown_settings(TEXT) == []
    assert page_names.unknown_names(TEXT) == []
    assert page_names.broken_links(PAGE) == []


def _stubs() -> str:
    return "\n".join(file.read_text() for file in (ROOT / "libs" / "agentmesh" / "api").rglob("*_pb2_grpc.py"))
