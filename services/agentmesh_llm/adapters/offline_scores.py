"""Holds documents against a query without a model: the share of the query's words that a document has."""

import re

_WORD = re.compile(r"\w+")


def score_of(query: str, document: str) -> float:
    """Return from 0 to 1 how many of the query's words are in the document; of equal ones the shorter is better."""
    wanted = set(_WORD.findall(query.lower()))
    words = _WORD.findall(document.lower())
    if not wanted or not words:
        return 0.0
    found = wanted.intersection(words)
    told = sum(word in wanted for word in words) / len(words)
    return round((len(found) + told) / (len(wanted) + 1), 6)
