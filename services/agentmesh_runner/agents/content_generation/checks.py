"""Holds a draft against every constraint."""

import re
from collections.abc import Sequence

from agentmesh.sdk import Check, Verdict
from agentmesh_runner.agents.content_generation.formats import Draft
from agentmesh_runner.agents.content_generation.language import tell_language
from agentmesh_runner.agents.content_generation.options import TextConstraints
from agentmesh_runner.agents.verdict import verdict_of

# Chinese and Japanese set no spaces between words: each character counts as one.
_IDEOGRAPH = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
_WORD = re.compile(rf"{_IDEOGRAPH}|(?:(?!{_IDEOGRAPH})\w)+(?:['’.-](?:(?!{_IDEOGRAPH})\w)+)*")


def count_words(text: str) -> int:
    """Count words; a hyphen, an apostrophe or a dot inside a word does not part it."""
    return len(_WORD.findall(text))


def judge(draft: Draft, constraints: TextConstraints) -> Verdict:
    """Check a draft against its format and every constraint that is set; the score is the share that holds."""
    checks = [
        Check(
            name="format",
            passed=bool(draft.text) and not draft.fault,
            detail=draft.fault or (f"is {constraints.format}" if draft.text else "the draft is empty"),
        ),
        *_words(draft, constraints),
        *_terms(draft, constraints),
        *_sections(draft, constraints.required_sections),
        *_language(draft, constraints.language),
    ]
    return verdict_of(checks)


def _words(draft: Draft, constraints: TextConstraints) -> list[Check]:
    words = count_words(draft.words)
    checks = []
    if constraints.min_words:
        detail = f"{words} words, at least {constraints.min_words} are wanted"
        checks.append(Check(name="min_words", passed=words >= constraints.min_words, detail=detail))
    if constraints.max_words:
        detail = f"{words} words, at most {constraints.max_words} are wanted"
        checks.append(Check(name="max_words", passed=words <= constraints.max_words, detail=detail))
    return checks


def _terms(draft: Draft, constraints: TextConstraints) -> list[Check]:
    checks = []
    for term in constraints.tone_words:
        there = occurs(term, draft.words)
        detail = f"{term!r} occurs" if there else f"{term!r} does not occur"
        checks.append(Check(name=f"tone_word:{term}", passed=there, detail=detail))
    for term in constraints.forbidden_words:
        there = occurs(term, draft.words)
        detail = f"{term!r} occurs" if there else f"{term!r} does not occur"
        checks.append(Check(name=f"forbidden_word:{term}", passed=not there, detail=detail))
    return checks


def occurs(term: str, text: str) -> bool:
    """Return whether a word or phrase stands in a text as a whole, in upper or lower case."""
    pattern = r"\s+".join(re.escape(part) for part in term.casefold().split())
    if not re.search(_IDEOGRAPH, term):
        pattern = rf"(?<!\w){pattern}(?!\w)"
    return re.search(pattern, text.casefold()) is not None


def _sections(draft: Draft, required: Sequence[str]) -> list[Check]:
    headings = [_same(heading) for heading in draft.headings]
    checks = []
    after = 0
    for section in required:
        wanted = _same(section)
        if wanted in headings[after:]:
            after = headings.index(wanted, after) + 1
            passed, detail = True, f"{section!r} is there"
        elif wanted in headings:
            passed, detail = False, f"{section!r} stands too early"
        else:
            passed, detail = False, f"there is no heading {section!r}"
        checks.append(Check(name=f"section:{section}", passed=passed, detail=detail))
    return checks


def _same(heading: str) -> str:
    """Bring headings to one form: numbering, colons, spaces and case make no difference."""
    return " ".join(re.sub(r"^\s*\d+(\.\d+)*[.)]?\s+", "", heading).split()).rstrip(":.").casefold()


def _language(draft: Draft, wanted: str) -> list[Check]:
    if not wanted:
        return []
    told = tell_language(draft.words)
    detail = f"reads as {told}, {wanted} is wanted" if told else f"can't be told to be {wanted}"
    return [Check(name="language", passed=told == wanted, detail=detail)]
