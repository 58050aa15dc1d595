"""Ids that sort by time: UUIDv7 with a shard byte."""

import os
import time
import uuid

_SHARD_OFFSET = 9  # first whole byte after the variant bits


def new_id(shard: int = 0) -> str:
    """Make a UUIDv7 (RFC 9562) of now, whose tenth byte is the shard, 0 to 255."""
    return id_of(time.time_ns() // 1_000_000, os.urandom(10), shard)


def id_of(ms: int, tail: bytes, shard: int) -> str:
    """Return the UUIDv7 of a time and ten bytes of which it keeps 66 bits; the same for the same."""
    raw = bytearray(ms.to_bytes(6, "big") + tail)
    raw[6] = 0x70 | (raw[6] & 0x0F)
    raw[8] = 0x80 | (raw[8] & 0x3F)
    raw[_SHARD_OFFSET] = shard
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def shard_of(id: str) -> int:
    """Return the shard of an id; raise ValueError if it is none."""
    return uuid.UUID(id).bytes[_SHARD_OFFSET]


def is_id(text: str) -> bool:
    """Say whether a text is a UUID in canonical form."""
    if len(text) != 36:
        return False
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def incarnation_of(name: str) -> str:
    """Name one start of a process: its name and a random part."""
    return f"{name}~{os.urandom(6).hex()}"
