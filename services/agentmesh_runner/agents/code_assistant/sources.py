"""The source files of a task: what they are written in, their lines, their listing for a model."""

import io
import re
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass

from agentmesh.sdk import InputFile, Rejected
from agentmesh_runner.agents.code_assistant.options import MAX_FILE_BYTES, MAX_FILES

_LANGUAGES = {
    "py": "python",
    "pyi": "python",
    "js": "javascript",
    "mjs": "javascript",
    "jsx": "javascript",
    "ts": "typescript",
    "tsx": "typescript",
    "go": "go",
    "rs": "rust",
    "java": "java",
    "kt": "kotlin",
    "c": "c",
    "h": "c",
    "cc": "c++",
    "cpp": "c++",
    "hpp": "c++",
    "cs": "c#",
    "rb": "ruby",
    "php": "php",
    "swift": "swift",
    "sh": "shell",
    "bash": "shell",
    "sql": "sql",
    "html": "html",
    "css": "css",
    "json": "json",
    "yaml": "yaml",
    "yml": "yaml",
    "toml": "toml",
    "proto": "protobuf",
}
_SUFFIXES = {language: suffix for suffix, language in reversed(_LANGUAGES.items())}
FENCE = re.compile(r"^```[ \t]*([\w+#.-]*)[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Source:
    """One file as text."""

    name: str
    language: str
    text: str

    @property
    def lines(self) -> int:
        """How many lines the file has."""
        return len(self.text.splitlines())


def read_sources(files: Sequence[InputFile], prompt: str, language: str) -> list[Source]:
    """Return the files as text, or the fenced code in the prompt when there are no files.

    Raises Rejected TOO_MANY_FILES, FILE_TOO_LARGE or FILE_NOT_TEXT.
    """
    if len(files) > MAX_FILES:
        raise Rejected("TOO_MANY_FILES", f"{len(files)} files were given and at most {MAX_FILES} are read; give fewer")
    if not files:
        return [
            Source(f"prompt-{position}.{suffix_of(found)}", found, code)
            for position, (marked, code) in enumerate(FENCE.findall(prompt), start=1)
            if (found := normalise(marked or language))
        ]
    return [_read(file, language) for file in files]


def normalise(language: str) -> str:
    """Return the language's usual name in lower case; Python if nothing is known."""
    lowered = language.strip().lower()
    return _LANGUAGES.get(lowered, lowered) or "python"


def suffix_of(language: str) -> str:
    """Return the usual ending of file names, without the dot."""
    return _SUFFIXES.get(language, "txt")


def language_of(name: str) -> str:
    """Tell the language from a file's name; `text` if it can't be told."""
    return _LANGUAGES.get(name.rsplit(".", 1)[-1].lower(), "text") if "." in name else "text"


def numbered(sources: Sequence[Source], limit: int) -> str:
    """List the files with line numbers, cut at about `limit` characters; a cut is stated."""
    parts: list[str] = []
    used = 0
    for source in sources:
        parts.append(f"=== {source.name} ({source.language}, {source.lines} lines)")
        for number, line in enumerate(source.text.splitlines(), start=1):
            listed = f"{number:5d}  {line}"
            if used + len(listed) > limit:
                parts.append(f"=== cut here: {source.name} goes on for {source.lines - number + 1} lines")
                return "\n".join(parts)
            parts.append(listed)
            used += len(listed) + 1
    return "\n".join(parts)


def _read(file: InputFile, language: str) -> Source:
    if len(file.data) > MAX_FILE_BYTES:
        raise Rejected(
            "FILE_TOO_LARGE",
            f"{file.name} has {len(file.data):,} bytes and at most {MAX_FILE_BYTES:,} are read; "
            "give the part that matters",
        )
    told = language_of(file.name)
    found = normalise(language) if told == "text" and language else told
    encoding = "utf-8-sig"
    if found == "python":
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(file.data).readline)
        except SyntaxError:
            encoding = "utf-8-sig"
    try:
        text = file.data.decode(encoding)
    except UnicodeDecodeError as error:
        raise Rejected(
            "FILE_NOT_TEXT",
            f"{file.name}: byte {error.start} is not {encoding.upper()}; give source code saved as UTF-8",
        ) from error
    return Source(file.name, found, text.replace("\r\n", "\n").replace("\r", "\n"))
