"""Runs the deploy scripts with stand-ins for the clouds' commands, and reads what they would send."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMMIT = "0123456789ab"

# Writes down how it was called, and what the files and the standard input hold that it was given.
_STAND_IN = """#!{python} -IS
import json, os, sys, pathlib
name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
files = {{}}
for word in words:
    path = pathlib.Path(word.removeprefix("file://"))
    if path.suffix in (".json", ".yaml") and path.is_file():
        files[path.name] = path.read_text()
call = {{"words": [name, *words], "files": files, "variables": dict(os.environ)}}
if "--password-stdin" in words:
    call["input"] = sys.stdin.read()
with open({log!r}, "a") as log:
    log.write(json.dumps(call) + "\\n")
line = " ".join([name, *words])
for part, answer, code in json.loads({answers!r}):
    if part in line:
        print(answer, end="")
        sys.exit(code)
sys.exit({otherwise})
"""


@dataclass
class Call:
    """One command that a script ran."""

    words: list[str]
    files: dict[str, str]
    variables: dict[str, str]
    input: str = ""

    @property
    def line(self) -> str:
        """The command as it was typed."""
        return " ".join(self.words)


@dataclass
class Ran:
    """What became of a script."""

    code: int
    output: str
    errors: str
    calls: list[Call] = field(default_factory=list)


def run_script(
    script: Path,
    folder: Path,
    variables: Mapping[str, str],
    *options: str,
    answers: Sequence[tuple[str, str, int]] = (),
    without: str = "",
    forbidden: bool = False,
) -> Ran:
    """Run a script with stand-ins for aws, gcloud, az, docker and git.

    `answers` are (part of the command, what it prints, exit code), first match counts; other commands print nothing.
    With `forbidden`, every command but git's fails. The command `without` does not exist.
    """
    place, log = folder / "bin", folder / "calls.jsonl"
    place.mkdir(parents=True)
    for name in ("aws", "gcloud", "az", "docker", "git"):
        if name == without:
            continue
        otherwise = 99 if forbidden and name != "git" else 0
        text = _STAND_IN.format(
            python=sys.executable, log=str(log), answers=json.dumps(list(answers)), otherwise=otherwise
        )
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    # The tools that scripts use beside, and no other.
    for name in ("bash", "dirname", "mktemp", "rm", "base64", "tr", "cat", "env"):
        (place / name).symlink_to(next(p for p in (Path("/usr/bin") / name, Path("/bin") / name) if p.exists()))
    done = subprocess.run(
        [str(script), *options],
        env={"PATH": str(place), "HOME": str(folder), "TMPDIR": str(folder), **variables},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    calls = [Call(**json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []
    return Ran(done.returncode, done.stdout, done.stderr, calls)


def filled(template: Path, values: Mapping[str, str]) -> Any:
    """Return a template as the script fills it in, parsed."""
    text = template.read_text()
    for name, value in values.items():
        text = text.replace(f"${{{name}}}", value)
    return yaml.safe_load(text)


class _CloudFormation(yaml.SafeLoader):
    """Reads !Ref, !Sub and !GetAtt as what `values` has for them."""

    values: Mapping[str, str] = {}


def _tag(loader: _CloudFormation, suffix: str, node: yaml.Node) -> Any:
    if suffix in ("Ref", "GetAtt"):
        name = str(node.value)
        return loader.values.get(name, f"<{name}>")
    if suffix == "Sub":
        text = str(node.value)
        for name, value in loader.values.items():
            text = text.replace(f"${{{name}}}", value)
        return text
    assert isinstance(node, yaml.SequenceNode)
    return {suffix: loader.construct_sequence(node, deep=True)}


_CloudFormation.add_multi_constructor("!", _tag)


def cloud_formation(template: Path, values: Mapping[str, str]) -> Any:
    """Return a template with its references replaced."""

    class Loader(_CloudFormation):
        pass

    Loader.values = values
    return yaml.load(template.read_text(), Loader)


def as_resource(value: Any, *, names: bool = True) -> Any:
    """Return what the ECS API takes as CloudFormation writes it: keys with a capital."""
    if isinstance(value, dict):
        return {
            (key[0].upper() + key[1:] if names else key): as_resource(child, names=key != "options")
            for key, child in value.items()
        }
    if isinstance(value, list):
        return [as_resource(child) for child in value]
    return value
