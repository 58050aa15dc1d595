"""Static checks of code: each rule's line, and the innocent look-alikes that must pass."""

import ast
import textwrap
from pathlib import Path

import pytest

from agentmesh.sdk import InputFile, Rejected
from agentmesh_runner.agents import code_assistant
from agentmesh_runner.agents.code_assistant.checks import check_source, check_sources
from agentmesh_runner.agents.code_assistant.flow import complexity
from agentmesh_runner.agents.code_assistant.options import CodeOptions
from agentmesh_runner.agents.code_assistant.sources import Source, numbered, read_sources


def rules(code: str, name: str = "m.py", language: str = "python", **options: int) -> list[tuple[int, str]]:
    source = Source(name, language, textwrap.dedent(code).lstrip("\n"))
    found = check_sources([source], CodeOptions(**options))
    return [(finding.line, finding.rule) for finding in found]


FOUND = [
    ("def f(:\n    pass\n", [(1, "syntax-error")]),
    ("x = 1\nif x:\nprint(x)\n", [(3, "syntax-error")]),
    ("x = '\0'\n", [(1, "syntax-error")]),
    ("import os\nimport sys\nprint(sys.path)\n", [(1, "unused-import")]),
    ("from a import (\n    b,\n    c,\n)\nprint(c)\n", [(2, "unused-import")]),
    ("def f():\n    import os\n    return 1\n", [(2, "unused-import")]),
    ("import json\ndef f(json):\n    return json\n", [(1, "unused-import")]),
    ("def f():\n    a = 1\n    b = 2\n    return b\n", [(2, "unused-variable")]),
    (
        "def f():\n    try:\n        g()\n    except ValueError as error:\n        raise\ndef g(): ...\n",
        [(4, "unused-variable")],
    ),
    ("def f():\n    return mistake\n", [(2, "undefined-name")]),
    ("def f(a=[], *, b={}):\n    return a, b\n", [(1, "mutable-default"), (1, "mutable-default")]),
    ("def f(a=list()):\n    return a\n", [(1, "mutable-default")]),
    ("try:\n    x = 1\nexcept:\n    raise\n", [(3, "bare-except")]),
    ("try:\n    x = 1\nexcept ValueError:\n    pass\n", [(3, "except-pass")]),
    ("x = 1\nif x == None:\n    x = 2\n", [(2, "compare-to-none")]),
    ("x = 1\nif True != x:\n    x = 2\n", [(2, "compare-to-bool")]),
    ("x = 'a'\nif x is 'a':\n    x = 'b'\n", [(2, "is-literal")]),
    ("list = [1]\n", [(1, "shadowed-builtin")]),
    ("def f(\n    id,\n):\n    return id\n", [(2, "shadowed-builtin")]),
    ("def f():\n    return 1\n    print(2)\n", [(3, "unreachable-code")]),
    ("for i in range(3):\n    continue\n    print(i)\n", [(3, "unreachable-code")]),
    ("try:\n    x = 1\nexcept ValueError:\n    raise\n    x = 2\n", [(5, "unreachable-code")]),
    ("def f(x):\n    if x:\n        return 1\n", [(1, "missing-return")]),
    ("def f(x):\n    if x:\n        return\n    return 1\n", [(3, "missing-return")]),
    ("x = f'nothing'\n", [(1, "f-string-without-placeholder")]),
    ("x = eval(input())\n", [(1, "dynamic-code")]),
    ("import pickle as p\nx = p.loads(b'')\n", [(2, "unsafe-deserialisation")]),
    ("from pickle import load\nx = load(open('f', 'rb'))\n", [(2, "unsafe-deserialisation")]),
    ("import yaml\nx = yaml.load('a')\n", [(2, "unsafe-deserialisation")]),
    ("import subprocess\nsubprocess.run('ls', shell=True)\n", [(2, "shell-command")]),
    ("import os\nos.system('ls')\n", [(2, "shell-command")]),
    ("import requests\nrequests.get('https://a', verify=False)\n", [(2, "unverified-tls")]),
    ("db_password = 'hunter2!'\n", [(1, "hard-coded-secret")]),
    ("x = dict(api_key='abcd1234')\n", [(1, "hard-coded-secret")]),
    ("x = {\n    'token': 'abcd1234',\n}\n", [(2, "hard-coded-secret")]),
    ("assert (1, 'message')\n", [(1, "assert-on-tuple")]),
    ("x = {'a': 1, 'a': 2}\n", [(1, "repeated-key")]),
    ("x = '\\d'\n", [(1, "invalid-escape")]),
]

