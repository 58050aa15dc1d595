"""32-bit floats as little-endian bytes: how vectors travel in base64 and lie in caches, on any machine."""

import array
import sys
from collections.abc import Iterable


def packed(values: Iterable[float]) -> bytes:
    """Write numbers, four bytes each."""
    numbers = array.array("f", values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def unpacked(data: bytes) -> list[float]:
    """Read numbers back; raise ValueError if there is not a whole number of them."""
    numbers = array.array("f")
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
