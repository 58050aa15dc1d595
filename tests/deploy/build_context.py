"""What a build's context holds, by the rules of .dockerignore."""

import fnmatch
import os
import re
from collections.abc import Iterator
from pathlib import Path


def files_of(root: Path) -> Iterator[Path]:
    """Yield the files that .dockerignore lets into the context, relative to `root`; the last rule that fits wins."""
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [(not line.startswith("!"), _pattern(line.removeprefix("!"))) for line in lines if _is_rule(line)]
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in (".git", ".venv", "__pycache__")]
        for name in files:
            path = (Path(folder) / name).relative_to(root)
            whole = [str(path), *map(str, path.parents[:-1])]
            outside = False
            for excludes, pattern in rules:
                if any(pattern.fullmatch(part) for part in whole):
                    outside = excludes
            if not outside:
                yield path


def _is_rule(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _pattern(rule: str) -> re.Pattern[str]:
    rule = rule.strip().strip("/")
    parts = [".*" if part == "**" else fnmatch.translate(part)[4:-3].replace(".*", "[^/]*") for part in rule.split("/")]
    return re.compile("/".join(parts).replace(".*/", "(?:.*/)?"))
