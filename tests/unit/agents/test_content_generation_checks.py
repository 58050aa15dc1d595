"""Checks of texts: words, terms, headings, formats and language, with their edges."""

from typing import Any

import pytest

from agentmesh.sdk import Rejected
from agentmesh_runner.agents.content_generation.checks import count_words, judge, occurs
from agentmesh_runner.agents.content_generation.formats import read_draft
from agentmesh_runner.agents.content_generation.language import tell_language
from agentmesh_runner.agents.content_generation.options import (
    ContentOptions,
    TextConstraints,
    merge_constraints,
)


def failed(text: str, **constraints: Any) -> list[str]:
    wanted = TextConstraints(**constraints)
    return [check.name for check in judge(read_draft(text, wanted.format), wanted).checks if not check.passed]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("one two  three", 3),
        ("well-known, isn't it? 3.14!", 4),
        ("Grüße aus Köln", 3),
        ("你好世界", 4),
        ("gRPC 很快", 3),
        ("- — …", 0),
    ],
)
def test_words_are_counted(text: str, words: int) -> None:
    assert count_words(text) == words


def test_word_bounds_are_inclusive() -> None:
    assert failed("a b c", min_words=3, max_words=3) == []
    assert failed("a b", min_words=3) == ["min_words"]
    assert failed("a b c d", max_words=3) == ["max_words"]


def test_markup_is_not_counted() -> None:
    assert failed("# Title\n\n- **bold** [link](https://example.org/a/b)\n", min_words=3, max_words=3) == []
    assert failed("<p title='x y z'>one <b>two</b></p><script>no no</script>", format="html", max_words=2) == []
    assert failed('{"long key name": ["one", {"k": "two"}], "n": 5}', format="json", min_words=2, max_words=2) == []


@pytest.mark.parametrize(
    ("term", "text", "there"),
    [
        ("fast", "It is FAST.", True),
        ("fast", "It is breakfast.", False),
        ("at once", "all at\nonce", True),
        ("c++", "Write C++!", True),
        ("straße", "STRASSE", True),
        ("快", "它很快", True),
    ],
)
def test_terms_stand_as_a_whole(term: str, text: str, there: bool) -> None:
    assert occurs(term, text) is there


def test_each_tone_word_and_each_forbidden_word_is_a_check_of_its_own() -> None:
    names = failed("warm and cheap", tone_words=("warm", "bright"), forbidden_words=("cheap", "bad"))
    assert names == ["tone_word:bright", "forbidden_word:cheap"]


def test_tone_word_in_bold_occurs() -> None:
    assert failed("It is **warm**, _bright_ and temp_max.", tone_words=("warm", "bright", "temp_max")) == []


def test_sections_must_be_headings_in_order() -> None:
    text = "# A guide\n\nUsage is text.\n\n## 1. Install:\n\nText\n\nUse\n---\n\nText\n"
    assert failed(text, required_sections=("install", "Use")) == []
    assert failed(text, required_sections=("Usage",)) == ["section:Usage"]
    assert failed(text, required_sections=("Use", "Install")) == ["section:Install"]


def test_heading_inside_a_code_fence_is_none() -> None:
    assert failed("```sh\n# Install\n```\n", required_sections=("Install",)) == ["section:Install"]


def test_sections_are_found_in_every_format() -> None:
    assert failed("<h1>A</h1><h2>In <em>use</em></h2>", format="html", required_sections=("In use",)) == []
    assert failed('{"intro": "x", "end": "y"}', format="json", required_sections=("intro", "end")) == []
    assert failed("Intro:\n\ntext\n\nEnd\n", format="plain", required_sections=("Intro", "End")) == []
    assert failed("The intro: text\n", format="plain", required_sections=("Intro",)) == ["section:Intro"]


@pytest.mark.parametrize(
    "text",
    ["# Heading", "**bold** word", "__bold__ word", "see `code`", "[a](b)", "```\nx\n```\nend", "| a | b |\n|---|---|"],
)
def test_markdown_in_plain_text_fails(text: str) -> None:
    assert failed(text, format="plain") == ["format"]


