"""A model that needs no network: it answers by picking sentences of the prompt, and says so.

A laptop without a key works with it, and tests get the same answer every time.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from itertools import count

from agentmesh.kit.errors import InvalidRequest
from agentmesh_llm import counting
from agentmesh_llm.adapters import provider_errors as errors
from agentmesh_llm.adapters.offline_json import example_json
from agentmesh_llm.adapters.offline_scores import score_of
from agentmesh_llm.adapters.offline_vectors import MAX_DIMENSIONS, vector_of
from agentmesh_llm.batches.shares import together
from agentmesh_llm.domain import (
    Batch,
    Completion,
    DataPart,
    Delta,
    EmbedQuestion,
    Finish,
    FinishReason,
    Message,
    PromptsQuestion,
    Question,
    RerankQuestion,
    Role,
    TextDelta,
    TextPart,
    ToolCallDelta,
    ToolMode,
    Usage,
    Vectors,
)

PREFIX = "Offline model:"
_SENTENCES = 5
_MAX_SOURCE_CHARACTERS = 32 * 1024
_DEFAULT_TOKENS = 1024
_DEFAULT_DIMENSIONS = 256
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_WORD = re.compile(r"\w{3,}")
_PIECE = re.compile(r"\S+\s*|\s+")


class OfflineProvider:
    """Condenses what it is given: the sentences that share most words with the rest, in their own order.

    A response format makes it write the smallest JSON that fits; a tool that must be called is called with the
    smallest arguments that fit. `seed` decides between sentences that are equally good. It neither samples nor
    thinks, so what steers that is ignored; asked how likely its words are, it refuses rather than make figures up.
    """

    async def stream(self, question: Question) -> AsyncGenerator[Sequence[Delta], None]:
        """Stream an answer word by word; raise InvalidRequest if it is to tell how likely they are."""
        if question.top_logprobs is not None:
            raise errors.not_here("top_logprobs", "the offline model doesn't know how likely its words are")
        usage = Usage(input_tokens=counting.tokens_of_messages(question.messages))
        if question.tool_mode in (ToolMode.REQUIRED, ToolMode.NAMED):
            call = _tool_call(question)
            written = counting.tokens_of_text(call.arguments)
            yield [call, Usage(usage.input_tokens, written), Finish(FinishReason.TOOL_CALLS, question.model)]
            return
        reason = FinishReason.STOP
        limit = question.sampling.max_output_tokens or _DEFAULT_TOKENS
        written = 0
        for piece in _PIECE.findall(_until(_answer(question), question.sampling.stop)):
            tokens = counting.tokens_of_text(piece)
            if written + tokens > limit:
                reason = FinishReason.LENGTH
                break
            written += tokens
            yield [TextDelta(piece)]
            # Lets the reader send this word, and a cancel come in, before the next.
            await asyncio.sleep(0)
        yield [Usage(usage.input_tokens, written), Finish(reason, question.model)]

    async def embed(self, question: EmbedQuestion) -> Vectors:
        """Return hashed bags of words, of length one."""
        dimensions = question.dimensions or _DEFAULT_DIMENSIONS
        if dimensions > MAX_DIMENSIONS:
            raise InvalidRequest(
                "the offline model makes shorter vectors only",
                violations=[("dimensions", f"must be at most {MAX_DIMENSIONS}")],
            )
        # Megabytes of text would hold up every stream of the process.
        values = await asyncio.to_thread(lambda: [vector_of(text, dimensions) for text in question.inputs])
        tokens = sum(map(counting.tokens_of_text, question.inputs))
        return Vectors(values, Usage(input_tokens=tokens), question.model)

    async def rerank(self, question: RerankQuestion) -> Batch[float]:
        """Return the share of the query's words that each document has."""
        query, documents = question.query, question.documents
        # Megabytes of text would hold up every stream of the process.
        scores = await asyncio.to_thread(lambda: [score_of(query, document) for document in documents])
        tokens = len(documents) * counting.tokens_of_text(query) + sum(map(counting.tokens_of_text, documents))
        return Batch(scores, Usage(input_tokens=tokens), question.model)

    async def complete(self, question: PromptsQuestion) -> Batch[Completion]:
        """Return for each text what a conversation that is this text would be answered."""
        written: list[Completion] = []
        usage = Usage()
        for prompt in question.prompts:
            asked = Question(question.model, (Message(Role.USER, (TextPart(prompt),)),), sampling=question.sampling)
            text = ""
            async for batch in self.stream(asked):
                for delta in batch:
                    if isinstance(delta, TextDelta):
                        text += delta.text
                    elif isinstance(delta, Usage):
                        usage = together([usage, delta])
                    elif isinstance(delta, Finish):
                        written.append(Completion(text, delta.reason))
        return Batch(written, usage, question.model)

    async def aclose(self) -> None:
        """Hold nothing, let go of nothing."""


def _answer(question: Question) -> str:
    wanted = question.response_format
    summary = _condensed(question.messages, question.sampling.seed or 0)
    if wanted is not None:
        return example_json(wanted.schema or {"type": "object"}, summary)
    return summary


def _condensed(messages: Sequence[Message], seed: int) -> str:
    """Pick the sentences of the conversation that say most of it; system messages are orders, not material."""
    spoken = [message for message in messages if message.role is not Role.SYSTEM] or list(messages)
    source = "\n".join(text for message in spoken for text in _texts(message))[-_MAX_SOURCE_CHARACTERS:]
    sentences = list(dict.fromkeys(s for s in map(str.strip, _SENTENCE_END.split(source)) if s))
    if not sentences:
        return f"{PREFIX} there is no text to condense."
    words = [set(_WORD.findall(sentence.lower())) for sentence in sentences]
    frequency = Counter(word for each in words for word in each)
    # A long sentence shares many words with the others only because it has many.
    weights = [sum(frequency[word] - 1 for word in each) / (len(each) + 4) for each in words]
    number = len(sentences)
    ranked = sorted(range(number), key=lambda at: (-weights[at], (at + seed) % number))
    picked = [sentences[at] for at in sorted(ranked[:_SENTENCES])]
    return " ".join((PREFIX, *picked))


def _texts(message: Message) -> list[str]:
    texts = [part.text for part in message.parts if isinstance(part, TextPart)]
    return texts + [str(part.value) for part in message.parts if isinstance(part, DataPart)]


def _until(text: str, stops: Sequence[str]) -> str:
    ends = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return text[: min(ends)] if ends else text


def _tool_call(question: Question) -> ToolCallDelta:
    name = question.tool_name if question.tool_mode is ToolMode.NAMED else question.tools[0].name
    tool = next(tool for tool in question.tools if tool.name == name)
    used = {call.id for message in question.messages for call in message.tool_calls}
    call_id = next(i for i in (f"offline-{number}" for number in count()) if i not in used)
    arguments = example_json(tool.parameters or {"type": "object"}, _condensed(question.messages, 0))
    return ToolCallDelta(0, call_id, name, arguments)
