"""Reads drafts in each format: what a reader sees of them, their headings, what is malformed."""

import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

from agentmesh_runner.agents.content_generation.options import Format

MEDIA_TYPES: dict[Format, tuple[str, str]] = {
    "markdown": ("content.md", "text/markdown"),
    "plain": ("content.txt", "text/plain"),
    "html": ("content.html", "text/html"),
    "json": ("content.json", "application/json"),
}
_VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"]
)
_UNSEEN = {"script", "style", "title"}
# A fence that names another language belongs to the text: it is code.
_FENCED = re.compile(r"\A```[ \t]*(?:markdown|md|text|txt|html|json)?[ \t]*\n(.*?)\n?```\Z", re.DOTALL)
_MARKDOWN_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*$", re.MULTILINE)
_UNDERLINED = re.compile(r"^(?![ \t]*[-*#>])(\S.*)\n(?:={3,}|-{3,})[ \t]*$", re.MULTILINE)
_MARKDOWN_SIGNS = (
    (re.compile(r"^ {0,3}#{1,6}[ \t]+\S", re.MULTILINE), "a heading with #"),
    (re.compile(r"^```", re.MULTILINE), "a code fence"),
    (re.compile(r"(\*\*|__)(?=\S)[^\n]+?(?<=\S)\1"), "bold text"),
    (re.compile(r"`[^`\n]+`"), "code in backticks"),
    (re.compile(r"!?\[[^\]\n]+\]\([^)\n]+\)"), "a link"),
    (re.compile(r"^\|?[ \t]*:?-{3,}:?[ \t]*\|", re.MULTILINE), "a table"),
    (re.compile(r"^>[ \t]+\S", re.MULTILINE), "a quote with >"),
)


@dataclass(frozen=True, slots=True)
class Draft:
    """One answer of a model, read in its format; `fault` says why it isn't well-formed."""

    text: str
    words: str
    headings: tuple[str, ...]
    fault: str


def read_draft(answer: str, form: Format) -> Draft:
    """Read an answer; a code fence round the whole of it is taken off."""
    text = answer.strip()
    fenced = _FENCED.match(text)
    if fenced and "\n```" not in fenced[1]:
        text = fenced[1].strip()
    if form == "json":
        return _read_json(text)
    if form == "html":
        return _read_html(text)
    if form == "plain":
        found = [sign for pattern, sign in _MARKDOWN_SIGNS if pattern.search(text)]
        lines = tuple(line.strip().rstrip(":") for line in text.splitlines() if line.strip())
        return Draft(text, text, lines, f"Markdown in plain text: {', '.join(found)}" if found else "")
    return _read_markdown(text)


def _read_markdown(text: str) -> Draft:
    without_code = re.sub(r"^```.*?^```[ \t]*$", "", text, flags=re.MULTILINE | re.DOTALL)
    places = [(found.start(), found[1]) for found in _MARKDOWN_HEADING.finditer(without_code)]
    places += [(found.start(), found[1]) for found in _UNDERLINED.finditer(without_code)]
    headings = tuple(_plain(heading) for _, heading in sorted(places))
    fault = "a code fence is not closed" if len(re.findall(r"^```", text, re.MULTILINE)) % 2 else ""
    return Draft(text, _plain(text), headings, fault)


def _plain(text: str) -> str:
    """Take the signs of Markdown off; what a link says stays, where it leads goes."""
    text = re.sub(r"!?\[([^\]\n]*)\]\([^)\n]*\)", r"\1", text)
    return re.sub(
        r"(?<!\w)[*_`~]{1,3}(?=\S)|(?<=\S)[*_`~]{1,3}(?!\w)|^[ \t]*(?:#{1,6}|>|[-*+]|\d+\.)[ \t]+",
        "",
        text,
        flags=re.MULTILINE,
    )


def _read_json(text: str) -> Draft:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        return Draft(text, text, (), f"not JSON: {error.msg} (line {error.lineno}, column {error.colno})")
    except RecursionError:
        return Draft(text, text, (), "not JSON that can be read: nested too deeply")
    headings = tuple(value) if isinstance(value, dict) else ()
    return Draft(text, "\n".join(_strings(value)), headings, "")


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in _strings(item)]


def _read_html(text: str) -> Draft:
    parser = _Reader()
    parser.feed(text)
    parser.close()
    fault = parser.fault
    if not fault and parser.open:
        tag, line = parser.open[-1]
        fault = f"<{tag}> in line {line} is not closed"
    if not fault and not parser.elements:
        fault = "there is no HTML element in it"
    return Draft(text, "".join(parser.seen), tuple(parser.headings), fault)


class _Reader(HTMLParser):
    """Demands a closing tag for every element that has content, which HTML would let pass for some."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, int]] = []
        self.seen: list[str] = []
        self.headings: list[str] = []
        self.elements = 0
        self.fault = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements += 1
        if tag not in _VOID:
            self.open.append((tag, self.getpos()[0]))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append("")
        self.seen.append(" ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements += 1
        if tag not in _VOID:
            self._fail(f"<{tag}/> closes itself in line {self.getpos()[0]}, which HTML ignores")

    def handle_endtag(self, tag: str) -> None:
        line = self.getpos()[0]
        self.seen.append(" ")
        if tag in _VOID:
            self._fail(f"</{tag}> in line {line} closes an element without content")
        elif not self.open:
            self._fail(f"</{tag}> in line {line} closes nothing")
        elif self.open[-1][0] == tag:
            self.open.pop()
        else:
            inner, begin = self.open[-1]
            self._fail(f"</{tag}> in line {line} stands where <{inner}> of line {begin} is open")

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self.open]
        if not _UNSEEN.intersection(tags):
            self.seen.append(data)
        if any(re.fullmatch("h[1-6]", tag) for tag in tags):
            self.headings[-1] += data

    def _fail(self, fault: str) -> None:
        self.fault = self.fault or fault