@pytest.mark.parametrize("text", ["5 * 3 * 2 = 30", "snake_case_name", "- a list\n- of two", "C# and issue #5"])
def test_signs_that_are_no_markdown_pass_as_plain_text(text: str) -> None:
    assert failed(text, format="plain") == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<p>open", "<p> in line 1 is not closed"),
        ("<div>\n<p>x</div>", "</div> in line 2 stands where <p> of line 2 is open"),
        ("<p>x</p></p>", "</p> in line 1 closes nothing"),
        ("<div/>", "<div/> closes itself in line 1, which HTML ignores"),
        ("only text", "there is no HTML element in it"),
    ],
)
def test_malformed_html_fails_with_its_line(text: str, fault: str) -> None:
    assert read_draft(text, "html").fault == fault


def test_well_formed_html_passes() -> None:
    assert failed("<!doctype html>\n<p>a<br>b<img src='x'/> &amp; <!-- c --></p>", format="html") == []


def test_malformed_json_fails_with_its_place() -> None:
    assert "line 2, column 1" in read_draft('{"a": 1,\n}', "json").fault
    assert read_draft("[" * 100_000, "json").fault


def test_fence_round_the_whole_answer_is_taken_off() -> None:
    assert read_draft('```json\n{"a": 1}\n```', "json").text == '{"a": 1}'
    assert read_draft("```\na\n```\nand\n```\nb\n```", "markdown").text.startswith("```")


def test_open_code_fence_and_empty_draft_fail() -> None:
    assert failed("```py\nx = 1\n") == ["format"]
    assert failed("  \n") == ["format"]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "The wind was strong in the night, and it is not calm by the morning."),
        ("de", "Der Wind war in der Nacht stark, und es ist auch am Morgen nicht ruhig."),
        ("fr", "Le vent est fort dans la nuit, et il ne se calme pas avec le matin."),
        ("es", "El viento es fuerte en la noche y no se calma por la mañana."),
        ("it", "Il vento è forte di notte e non si calma con la luce del mattino."),
        ("nl", "De wind is sterk in de nacht en het is ook niet rustig op de ochtend."),
        ("pt", "O vento é forte durante a noite e não se acalma com o nascer do dia."),
        ("ru", "Ветер был сильным ночью и не утих утром."),
        ("zh", "夜里风很大，早上也没有平静下来。"),
        ("ja", "夜の風は強く、朝になっても静かにならない。"),
        ("ko", "밤에 바람이 강했고 아침에도 잔잔해지지 않았다."),
    ],
)
def test_language_is_told(language: str, text: str) -> None:
    assert tell_language(text) == language
    assert failed(text, language=language) == []
    other = "de" if language == "en" else "en"
    assert failed(text, language=other) == ["language"]


def test_language_of_too_little_text_cannot_be_told_and_fails() -> None:
    assert tell_language("OK") == ""
    assert failed("OK then", language="en") == ["language"]


def test_score_is_the_share_of_checks_that_hold() -> None:
    wanted = TextConstraints(min_words=2, tone_words=("warm", "dry"))
    verdict = judge(read_draft("warm rain", "markdown"), wanted)
    assert (verdict.passed, verdict.score) == (False, 0.75)


def test_constraints_of_the_task_lie_over_the_parameters() -> None:
    options = ContentOptions(min_words=10, max_words=50, tone_words=("warm",))
    merged = merge_constraints(options, {"min_words": 20.0, "format": "html"})
    assert (merged.min_words, merged.max_words, merged.tone_words, merged.format) == (20, 50, ("warm",), "html")


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"min_wurds": 3}, "constraints.min_wurds: known are"),
        ({"min_words": "many"}, "constraints.min_words"),
        ({"min_words": 5, "max_words": 3}, "min_words (5) is above max_words (3)"),
        ({"tone_words": ["Warm"], "forbidden_words": ["warm"]}, "'Warm' is both demanded and forbidden"),
        ({"format": "pdf"}, "constraints.format"),
    ],
)
def test_wrong_constraints_are_rejected_with_their_path(given: dict[str, Any], word: str) -> None:
    with pytest.raises(Rejected) as caught:
        merge_constraints(ContentOptions(), given)
    assert caught.value.reason == "CONSTRAINTS_INVALID"
    assert word in caught.value.message
