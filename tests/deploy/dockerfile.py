"""A Dockerfile as tests see it: its stages, and their steps run on this machine where a build can't be."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    """One instruction: its keyword in capitals, and the rest as one line."""

    keyword: str
    text: str

    def words(self) -> list[str]:
        """Return the arguments, of the JSON form or of the other."""
        return list(json.loads(self.text)) if self.text.startswith("[") else shlex.split(self.text)


@dataclass
class Stage:
    """What stands between one FROM and the next."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, keyword: str) -> list[Instruction]:
        """Return the instructions of a kind."""
        return [one for one in self.instructions if one.keyword == keyword]

    def one(self, keyword: str) -> Instruction:
        """Return the only instruction of a kind."""
        (found,) = self.all(keyword)
        return found

    def variables(self) -> dict[str, str]:
        """Return what ENV sets."""
        return dict(word.split("=", 1) for one in self.all("ENV") for word in one.words())

    def scripts(self) -> Iterator[str]:
        """Yield each RUN as its shell gets it, without its mounts."""
        for one in self.all("RUN"):
            yield re.sub(r"^(--\S+\s+)*", "", one.text)


def stages_of(file: Path) -> list[Stage]:
    """Read a Dockerfile; comments and line breaks are gone."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    found: list[Stage] = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        keyword, _, text = line.partition(" ")
        if keyword == "FROM":
            base, *alias = text.split()
            found.append(Stage(base, alias[-1] if alias else ""))
        elif found:
            found[-1].instructions.append(Instruction(keyword.upper(), text.strip()))
    return found


def moved(text: str, folders: Mapping[str, Path]) -> str:
    """Return a command or a value with an image's folders replaced by those that stand for them here."""
    names = "|".join(map(re.escape, folders))
    return re.sub(rf"(?<![\w./-])({names})(?=[/\s:\"']|$)", lambda match: str(folders[match[1]]), text)
