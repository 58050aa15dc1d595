"""Work on code against the context in memory: findings, answers, and answers that must be given again."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from agentmesh.sdk import AgentError, Rejected
from agentmesh_runner.agents.code_assistant.agent import CodeAssistant
from agentmesh_runner.agents.code_assistant.answer import extract_code
from tests.support.fake_context import FakeContext

CODE = b"import os\n\ndef add(a, b=[]):\n    return a\n\nclass Box:\n    pass\n"


def answers(*texts: str) -> Any:
    """Give one text after the other; the last one again and again."""

    def give() -> Iterator[str]:
        yield from texts
        while True:
            yield texts[-1]

    each = give()
    return lambda prompt: next(each)


async def run(ctx: FakeContext, **parameters: Any) -> Any:
    return await CodeAssistant().run(ctx, CodeAssistant.Parameters(**parameters))


def check(result: Any, name: str) -> Any:
    return next(check for check in result.verdict.checks if check.name == name)


async def test_review_says_keeps_and_returns_the_findings() -> None:
    ctx = FakeContext("Is this good?", files=[("box.py", "text/x-python", CODE)], write=lambda prompt: "Mend line 3.")
    result = await run(ctx)
    places = [(finding["line"], finding["rule"]) for finding in result.data["findings"]]
    assert places == [(1, "unused-import"), (3, "mutable-default")]
    assert set(result.data["findings"][0]) == {"file", "line", "column", "rule", "severity", "message"}
    assert json.loads(ctx.artifacts["findings.json"].data)["findings"] == result.data["findings"]
    assert "box.py:3:" in ctx.said[0]
    report = ctx.artifacts["review.md"].data.decode()
    assert "Mend line 3." in report
    assert "Written by fake-1 (fake)" in report
    assert "| box.py:1:8 | warning | unused-import |" in report
    assert "Is this good?" in ctx.prompts[0]
    assert "    3  def add(a, b=[]):" in ctx.prompts[0]
    assert result.verdict.passed


async def test_review_of_a_line_that_is_not_there_fails_the_verdict() -> None:
    ctx = FakeContext(files=[("box.py", "", CODE)], write=lambda prompt: "See lines 3-4 and line 99.")
    result = await run(ctx)
    assert not result.verdict.passed
    assert check(result, "line_references_exist").detail == "no file has line 99"


async def test_explanation_is_an_artifact() -> None:
    ctx = FakeContext(files=[("box.py", "", CODE)])
    result = await run(ctx, action="explain")
    assert "explanation.md" in ctx.artifacts
    assert result.text


async def test_code_in_the_prompt_is_reviewed() -> None:
    ctx = FakeContext("Review this:\n```python\nimport os\n```\n")
    result = await run(ctx)
    assert [finding["rule"] for finding in result.data["findings"]] == ["unused-import"]


async def test_final_failure_of_the_model_leaves_the_findings() -> None:
    ctx = FakeContext(files=[("box.py", "", CODE)], error=AgentError("NO_PROVIDER", "none", retryable=False))
    result = await run(ctx)
    assert len(result.data["findings"]) == 2
    assert "review.md" in ctx.artifacts
    assert not result.verdict.passed


GOOD = "Here:\n```python\ndef add(a, b=None):\n    return a\n\nclass Box:\n    pass\n```\nDone."


async def test_code_that_does_not_parse_is_asked_for_again_with_the_reason() -> None:
    ctx = FakeContext(files=[("box.py", "", CODE)], write=answers("```python\ndef add(:\n```", GOOD))
    result = await run(ctx, action="refactor")
    assert len(ctx.prompts) == 2
    assert "code_parses: line 1" in ctx.prompts[1]
    assert ctx.artifacts["refactored_box.py"].data.decode().startswith("def add(a, b=None):")
    assert result.verdict.passed
    assert result.data["llm_calls"] == 2


async def test_refactoring_that_loses_a_public_name_is_asked_for_again() -> None:
    ctx = FakeContext(files=[("box.py", "", CODE)], write=answers("```\ndef add(a):\n    return a\n```", GOOD))
    result = await run(ctx, action="refactor")
    assert "gone: Box" in ctx.prompts[1]
    assert result.verdict.passed


async def test_refactoring_that_brings_a_new_error_fails() -> None:
    bad = "```python\ndef add(a):\n    return eval(a)\nclass Box: ...\n```"
    ctx = FakeContext(files=[("box.py", "", CODE)], write=answers(bad))
    result = await run(ctx, action="refactor", max_retries=0)
    assert "eval" in check(result, "no_new_errors").detail
    assert not result.verdict.passed


async def test_tests_without_a_test_fail_and_are_named_after_the_file() -> None:
    ctx = FakeContext(files=[("src/box.py", "", CODE)], write=answers("```python\nx = 1\n```"))
    result = await run(ctx, action="write_tests", max_retries=1)
    assert len(ctx.prompts) == 2
    assert not check(result, "has_tests").passed
    assert "test_box.py" in ctx.artifacts


async def test_answer_without_code_ends_after_the_retries_and_the_task_completes() -> None:
    ctx = FakeContext("Write a parser", write=lambda prompt: "I'd rather not.")
    result = await run(ctx, action="generate", max_retries=2)
    assert len(ctx.prompts) == 3
    assert not result.verdict.passed
    assert ctx.artifacts == {}
    assert result.text == "I'd rather not."


async def test_offline_model_is_asked_once() -> None:
    ctx = FakeContext("Write a parser", provider="offline")
    result = await run(ctx, action="generate")
    assert len(ctx.prompts) == 1
    assert not result.verdict.passed


async def test_generated_code_of_another_language_is_kept_by_its_suffix() -> None:
    ctx = FakeContext("Write main", write=lambda prompt: "```go\npackage main\n```")
    result = await run(ctx, action="generate", language="Go")
    assert ctx.artifacts["generated.go"].data == b"package main\n"
    assert result.verdict.passed


@pytest.mark.parametrize(
    ("action", "files", "reason"),
    [
        ("review", [], "CODE_MISSING"),
        ("write_tests", [], "CODE_MISSING"),
        ("generate", [], "PROMPT_MISSING"),
        ("refactor", [("a.py", "", b""), ("b.py", "", b"")], "ONE_FILE_ONLY"),
    ],
)
async def test_work_without_its_input_is_rejected(action: str, files: list[Any], reason: str) -> None:
    with pytest.raises(Rejected) as caught:
        await run(FakeContext(files=files), action=action)
    assert caught.value.reason == reason


def test_longest_block_of_the_language_is_taken() -> None:
    text = "```sh\npip install everything that there is\n```\n```py\nx = 1\n```\n```python\nx = 1\ny = 2\n```\n"
    assert extract_code(text, "python") == "x = 1\ny = 2\n"
    assert extract_code("no code", "python") == ""


def test_parameters_are_described_and_closed() -> None:
    schema = CodeAssistant.Parameters.model_json_schema()
    assert schema["additionalProperties"] is False
    assert all(field.get("description") for field in schema["properties"].values())
