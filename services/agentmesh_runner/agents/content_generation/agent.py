"""Runs the writing of a text as a task: draft, check, have it mended, keep the best."""

from agentmesh.sdk import Agent, InputFile, Rejected, Result, Skill, TaskContext, Verdict
from agentmesh_runner.agents.content_generation.checks import count_words, judge
from agentmesh_runner.agents.content_generation.formats import MEDIA_TYPES, Draft, read_draft
from agentmesh_runner.agents.content_generation.options import ContentOptions, TextConstraints, merge_constraints
from agentmesh_runner.agents.content_generation.prompts import SYSTEM, ask_revision, build_prompt
from agentmesh_runner.agents.verdict import OFFLINE_PROVIDER, failed_checks

_MAX_MATERIAL_CHARACTERS = 40_000
_TOKENS_PER_WORD = 3
_MIN_OUTPUT_TOKENS = 1_500
_MAX_OUTPUT_TOKENS = 16_000


class ContentGeneration(Agent):
    """Writes texts whose constraints are checked."""

    name = "content_generation"
    version = "1"
    description = (
        "Writes articles, copy and documentation. Length, words that must or must not occur, sections, format "
        "and language are checked by program; what fails goes back to the model for revision."
    )
    skills = (
        Skill(
            id="write_text",
            name="Write a text",
            description="Markdown, plain text, HTML or JSON under constraints that are checked.",
            examples=("Write a product page about a bicycle lamp", "Write release notes from these commits"),
        ),
    )

    class Parameters(ContentOptions):
        """What a task may set; the task's constraints are laid over them."""

    async def run(self, ctx: TaskContext, parameters: Parameters) -> Result:
        """Write the text. Raises Rejected if nothing is asked for or the constraints contradict each other."""
        constraints = merge_constraints(parameters, ctx.constraints)
        if not ctx.prompt.strip():
            raise Rejected("PROMPT_MISSING", "nothing was asked for; say in the prompt what the text is about")
        prompt = build_prompt(ctx.prompt, constraints, _material(await ctx.files()))
        best, verdict, drafts = await _write(ctx, parameters, constraints, prompt)
        name, media_type = MEDIA_TYPES[constraints.format]
        if best.text:
            await ctx.artifact(name, best.text, media_type, "The text")
        await ctx.progress(1.0, "done")
        return Result(
            text=best.text,
            data={
                "words": count_words(best.words),
                "drafts": drafts,
                "format": constraints.format,
                "failed": [check.name for check in failed_checks(verdict)],
            },
            verdict=verdict,
        )


async def _write(
    ctx: TaskContext, parameters: ContentOptions, constraints: TextConstraints, prompt: str
) -> tuple[Draft, Verdict, int]:
    """Return the best draft, its verdict and how many were written; of equal ones the later."""
    best: Draft | None = None
    best_verdict = Verdict(passed=False, score=-1.0, checks=())
    asked = prompt
    drafts = 0
    while drafts <= parameters.max_revisions:
        await ctx.progress(0.1 + 0.8 * drafts / (parameters.max_revisions + 1), f"writing draft {drafts + 1}")
        answer = await ctx.llm(
            asked,
            system=SYSTEM,
            model=parameters.model,
            max_output_tokens=_output_tokens(constraints),
            name="draft",
        )
        drafts += 1
        draft = read_draft(answer.text, constraints.format)
        verdict = judge(draft, constraints)
        if verdict.score >= best_verdict.score:
            best, best_verdict = draft, verdict
        if verdict.passed or answer.provider == OFFLINE_PROVIDER:
            break
        failed = failed_checks(verdict)
        await ctx.log("info", f"draft {drafts} fails: {', '.join(check.name for check in failed)}")
        asked = ask_revision(prompt, draft.text, failed)
    assert best is not None
    return best, best_verdict, drafts


def _output_tokens(constraints: TextConstraints) -> int:
    words = constraints.max_words or 2 * constraints.min_words
    return min(_MAX_OUTPUT_TOKENS, max(_MIN_OUTPUT_TOKENS, words * _TOKENS_PER_WORD))


def _material(files: list[InputFile]) -> list[tuple[str, str]]:
    """Return the files as text, cut to 40,000 characters altogether. Raises Rejected FILE_NOT_TEXT."""
    material: list[tuple[str, str]] = []
    left = _MAX_MATERIAL_CHARACTERS
    for file in files:
        try:
            text = file.data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Rejected(
                "FILE_NOT_TEXT",
                f"{file.name}: byte {error.start} is not UTF-8; give text files, saved as UTF-8",
            ) from error
        if left <= 0:
            break
        material.append((file.name, text[:left]))
        left -= len(text)
    return material
