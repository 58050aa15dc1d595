"""Runs an analysis as a task: read, compute, draw, have it put into words, report."""

import asyncio
from functools import partial
from typing import Any

from agentmesh.sdk import Agent, AgentError, Check, Result, Skill, TaskContext, Verdict
from agentmesh_runner.agents.data_analysis.analysis import analyse
from agentmesh_runner.agents.data_analysis.charts import Chart, draw_charts
from agentmesh_runner.agents.data_analysis.columns import TypedTable, settle
from agentmesh_runner.agents.data_analysis.findings import Fact, state_facts
from agentmesh_runner.agents.data_analysis.model import Analysis
from agentmesh_runner.agents.data_analysis.narrative import (
    MAX_OUTPUT_TOKENS,
    Narrative,
    build_prompt,
    build_system,
    unsupported_numbers,
)
from agentmesh_runner.agents.data_analysis.options import AnalysisOptions
from agentmesh_runner.agents.data_analysis.reading import choose, read_table
from agentmesh_runner.agents.data_analysis.report import write_report
from agentmesh_runner.agents.verdict import verdict_of

_ENOUGH_ROWS = 20
_LISTED = 20


class DataAnalysis(Agent):
    """Analyses a CSV or JSON table."""

    name = "data_analysis"
    version = "1"
    description = (
        "Analyses a CSV or JSON table: summary, trends with confidence intervals, correlations, comparison "
        "of groups, charts and a report. The numbers are computed; a model only writes the words."
    )
    skills = (
        Skill(
            id="analyse_table",
            name="Analyse a table",
            description="Real statistics of a CSV or JSON file, with PNG charts and a Markdown report.",
            examples=("Analyse this file", "Which columns change over time, and how surely?"),
        ),
    )

    class Parameters(AnalysisOptions):
        """What a task may set."""

    async def run(self, ctx: TaskContext, parameters: Parameters) -> Result:
        """Analyse one file of the task. Raises Rejected if there is none or it can't be read as a table."""
        files = await ctx.files()
        file = choose(files, parameters.file)
        await ctx.progress(0.05, f"reading {file.name}")
        table = await asyncio.to_thread(lambda: settle(read_table(file, parameters), parameters))
        await ctx.progress(0.2, f"computing over {len(table.frame)} rows")
        analysis = Analysis.model_validate(await ctx.step("analyse", partial(_analyse, table, parameters.target)))
        facts = state_facts(analysis)
        summary = "\n".join(f"- {fact.text}" for fact in facts if fact.headline)
        await ctx.emit(summary)
        await ctx.artifact(
            "summary.json",
            analysis.model_dump_json(indent=2),
            "application/json",
            "Every computed number",
        )
        await ctx.progress(0.5, "drawing charts")
        charts = await asyncio.to_thread(draw_charts, table, analysis, parameters.max_charts)
        for chart in charts:
            await ctx.artifact(chart.name, chart.png, "image/png", chart.caption)
        narrative = None
        if parameters.narrative:
            await ctx.progress(0.75, "having the findings put into words")
            narrative = await _narrate(ctx, parameters, facts)
        report = write_report(analysis, facts, charts, narrative)
        await ctx.artifact("report.md", report, "text/markdown", f"Report on {file.name}")
        await ctx.progress(1.0, "done")
        return Result(
            text=f"{summary}\n\nThe full report is in report.md, with {_amount(charts)}.",
            data=_key_numbers(analysis, charts),
            verdict=_judge(analysis, charts, report, narrative if parameters.narrative else None, parameters),
        )


def _analyse(table: TypedTable, target: str) -> dict[str, Any]:
    return analyse(table, target).model_dump(mode="json")


async def _narrate(ctx: TaskContext, parameters: AnalysisOptions, facts: list[Fact]) -> Narrative | None:
    """Ask for the words; a model that can't be had costs the report only its words."""
    lines = [fact.text for fact in facts]
    try:
        answer = await ctx.llm(
            build_prompt(lines, ctx.prompt),
            system=build_system(parameters.language),
            model=parameters.model,
            max_output_tokens=MAX_OUTPUT_TOKENS,
            name="narrative",
        )
    except AgentError as error:
        if error.retryable:
            raise
        await ctx.log("warning", f"no narrative: {error.reason}")
        return None
    allowed = "\n".join([*lines, ctx.prompt])
    return Narrative(
        text=answer.text,
        model=answer.model,
        provider=answer.provider,
        finish_reason=str(answer.finish_reason),
        unsupported=unsupported_numbers(answer.text, allowed),
    )


def _judge(
    analysis: Analysis,
    charts: list[Chart],
    report: str,
    narrative: Narrative | None,
    parameters: AnalysisOptions,
) -> Verdict:
    checks = [
        Check(
            name="enough_rows",
            passed=analysis.rows >= _ENOUGH_ROWS,
            detail=f"{analysis.rows} rows; intervals and p-values need about {_ENOUGH_ROWS}",
        ),
        Check(
            name="figures_referenced",
            passed=all(f"]({chart.name})" in report for chart in charts),
            detail=f"{_amount(charts)} in the report",
        ),
    ]
    if parameters.narrative:
        text = narrative.text.strip() if narrative else ""
        checks.append(
            Check(
                name="narrative_written",
                passed=bool(text),
                detail=f"{len(text.split())} words by {narrative.model}" if narrative else "no model answered",
            )
        )
    if narrative:
        strange = narrative.unsupported
        checks.append(
            Check(
                name="narrative_numbers_are_computed",
                passed=not strange,
                detail=f"in no fact: {', '.join(strange[:10])}" if strange else "every number is in the facts",
            )
        )
    return verdict_of(checks)


def _key_numbers(analysis: Analysis, charts: list[Chart]) -> dict[str, Any]:
    """Return what programs need most; everything else is in summary.json."""
    return {
        "source": analysis.source,
        "rows": analysis.rows,
        "columns": len(analysis.columns),
        "missing_cells": analysis.missing_cells,
        "duplicate_rows": analysis.duplicate_rows,
        "axis": analysis.axis.model_dump(mode="json") if analysis.axis else None,
        "numeric": {
            summary.name: {
                "mean": summary.mean,
                "std": summary.std,
                "min": summary.minimum,
                "median": summary.median,
                "max": summary.maximum,
            }
            for summary in analysis.numeric[:_LISTED]
        },
        "trends": [trend.model_dump(mode="json") for trend in analysis.trends[:_LISTED]],
        "correlations": [pair.model_dump(mode="json") for pair in analysis.correlations[:_LISTED]],
        "charts": [chart.name for chart in charts],
    }


def _amount(charts: list[Chart]) -> str:
    return "1 chart" if len(charts) == 1 else f"{len(charts)} charts"
