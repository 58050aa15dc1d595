"""What the log says of an unexpected error: what it was and where, and nothing of what was being handled."""

import subprocess
import sys

import pytest

_CODE = """
import sys
from agentmesh.kit import telemetry

telemetry.configure_logging(service="a service", json=sys.argv[1] == "json")


def ask(api_key, prompt):
    raise ValueError("it is down")


try:
    ask("key-for-" + "nobody", "tell " * 2 + "me")
except ValueError as error:
    telemetry.logger("a.module").error("call_failed", exc_info=error)
print("rich" in sys.modules)
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_names_the_place_and_shows_no_variables(form: str) -> None:
    command = [sys.executable, "-c", _CODE, form]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    assert "it is down" in done.stderr
    assert "ask" in done.stderr
    assert "key-for-nobody" not in done.stderr
    assert "tell tell me" not in done.stderr
    assert done.stdout == "False\n"  # it costs a tenth of the start, and draws nothing
