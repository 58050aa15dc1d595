"""Runs work on code as a task: read, check, ask a model, check its answer, ask again."""

import json
from functools import partial
from typing import Any

from agentmesh.sdk import Agent, AgentError, Rejected, Result, Skill, TaskContext
from agentmesh_runner.agents.code_assistant.answer import check_code, check_words, extract_code
from agentmesh_runner.agents.code_assistant.checks import check_sources
from agentmesh_runner.agents.code_assistant.finding import Finding
from agentmesh_runner.agents.code_assistant.options import CodeOptions
from agentmesh_runner.agents.code_assistant.prompts import SYSTEM, add_feedback, build_prompt
from agentmesh_runner.agents.code_assistant.report import summarise, write_report
from agentmesh_runner.agents.code_assistant.sources import Source, normalise, read_sources, suffix_of
from agentmesh_runner.agents.verdict import OFFLINE_PROVIDER, failed_checks, verdict_of

_MAX_OUTPUT_TOKENS = 4_000


class CodeAssistant(Agent):
    """Reviews, explains, writes and reworks code."""

    name = "code_assistant"
    version = "1"
    description = (
        "Reviews, explains, generates, refactors and tests code. Python is checked by its syntax tree, with "
        "line numbers and without running it; a model explains, ranks and writes, and its code is checked."
    )
    skills = (
        Skill(
            id="review",
            name="Review and explain",
            description="Static findings with line numbers, then a review or an explanation.",
            examples=("Review this file", "Explain what this module does"),
        ),
        Skill(
            id="write",
            name="Generate, refactor and test",
            description="New code, reworked code or tests, checked by parsing and the same static checks.",
            examples=("Write a function that parses ISO dates", "Write tests for this file"),
        ),
    )

    class Parameters(CodeOptions):
        """What a task may set."""

    async def run(self, ctx: TaskContext, parameters: Parameters) -> Result:
        """Do the work. Raises Rejected if there is no code to work on or it can't be read."""
        sources = read_sources(await ctx.files(), ctx.prompt, parameters.language)
        _demand_input(parameters, sources, ctx.prompt)
        findings: list[Finding] = []
        if sources:
            await ctx.progress(0.1, "checking the code")
            found = await ctx.step("static_checks", partial(_checked, sources, parameters))
            findings = [Finding(**finding) for finding in found]
            await ctx.emit(summarise(findings, sources))
            await ctx.artifact(
                "findings.json",
                json.dumps({"findings": found}, indent=2, ensure_ascii=False),
                "application/json",
                "Findings of the static checks",
            )
        await ctx.progress(0.3, "asking the model")
        if parameters.action in {"review", "explain"}:
            return await _talk(ctx, parameters, sources, findings)
        return await _write(ctx, parameters, sources, findings)


def _checked(sources: list[Source], parameters: CodeOptions) -> list[dict[str, Any]]:
    return [finding.to_json() for finding in check_sources(sources, parameters)]


def _demand_input(parameters: CodeOptions, sources: list[Source], prompt: str) -> None:
    if parameters.action != "generate" and not sources:
        raise Rejected(
            "CODE_MISSING",
            f"there is no code to {parameters.action.replace('_', ' ')}; attach a file, "
            "or put the code into the prompt between ``` fences",
        )
    if parameters.action == "generate" and not prompt.strip():
        raise Rejected("PROMPT_MISSING", "nothing was asked for; say in the prompt what the code should do")
    if parameters.action == "refactor" and len(sources) > 1:
        raise Rejected("ONE_FILE_ONLY", "refactor takes one file at a time; start a task for each file")


async def _talk(ctx: TaskContext, parameters: CodeOptions, sources: list[Source], findings: list[Finding]) -> Result:
    """Have findings explained; without a model the findings still stand."""
    prompt = build_prompt(parameters.action, _question(ctx, sources), "", sources, findings)
    words, written_by = "", ""
    try:
        answer = await ctx.llm(
            prompt,
            system=SYSTEM,
            model=parameters.model,
            max_output_tokens=_MAX_OUTPUT_TOKENS,
            name=parameters.action,
        )
        words, written_by = answer.text, f"{answer.model} ({answer.provider})"
    except AgentError as error:
        if error.retryable:
            raise
        await ctx.log("warning", f"no words: {error.reason}")
    names = ", ".join(source.name for source in sources[:3]) + (", …" if len(sources) > 3 else "")
    title, file = (
        (f"Review of {names}", "review.md")
        if parameters.action == "review"
        else (f"What {names} does", "explanation.md")
    )
    report = write_report(title, sources, findings, words, written_by)
    await ctx.artifact(file, report, "text/markdown", title)
    await ctx.progress(1.0, "done")
    summary = summarise(findings, sources)
    return Result(
        text=f"{words.strip()}\n\n{summary}" if words.strip() else summary,
        data=_data(parameters, sources, findings, attempts=1),
        verdict=verdict_of(check_words(words, sources)),
    )


async def _write(ctx: TaskContext, parameters: CodeOptions, sources: list[Source], findings: list[Finding]) -> Result:
    """Have code written, and written again while its checks fail; the best answer is kept."""
    language = normalise(parameters.language or (sources[0].language if sources else ""))
    prompt = asked = build_prompt(parameters.action, _question(ctx, sources), language, sources, findings)
    best_code, best_text, best = "", "", verdict_of([])
    attempts = 0
    while attempts <= parameters.max_retries:
        attempts += 1
        answer = await ctx.llm(
            asked,
            system=SYSTEM,
            model=parameters.model,
            max_output_tokens=_MAX_OUTPUT_TOKENS,
            name=parameters.action,
        )
        code = extract_code(answer.text, language)
        verdict = verdict_of(check_code(code, language, sources, parameters))
        if attempts == 1 or verdict.score > best.score or (code and not best_code):
            best_code, best_text, best = code, answer.text, verdict
        if verdict.passed or answer.provider == OFFLINE_PROVIDER:
            break
        failed = failed_checks(verdict)
        await ctx.log("info", f"answer {attempts} failed: {', '.join(check.name for check in failed)}")
        asked = add_feedback(prompt, answer.text, failed)
    if best_code:
        await ctx.artifact(
            _file_name(parameters, sources, language), best_code, "text/plain", f"Result of {parameters.action}"
        )
    await ctx.progress(1.0, "done")
    return Result(text=best_text, data=_data(parameters, sources, findings, attempts=attempts), verdict=best)


def _question(ctx: TaskContext, sources: list[Source]) -> str:
    # Code that came in the prompt is in the listing, and need not be said twice.
    return (
        ctx.prompt if not any(source.name.startswith("prompt-") for source in sources) else ctx.prompt.split("```")[0]
    )


def _file_name(parameters: CodeOptions, sources: list[Source], language: str) -> str:
    suffix = suffix_of(language)
    if parameters.action == "generate" or not sources:
        return f"generated.{suffix}"
    name = sources[0].name.replace("\\", "/").rsplit("/", 1)[-1]
    return f"test_{name.rsplit('.', 1)[0]}.{suffix}" if parameters.action == "write_tests" else f"refactored_{name}"


def _data(parameters: CodeOptions, sources: list[Source], findings: list[Finding], *, attempts: int) -> dict[str, Any]:
    return {
        "action": parameters.action,
        "files": [{"name": source.name, "language": source.language, "lines": source.lines} for source in sources],
        "findings": [finding.to_json() for finding in findings],
        "llm_calls": attempts,
    }
