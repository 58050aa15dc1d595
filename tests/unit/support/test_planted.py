"""The planted faults fit the code as it is: each changes one place, and only where it means to."""

from pathlib import Path

import pytest

from tests.planted.faults import FAULTS, Planted

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.promise} {fault.what}")
def test_a_planted_fault_finds_its_place_and_its_test(fault: Planted) -> None:
    assert (ROOT / fault.file).read_text().count(fault.old) == 1
    assert fault.new != fault.old
    assert (ROOT / fault.test[0]).exists()