INNOCENT = [
    "from __future__ import annotations\nimport os\ndef f(x: os.PathLike) -> None: ...\n",
    "import os\n__all__ = ['os']\n",
    "import os as os\nfrom a import b as b\n",
    "try:\n    import orjson\nexcept ImportError:\n    orjson = None\n",
    "try:\n    import tomllib\nexcept ModuleNotFoundError:\n    found = False\n",
    "import os  # noqa: F401\n",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a import B\ndef f(x: 'B | None') -> None: ...\n",
    "import os\nclass A:\n    def f(self):\n        return [os for _ in range(2)]\n",
    "def f():\n    x = 1\n    def g():\n        return x\n    return g\n",
    "def f():\n    x = 1\n    def g():\n        nonlocal x\n        x = 2\n    return g\n",
    "def f():\n    a, b = 1, 2\n    return b\n",
    "def f():\n    x = 1\n    return locals()\n",
    "def f():\n    x = 1\n    del x\n",
    "from a import *\nprint(anything)\n",
    "try:\n    unicode\nexcept NameError:\n    unicode = str\n",
    "def f():\n    global late\n    late = 1\ndef g():\n    return late\n",
    "def f(a=None, b=(), c=frozenset()):\n    return a, b, c\n",
    "class A:\n    id = 1\n    def list(self):\n        return __class__\n",
    "x = 1\nprint(f'{x:>{10}}')\nprint(f'{x:>10}')\n",
    "def f(x):\n    while True:\n        if x():\n            return 1\n",
    "def f(x):\n    if x:\n        return 1\n    else:\n        raise ValueError\n",
    "def f(p):\n    with open(p) as file:\n        return file.read()\n",
    "def f(x):\n    with x:\n        if x:\n            return 1\n        return 2\n",
    "def f(x):\n    try:\n        return int(x)\n    except ValueError:\n        return 0\n",
    "def f(x):\n    match x:\n        case 1:\n            return 'a'\n        case _:\n            return 'b'\n",
    "import sys\ndef f(x):\n    if x:\n        return 1\n    sys.exit(2)\n",
    "def f(x):\n    if x:\n        return None\n    print(x)\n",
    "def f(xs):\n    for x in xs:\n        yield x\n    return 5\n",
    "import yaml\nx = yaml.load('a', Loader=yaml.SafeLoader)\ny = yaml.safe_load('b')\n",
    "import subprocess\nsubprocess.run(['ls'], shell=False)\n",
    "import re\nx = re.compile('a')\nclass M:\n    def eval(self):\n        return self\nM().eval()\n",
    "password = ''\ntoken_name = 'abcd1234'\napi_key = 'OPENAI_API_KEY'\n",
    "secret = '${SECRET}'\ntoken = 'a text of words'\n",
    "x = None\nif x is None or x is not True:\n    x = 1\n",
    "def f(p):\n    match p:\n        case {'a': a, **rest}:\n            return a, rest\n"
    "        case [first, *others]:\n            return first, others\n        case _:\n            return None\n",
]  # fmt: skip


@pytest.mark.parametrize(("code", "expected"), FOUND)
def test_each_rule_finds_its_line_and_nothing_else(code: str, expected: list[tuple[int, str]]) -> None:
    assert rules(code) == expected


@pytest.mark.parametrize("code", INNOCENT)
def test_innocent_code_has_no_finding(code: str) -> None:
    ast.parse(code)
    assert rules(code) == []


def test_columns_count_from_one() -> None:
    (finding,) = check_source(Source("m.py", "python", "x = 1; y = x == None\n"), CodeOptions())
    assert (finding.line, finding.column, finding.file) == (1, 12, "m.py")


def test_complexity_counts_each_way_to_part() -> None:
    code = """
    def f(a, b):
        if a and b or a:
            return 1
        elif b:
            return [x for x in a if x]
        for _ in a:
            while b:
                b = 2 if a else 3
        try:
            pass
        except ValueError:
            raise
        return 0
    """
    function = ast.parse(textwrap.dedent(code)).body[0]
    assert complexity(function) == 1 + 1 + 2 + 1 + 2 + 1 + 1 + 1 + 1


