from pathlib import Path

import pytest

from tests.planted.faults import FAULTS, Planted

_ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_planted_fault_still_finds_the_text_that_it_replaces(fault: Planted) -> None:
    assert (_ROOT / fault.file).read_text().count(fault.old) == 1
