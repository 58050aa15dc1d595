"""Makes vectors of texts without a model, equal in every process, near for texts that share words."""

import hashlib
import math
import re
from collections import Counter

MAX_DIMENSIONS = 4096
_WORD = re.compile(r"\w+")


def vector_of(text: str, dimensions: int) -> list[float]:
    """Return a text's bag of words, hashed into `dimensions` numbers, as a vector of length one."""
    # A text without words is one word of its own.
    counts = Counter(_WORD.findall(text.lower())) or Counter([text])
    vector = [0.0] * dimensions
    for word, number in counts.items():
        digest = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
        # The sign lets words that meet in one place cancel out instead of adding up.
        vector[(digest >> 1) % dimensions] += (1 if digest & 1 else -1) * (1 + math.log(number))
    length = math.sqrt(sum(value * value for value in vector))
    if not length:
        vector[0] = length = 1.0
    return [value / length for value in vector]
