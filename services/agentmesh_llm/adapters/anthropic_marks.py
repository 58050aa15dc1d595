"""Writes where Anthropic's prompt cache is to end: a mark on the last block before that place."""

from collections.abc import Callable, Sequence
from typing import Any

from agentmesh_llm.domain import CacheBreakpoint, Message, Part

Block = dict[str, Any]

_USUAL_S = 300.0  # the shorter of the API's two times


def cache_mark(wanted: CacheBreakpoint) -> Block:
    """Return the mark: the API's usual time, or that of its two times which is long enough, at most an hour."""
    control = {"type": "ephemeral"}
    if wanted.ttl_s:
        control["ttl"] = "5m" if wanted.ttl_s <= _USUAL_S else "1h"
    return {"cache_control": control}


def marked(message: Message, write: Callable[[Part], list[Block]], after: Sequence[Block] = ()) -> list[Block]:
    """Return the blocks of a message's parts, and those `after` them, with its marks.

    A part that makes no block has its mark on the one before, or none.
    """
    wanted = {each.part: each for each in message.cache_breakpoints}
    blocks: list[Block] = []
    for at, made in enumerate([*map(write, message.parts), list(after)]):
        blocks += made
        if at in wanted and blocks:
            blocks[-1] = blocks[-1] | cache_mark(wanted[at])
    return blocks
