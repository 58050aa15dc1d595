"""What a test needs of its machine: without it, a laptop skips and CI fails."""

import os
from typing import NoReturn

import pytest


def missing(what: str, remedy: str) -> NoReturn:
    """Skip the test that asks, or fail it where nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and CI must have it: {remedy}")
    pytest.skip(f"{what} is missing: {remedy}")
