"""Writing against the context in memory: drafts, revisions with feedback, the best one kept."""

from typing import Any

import pytest

from agentmesh.sdk import Rejected
from agentmesh_runner.agents.content_generation.agent import ContentGeneration
from tests.support.fake_context import FakeContext


def one_by_one(*texts: str) -> Any:
    given = list(texts)
    return lambda prompt: given.pop(0)


async def run(ctx: FakeContext, **parameters: Any) -> Any:
    return await ContentGeneration().run(ctx, ContentGeneration.Parameters(**parameters))


async def test_draft_that_fits_is_kept_at_once() -> None:
    ctx = FakeContext(
        "About lamps", constraints={"tone_words": ["bright"]}, write=lambda prompt: "# Lamps\n\nA bright one."
    )
    result = await run(ctx, min_words=3)
    assert len(ctx.prompts) == 1
    assert "bright" in ctx.prompts[0]
    assert "At least 3 words" in ctx.prompts[0]
    assert result.verdict.passed
    assert result.data == {"words": 4, "drafts": 1, "format": "markdown", "failed": []}
    assert ctx.artifacts["content.md"].data.decode() == result.text
    assert ctx.fractions == sorted(ctx.fractions)


async def test_failing_draft_is_revised_with_what_failed() -> None:
    ctx = FakeContext("About lamps", write=one_by_one("A lamp.", "A bright and warm lamp."))
    result = await run(ctx, min_words=4, tone_words=("warm",))
    assert "A lamp." in ctx.prompts[1]
    assert "2 words, at least 4 are wanted" in ctx.prompts[1]
    assert "'warm' does not occur" in ctx.prompts[1]
    assert result.verdict.passed
    assert result.data["drafts"] == 2


async def test_best_draft_is_kept_and_the_task_completes_when_none_passes() -> None:
    ctx = FakeContext("About lamps", write=one_by_one("none", "warm and dry", "warm"))
    result = await run(ctx, tone_words=("warm", "dry", "soft"), max_revisions=2)
    assert len(ctx.prompts) == 3
    assert result.text == "warm and dry"
    assert not result.verdict.passed
    assert result.data["failed"] == ["tone_word:soft"]
    assert ctx.artifacts["content.md"].data == b"warm and dry"


async def test_without_revisions_the_model_is_asked_once() -> None:
    ctx = FakeContext("About lamps", write=one_by_one("no"))
    result = await run(ctx, tone_words=("warm",), max_revisions=0)
    assert not result.verdict.passed


async def test_offline_model_is_asked_once() -> None:
    ctx = FakeContext("About lamps", provider="offline")
    result = await run(ctx, min_words=500)
    assert len(ctx.prompts) == 1
    assert not result.verdict.passed
    assert result.text


@pytest.mark.parametrize(
    ("form", "text", "name", "media_type"),
    [
        ("plain", "A lamp.", "content.txt", "text/plain"),
        ("html", "<p>A lamp.</p>", "content.html", "text/html"),
        ("json", '{"a": "lamp"}', "content.json", "application/json"),
    ],
)
async def test_artifact_is_named_and_typed_by_the_format(form: str, text: str, name: str, media_type: str) -> None:
    ctx = FakeContext("About lamps", write=lambda prompt: text)
    result = await run(ctx, format=form)
    assert result.verdict.passed
    assert (ctx.artifacts[name].data.decode(), ctx.artifacts[name].media_type) == (text, media_type)


async def test_files_are_material_and_must_be_text() -> None:
    ctx = FakeContext("Sum up", files=[("notes.txt", "text/plain", b"The lamp has 300 lumen.")])
    await run(ctx)
    assert "The lamp has 300 lumen." in ctx.prompts[0]
    with pytest.raises(Rejected, match=r"notes\.bin: byte 1"):
        await run(FakeContext("Sum up", files=[("notes.bin", "", b"a\xff")]))


async def test_empty_prompt_is_rejected() -> None:
    with pytest.raises(Rejected) as caught:
        await run(FakeContext(" "))
    assert caught.value.reason == "PROMPT_MISSING"


def test_parameters_are_described_and_closed() -> None:
    schema = ContentGeneration.Parameters.model_json_schema()
    assert schema["additionalProperties"] is False
    assert all(field.get("description") for field in schema["properties"].values())
