"""Programs that tests of the deployment start: the machine's, else .cache/tools', else the test can't run."""

from functools import cache
from pathlib import Path

from tests.support.needs import missing
from tests.tools.fetch import Had, say, tools


def tool(name: str) -> Path:
    """Return the path of promtool, prometheus, amtool, alertmanager, nginx or chromium; fetch it if need be."""
    had = _had(name)
    if not had.path:
        missing(name, had.why)
    return Path(had.path)


@cache
def _had(name: str) -> Had:
    return tools((name,), say=say, believe=True)[name]
