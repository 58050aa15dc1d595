"""Byte ranges of RFC 9110: one range a request; several, or nonsense, are answered with the whole."""

import re

_RANGE = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.IGNORECASE | re.ASCII)
_MAX_DIGITS = 18


class Unsatisfiable(ValueError):
    """The range begins behind the end."""


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the first byte and the number of bytes, or None for the whole; raise Unsatisfiable."""
    found = _RANGE.fullmatch(header)
    if found is None or not any(found.groups()) or max(map(len, found.groups())) > _MAX_DIGITS:
        return None
    first, last = found.groups()
    if not first:
        length = min(int(last), size)
        if length == 0:
            raise Unsatisfiable
        return size - length, length
    start, end = int(first), min(int(last) if last else size - 1, size - 1)
    if last and int(last) < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return start, end - start + 1
