"""docs/deploy/README.md maps each heading of the deployment guide to files and tests that are there."""

import ast
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentmesh.kit import config
from agentmesh.kit.model_settings import ProviderPool
from tests.deploy import page_names
from tests.deploy.monitoring import ROOT
from tests.support.markdown import Block, Terminal, blocks_of

PAGE = ROOT / "docs" / "deploy" / "README.md"
TEXT = PAGE.read_text(encoding="utf-8")

# The guide's headings in its order; the guide itself is not in the repository.
HEADINGS = """\
## 目录
## 环境要求
### 系统要求
### 软件依赖
### Python依赖
## 本地开发部署
### 快速开始
### 开发环境配置
### IDE配置
## Docker部署
### Dockerfile
### Docker Compose
### 部署命令
## 云平台部署
### AWS部署
#### ECS部署
#### 部署脚本
### Google Cloud Platform部署
#### Cloud Run部署
#### 部署脚本
### Azure部署
#### Container Instances部署
## 生产环境部署
### 生产环境配置
### 负载均衡配置
### 数据库迁移
## 监控和维护
### 健康检查
### 监控指标
### 日志聚合
### 告警配置
## 故障排除
### 常见问题
#### 1. 内存不足
#### 2. API调用失败
#### 3. 数据库连接问题
### 调试工具
## 性能优化
### 缓存策略
### 连接池优化
### 批处理优化
""".splitlines()


@dataclass(frozen=True)
class Row:
    """A heading, and what covers it."""

    heading: str
    gloss: str
    files: tuple[str, ...]
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return self.gloss


def rows() -> list[Row]:
    """Return the table's rows."""
    table = TEXT.partition("## Where each part of the guide is")[2]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:3] == "| `"]
    quoted = re.compile(r"`([^`]+)`")
    return [
        Row(heading.strip("`"), gloss, tuple(quoted.findall(files)), tuple(quoted.findall(tests)))
        for heading, gloss, files, tests in cells
    ]


@cache
def functions_of(file: str) -> frozenset[str]:
    """Return the names of the tests of a file, by reading it."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_heading_of_the_guide_has_its_row_in_order() -> None:
    assert [row.heading for row in rows()] == HEADINGS
    assert all(row.gloss.isascii() for row in rows())


@pytest.mark.parametrize("row", rows(), ids=str)
def test_what_covers_a_heading_is_there(row: Row) -> None:
    assert row.files
    assert row.tests
    assert [file for file in row.files if not (ROOT / file).is_file()] == []
    missing = []
    for test in row.tests:
        file, _, name = test.partition("::")
        if not (ROOT / file).is_file() or not name.startswith("test_") or name not in functions_of(file):
            missing.append(test)
    assert missing == []


def test_every_page_on_deployment_has_a_place_in_the_first_table() -> None:
    beginning = TEXT.partition("\n## ")[0]
    pages = {file.name for file in PAGE.parent.glob("*.md")} - {PAGE.name}
    assert pages - set(re.findall(r"\]\((\w+\.md)\)", beginning)) == set()


def test_what_the_page_names_is_there() -> None:
    assert page_names.broken_links(PAGE) == []
    assert page_names.unknown_settings(TEXT) == []
    assert page_names.unknown_variables(TEXT) == []


def test_the_environments_are_what_the_page_says() -> None:
    lines = [line.strip("|").split("|") for line in TEXT.splitlines() if line.startswith(("| cache ", "| traces "))]
    told = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}
    urls = {"DATABASE_URL": "postgresql://here/mesh", "REDIS_URL": "redis://here"}
    for number, name in enumerate(("development", "test", "production")):
        settings = config.load(ROOT / "configs" / "environments" / f"{name}.yaml", environ=urls)
        assert f"{settings.cache.ttl:g} s" in told["cache"][number]
        assert (settings.cache.backend == "memory") == ("memory" in told["cache"][number])
        assert told["traces"][number] == ("on" if settings.monitoring.tracing else "off")


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A mesh as the page measured it."""
    terminal = Terminal(tmp_path_factory.mktemp("measured"))
    try:
        assert "agentmesh is up" in terminal.start("agentmesh up")
        yield terminal
    finally:
        terminal.close()


def test_the_five_services_take_what_the_page_says(terminal: Terminal) -> None:
    (measure,) = blocks_of(PAGE)
    (told,) = re.findall(r"that was (\d+) MiB for all five", TEXT)
    printed = re.fullmatch(r"(\d+) MiB\n", terminal.run(measure))
    assert printed
    if os.path.isdir("/proc/self"):
        assert 0.6 * int(told) < int(printed[1]) < 1.4 * int(told)
        assert int(printed[1]) < 1024, "4 GB are to hold more than these"


def test_the_guides_four_metrics_have_its_names_and_labels(terminal: Terminal) -> None:
    chat = '{"model": "offline", "messages": [{"role": "user", "content": "Rivers carry water."}]}'
    code = "agentmesh run echo hello\n"
    code += f"curl -s localhost:8000/v1/chat/completions -H 'content-type: application/json' -d '{chat}'\n"
    code += "while ! curl -s localhost:9090/metrics | grep -q ^agent_requests_total; do sleep 0.1; done\n"
    terminal.run(Block("sh", code, 0))
    labels: dict[str, set[str]] = {}
    for port in ("9090", "9092"):
        page = terminal.run(Block("sh", f"curl -s localhost:{port}/metrics", 0))
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                labels.setdefault(sample.name, set()).update(sample.labels)
    assert labels["agent_requests_total"] == {"agent_type", "status"}
    assert labels["agent_request_duration_seconds_count"] == {"agent_type"}
    assert labels["agent_active_tasks"] == {"agent_type"}
    assert labels["llm_api_calls_total"] == {"provider", "model", "status"}


def test_connections_to_providers_are_bounded_as_in_the_guide() -> None:
    pool = ProviderPool()
    assert (pool.connections, pool.per_host, pool.dns_ttl_s, pool.keep_alive_s) == (100, 20, 300, 30)
    assert pool.connect_timeout_s == 10
    assert pool.total_timeout_s > 30, "the guide's own bound cuts answers"
