"""A whole analysis against the context in memory, and the check on the model's numbers."""

import json
from importlib.resources import files
from typing import Any

import pytest

from agentmesh.sdk import AgentError, Rejected
from agentmesh_runner.agents.data_analysis.agent import DataAnalysis
from agentmesh_runner.agents.data_analysis.narrative import unsupported_numbers
from tests.support.fake_context import FakeContext

WEATHER = (files("agentmesh_runner") / "data" / "seattle-weather.csv").read_bytes()


def context(**settings: Any) -> FakeContext:
    return FakeContext("What changes over time?", files=[("seattle-weather.csv", "text/csv", WEATHER)], **settings)


def check(result: Any, name: str) -> Any:
    return next(check for check in result.verdict.checks if check.name == name)


async def test_analysis_leaves_charts_numbers_and_a_report() -> None:
    ctx = context()
    result = await DataAnalysis().run(ctx, DataAnalysis.Parameters(max_charts=2))
    assert list(ctx.artifacts) == ["summary.json", "trend-1.png", "correlations.png", "report.md"]
    report = ctx.artifacts["report.md"].data.decode()
    assert "](trend-1.png)" in report
    assert "](correlations.png)" in report
    assert "| temp_max | 16.44 | 7.35 | -1.6 |" in report
    assert "Written by fake-1 (fake) from the computed facts" in report
    summary = json.loads(ctx.artifacts["summary.json"].data)
    assert summary["rows"] == result.data["rows"] == 1461
    assert "1461 rows" in result.text
    assert "report.md" in result.text
    assert ctx.said
    assert ctx.said[0] in result.text
    assert ctx.fractions == sorted(ctx.fractions)
    assert ctx.fractions[-1] == 1.0


async def test_model_is_given_the_facts_and_the_question_and_not_the_rows() -> None:
    ctx = context()
    result = await DataAnalysis().run(ctx, DataAnalysis.Parameters(max_charts=0, language="German"))
    (prompt,) = ctx.prompts
    assert "What changes over time?" in prompt
    assert "German" in ctx.systems[0]
    assert "temp_max and temp_min strongly rise together" in prompt
    assert len(prompt) < 10_000
    assert result.verdict.passed


async def test_invented_number_fails_the_verdict_and_is_marked_in_the_report() -> None:
    ctx = context(write=lambda prompt: "It got 37.5 % warmer over 1461 rows.")
    result = await DataAnalysis().run(ctx, DataAnalysis.Parameters(max_charts=0))
    assert not result.verdict.passed
    failed = check(result, "narrative_numbers_are_computed")
    assert (failed.passed, failed.detail) == (False, "in no fact: 37.5")
    assert "in no computed fact: 37.5" in ctx.artifacts["report.md"].data.decode()


async def test_without_a_narrative_no_model_is_asked() -> None:
    ctx = context()
    result = await DataAnalysis().run(ctx, DataAnalysis.Parameters(max_charts=0, narrative=False))
    assert ctx.prompts == []
    assert result.verdict.passed
    assert "In words" not in ctx.artifacts["report.md"].data.decode()


async def test_final_failure_of_the_model_costs_only_the_words() -> None:
    ctx = context(error=AgentError("NO_PROVIDER", "no model", retryable=False))
    result = await DataAnalysis().run(ctx, DataAnalysis.Parameters(max_charts=0))
    assert not result.verdict.passed
    assert not check(result, "narrative_written").passed
    assert "report.md" in ctx.artifacts
    assert ctx.logged == [("warning", "no narrative: NO_PROVIDER")]


async def test_passing_failure_of_the_model_fails_the_attempt() -> None:
    ctx = context(error=AgentError("UNAVAILABLE", "try later", retryable=True))
    with pytest.raises(AgentError):
        await DataAnalysis().run(ctx, DataAnalysis.Parameters(max_charts=0))


async def test_bad_file_is_rejected_before_any_model_is_asked() -> None:
    ctx = FakeContext(files=[("t.csv", "text/csv", b"a,b\n1,2\n3\n")])
    with pytest.raises(Rejected) as caught:
        await DataAnalysis().run(ctx, DataAnalysis.Parameters())
    assert caught.value.reason == "CSV_RAGGED"
    assert ctx.prompts == []
    assert not ctx.artifacts


def test_parameters_are_described_and_closed() -> None:
    schema = DataAnalysis.Parameters.model_json_schema()
    assert schema["additionalProperties"] is False
    assert all(field.get("description") for field in schema["properties"].values())


@pytest.mark.parametrize(
    ("text", "facts", "missing"),
    [
        ("It fell by 2.5 a year.", "slope -2.5 per year", ()),
        ("In 2012, 1,461 rows.", "1461 rows from 2012-01-01", ()),
        ("About 0.88.", "Pearson 0.8757", ()),
        ("About 0.9.", "Pearson 0.8757", ("0.9",)),
        ("About 5.", "slope 4.6", ("5",)),
        ("Exactly 0.87570.", "Pearson 0.8757", ()),
        ("More exactly 0.87574.", "Pearson 0.8757", ("0.87574",)),
        ("temp2 and Q3 are names, 7 and 7 are not.", "temp2", ("7",)),
        ("p = 1.2e-05", "p = 0.000012", ()),
        ("12 and 13", "12", ("13",)),
    ],
)
def test_numbers_in_words_must_be_computed(text: str, facts: str, missing: tuple[str, ...]) -> None:
    assert unsupported_numbers(text, facts) == missing