def test_complex_and_long_functions_are_found_at_the_bounds_of_the_task() -> None:
    code = "def f(x):\n" + "    if x:\n        x = 2\n" * 10 + "    return x\n"
    assert rules(code, max_complexity=10) == [(1, "complex-function")]
    assert rules(code, max_complexity=11) == []
    assert rules(code, max_complexity=11, max_function_lines=21) == [(1, "long-function")]


def test_complexity_of_an_inner_function_is_its_own() -> None:
    inner = (
        "def f(x):\n    def g(y):\n" + "        if y:\n            y = 2\n" * 10 + "        return y\n    return g(x)\n"
    )
    assert rules(inner) == [(2, "complex-function")]


def test_init_modules_may_import_what_they_pass_on() -> None:
    assert rules("from a import b\n", "pkg/__init__.py") == []


def test_a_secret_is_never_repeated() -> None:
    (finding,) = check_source(Source("m.py", "python", "password = 'hunter2!'\n"), CodeOptions())
    assert "hunter2" not in str(finding)


def test_code_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    assert rules(f"open({str(mark)!r}, 'w').write('x')\n") == []
    assert not mark.exists()


def test_endless_nesting_is_a_finding_and_not_a_crash() -> None:
    assert rules("x = " + "(" * 5000 + ")" * 5000)[0][1] == "syntax-error"
    assert rules("x = " + "-" * 50_000 + "1\n")[0][1] in {"syntax-error", "not-checked"}
    assert rules("x = " + "+".join(["1"] * 20_000) + "\n")[0][1] in {"syntax-error", "not-checked"}


def test_other_languages_are_checked_by_their_text() -> None:
    code = "const a = 1\n<<<<<<< HEAD\nconst apiKey = 'abcd1234'\n" + "x" * 201 + "\n"
    assert rules(code, "m.js", "javascript") == [(2, "merge-conflict"), (3, "hard-coded-secret"), (4, "long-line")]
    assert rules('{"a": 1,}\n', "m.json", "json") == [(1, "syntax-error")]


def test_findings_are_sorted_by_file_and_place() -> None:
    sources = [Source("b.py", "python", "import os\n"), Source("a.py", "python", "x = f''\nimport os\n")]
    found = check_sources(sources, CodeOptions())
    assert [(finding.file, finding.line) for finding in found] == [("a.py", 1), ("a.py", 2), ("b.py", 1)]


def test_the_agent_finds_no_error_in_its_own_code() -> None:
    folder = Path(str(code_assistant.__file__)).parent
    files = [InputFile(name=path.name, media_type="", data=path.read_bytes()) for path in sorted(folder.glob("*.py"))]
    found = check_sources(read_sources(files, "", ""), CodeOptions())
    assert [
        str(finding) for finding in found if finding.severity != "info" and finding.rule != "complex-function"
    ] == []


def test_files_are_read_by_their_declared_encoding() -> None:
    data = "# -*- coding: latin-1 -*-\nname = 'Zürich'\n".encode("latin-1")
    (source,) = read_sources([InputFile(name="m.py", media_type="", data=data)], "", "")
    assert "Zürich" in source.text


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([("m.py", b"x = '\xff'")], "FILE_NOT_TEXT"),
        ([("m.py", b"#" * (1024 * 1024 + 1))], "FILE_TOO_LARGE"),
        ([(f"{i}.py", b"") for i in range(51)], "TOO_MANY_FILES"),
    ],
)
def test_files_that_cannot_be_read_are_rejected(files: list[tuple[str, bytes]], reason: str) -> None:
    with pytest.raises(Rejected) as caught:
        read_sources([InputFile(name=name, media_type="", data=data) for name, data in files], "", "")
    assert caught.value.reason == reason


def test_listing_is_numbered_and_says_where_it_is_cut() -> None:
    source = Source("m.py", "python", "first\nsecond\nthird\n")
    assert "    2  second" in numbered([source], 1000)
    cut = numbered([source], 30)
    assert "third" not in cut
    assert "m.py goes on for 1 lines" in cut
