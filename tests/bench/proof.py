"""Holds every measured task to what it should have said: a fast wrong answer is no figure."""

import random
from collections.abc import Sequence

from agentmesh.client import AsyncClient, Result

PROMPT = "hello"
_READ_AGAIN = 10


class WrongAnswer(Exception):
    """A task that did not end with exactly the events it should have."""


def check(result: Result, messages: int) -> None:
    """Raise WrongAnswer unless an `echo` task completed in one attempt and said PROMPT `messages` times."""
    if not result.completed or result.text != PROMPT:
        raise WrongAnswer(f"task {result.task_id} ended {result.state_name} with text {result.text!r}: {result.error}")
    names = [event.name for event in result.events]
    said = [part.text for event in result.events if event.name == "message" for part in event.event.message.parts]
    if said != [PROMPT] * messages:
        raise WrongAnswer(f"task {result.task_id} said {len(said)} messages instead of {messages}: {names[:20]}")
    if [event.sequence for event in result.events] != list(range(1, len(names) + 1)):
        raise WrongAnswer(f"task {result.task_id} has a gap, or more than one attempt: {names[:20]}")
    if names[0] != "state_changed" or names[-1] != "state_changed" or not result.events[-1].is_last:
        raise WrongAnswer(f"task {result.task_id} begins or ends wrongly: {names[:20]}")


async def check_all(client: AsyncClient, results: Sequence[Result], messages: int) -> None:
    """Check each result, that no two are the same task, and that what a few of them said is what was stored."""
    for result in results:
        check(result, messages)
    if len({result.task_id for result in results}) != len(results):
        raise WrongAnswer("two calls were answered with the same task")
    for result in random.sample(results, min(_READ_AGAIN, len(results))):
        stored = await client.result(result.task_id)
        if stored.events != result.events:
            raise WrongAnswer(f"task {result.task_id} is stored with other events than it was streamed with")
