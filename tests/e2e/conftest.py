"""One real mesh for all end-to-end tests of a worker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import agents_for_tests
from tests.support.mesh import Mesh


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh that nobody kills."""
    agents = str(Path(agents_for_tests.__file__))
    with Mesh(tmp_path_factory.mktemp("mesh"), arguments=["--agents", agents]) as running:
        yield running
