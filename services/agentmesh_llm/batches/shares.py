"""Parts what a call consumed among those who shared it, so that the parts add up to it."""

from collections.abc import Callable, Iterable, Sequence

from agentmesh_llm.domain import Usage

Weight = tuple[int, int]
"""How much of the input and how much of the output is one's own."""

_OUTPUT = frozenset({"output_tokens", "reasoning_tokens"})
_COUNTS = Usage._fields
_TOKENS = tuple(name for name in _COUNTS if name.endswith("_tokens"))


def shared_out(total: int, weights: Sequence[int]) -> list[int]:
    """Part a whole number by weights, so that the parts add up to it."""
    parts: list[int] = []
    weight_so_far, given = 0, 0
    whole = sum(weights) or 1
    for weight in weights:
        weight_so_far += weight
        upto = total * weight_so_far // whole
        parts.append(upto - given)
        given = upto
    if parts:
        parts[-1] += total - given
    return parts


def usages(total: Usage, weights: Sequence[Weight], cost_of: Callable[[Usage], int]) -> list[Usage]:
    """Part a usage: what went in by the first weights, what came out by the second ones, the cost by theirs."""
    parted = {
        name: shared_out(getattr(total, name), [out if name in _OUTPUT else into for into, out in weights])
        for name in _TOKENS
        if getattr(total, name)
    }
    parts = [Usage(**{name: parts[at] for name, parts in parted.items()}) for at in range(len(weights))]
    if not total.cost_nano_usd:
        return parts
    costs = shared_out(total.cost_nano_usd, [cost_of(part) for part in parts])
    return [part._replace(cost_nano_usd=cost) for part, cost in zip(parts, costs, strict=True)]


def together(parts: Iterable[Usage]) -> Usage:
    """Add usages up."""
    several = list(parts)
    if len(several) == 1:
        return several[0]
    return Usage(**{name: sum(getattr(part, name) for part in several) for name in _COUNTS})
