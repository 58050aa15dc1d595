"""Estimates tokens where no tokenizer is at hand, by a rule that is written down.

A run of ASCII letters and digits counts one token for every six characters begun, any other run of letters one
for every three bytes of UTF-8 begun, every other visible character one. A message counts four more, the start of
the answer three, an image, sound or file 1,000.
"""

import re
from collections.abc import Iterable

from agentmesh_llm.domain import DataPart, MediaPart, Message, Question, TextPart

_PIECE = re.compile(r"[A-Za-z0-9]+|[^\W_]+|\S")
_ASCII_CHARACTERS_PER_TOKEN = 6
_OTHER_BYTES_PER_TOKEN = 3
_CHARACTERS_PER_TOKEN = 4
_PER_MESSAGE = 4
_PER_ANSWER = 3
_PER_MEDIA = 1000


def tokens_of_text(text: str) -> int:
    """Estimate the tokens of a text."""
    count = 0
    for piece in _PIECE.findall(text):
        if piece.isascii():
            count += -(-len(piece) // _ASCII_CHARACTERS_PER_TOKEN)
        else:
            count += -(-len(piece.encode()) // _OTHER_BYTES_PER_TOKEN)
    return count


def roughly(characters: int) -> int:
    """Estimate the tokens of so many characters of any text, at once however many they are."""
    return -(-characters // _CHARACTERS_PER_TOKEN)


def rough_tokens(question: Question) -> int:
    """Estimate the input tokens of a question, at once however long it is; what it brings along counts, too."""
    media = sum(isinstance(part, MediaPart) for message in question.messages for part in message.parts)
    return roughly(characters_of(question.messages)) + _PER_MEDIA * media


def rough_tokens_of_texts(texts: Iterable[str]) -> int:
    """Estimate the tokens of texts, at once however long they are."""
    return roughly(sum(map(len, texts)))


def characters_of(messages: Iterable[Message]) -> int:
    """Return how many characters a conversation has, text and tool calls."""
    texts = (part.text for message in messages for part in message.parts if isinstance(part, TextPart))
    calls = (call.name + call.arguments for message in messages for call in message.tool_calls)
    return sum(map(len, texts)) + sum(map(len, calls))


def tokens_of_messages(messages: Iterable[Message]) -> int:
    """Estimate the tokens that a conversation costs as input."""
    count = _PER_ANSWER
    for message in messages:
        count += _PER_MESSAGE
        for part in message.parts:
            if isinstance(part, TextPart):
                count += tokens_of_text(part.text)
            elif isinstance(part, DataPart):
                count += tokens_of_text(str(part.value))
            elif isinstance(part, MediaPart):
                count += _PER_MEDIA
        for call in message.tool_calls:
            count += tokens_of_text(call.name) + tokens_of_text(call.arguments)
    return count
