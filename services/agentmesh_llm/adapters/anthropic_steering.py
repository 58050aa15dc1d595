"""Writes what steers an answer as Anthropic's API takes it, and refuses by its name what the API has no form for."""

from typing import Any

from agentmesh.kit.errors import InvalidRequest
from agentmesh_llm.adapters import provider_errors as errors
from agentmesh_llm.adapters.anthropic_schemas import closed
from agentmesh_llm.domain import Effort, Question, Reasoning, Sampling, Thinking, ToolMode

# The API demands a bound. No current model writes less, and nobody is charged for what is not written.
DEFAULT_MAX_TOKENS = 32_000
_ROOM_TO_ANSWER = 8_000  # tokens, beside a budget for thinking that needs all of the default
_MAX_TEMPERATURE = 1.0
_MIN_BUDGET = 1024

_CHOICES = {ToolMode.AUTO: "auto", ToolMode.NONE: "none", ToolMode.REQUIRED: "any"}
_EFFORTS = {Effort.MINIMAL: "low"}  # the least that the API knows


def steering(question: Question, schema: dict[str, Any] | None) -> dict[str, Any]:
    """Return the bound on tokens and the fields that the caller gave; `schema` is enforced on the answer.

    The API has no seed: it is only ever a wish, and goes unfulfilled here. Its prompt cache needs no key.
    """
    _refuse_unknown(question)
    sampling, reasoning = question.sampling, question.reasoning
    optional = {
        "max_tokens": _max_tokens(sampling, reasoning),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "stop_sequences": list(sampling.stop) or None,
        "thinking": _thinking(reasoning, forced=question.tool_mode in (ToolMode.REQUIRED, ToolMode.NAMED)),
        "output_config": _output_config(reasoning, schema) or None,
    }
    return {key: value for key, value in optional.items() if value is not None}


def tool_choice(question: Question) -> dict[str, Any]:
    """Write whether the model must call a tool, and whether it may call several at once."""
    if question.tool_mode is ToolMode.NAMED:
        choice: dict[str, Any] = {"type": "tool", "name": question.tool_name}
    else:
        choice = {"type": _CHOICES[question.tool_mode]}
    if question.parallel_tool_calls is False and question.tool_mode is not ToolMode.NONE:
        choice["disable_parallel_tool_use"] = True
    return choice


def _refuse_unknown(question: Question) -> None:
    sampling = question.sampling
    if question.top_logprobs is not None:
        raise errors.not_here("top_logprobs", "this provider doesn't tell how likely tokens are")
    for name in ("frequency_penalty", "presence_penalty"):
        if getattr(sampling, name):
            raise errors.not_here(f"sampling.{name}", "this provider knows no penalties")
    if sampling.temperature is not None and sampling.temperature > _MAX_TEMPERATURE:
        text = f"must be from 0 to {_MAX_TEMPERATURE:g} for this provider"
        raise InvalidRequest("this provider's temperature ends at 1", violations=[("sampling.temperature", text)])


def _max_tokens(sampling: Sampling, reasoning: Reasoning | None) -> int:
    budget = _budget(reasoning)
    if not budget:
        return sampling.max_output_tokens or DEFAULT_MAX_TOKENS
    if budget < _MIN_BUDGET:
        raise _bad_budget(f"must be at least {_MIN_BUDGET} for this provider")
    if not sampling.max_output_tokens:
        return max(DEFAULT_MAX_TOKENS, budget + _ROOM_TO_ANSWER)
    if budget >= sampling.max_output_tokens:
        raise _bad_budget("must be less than the longest answer, which thinking is part of")
    return sampling.max_output_tokens


def _bad_budget(text: str) -> InvalidRequest:
    return InvalidRequest("the tokens for thinking are wrong", violations=[("reasoning.max_tokens", text)])


def _budget(reasoning: Reasoning | None) -> int:
    return 0 if reasoning is None or _is_off(reasoning) else reasoning.max_tokens


def _is_off(reasoning: Reasoning) -> bool:
    return reasoning.mode is Thinking.OFF or (reasoning.mode is None and reasoning.effort is Effort.NONE)


def _thinking(reasoning: Reasoning | None, *, forced: bool) -> dict[str, Any] | None:
    """Return how the model thinks: for a number of tokens as long as that, else as long as it finds good.

    The API lets no model think that is `forced` to call a tool: there the effort alone has to do, if that was given.
    """
    if reasoning is None:
        return None
    if _is_off(reasoning):
        return {"type": "disabled"}
    budget = _budget(reasoning)
    if forced and (budget or reasoning.mode is Thinking.ON):
        text = "can't force a call where the model is to think"
        raise InvalidRequest("the choice of a tool is wrong", violations=[("tool_choice.mode", text)])
    told = {} if reasoning.shown is None else {"display": "summarized" if reasoning.shown else "omitted"}
    if budget:
        return {"type": "enabled", "budget_tokens": budget, **told}
    if forced or reasoning.mode is Thinking.HABIT:
        return None
    asked = reasoning.mode is Thinking.ON or reasoning.effort is not None or told
    return {"type": "adaptive", **told} if asked else None


def _output_config(reasoning: Reasoning | None, schema: dict[str, Any] | None) -> dict[str, Any]:
    config: dict[str, Any] = {}
    effort = reasoning.effort if reasoning is not None else None
    if effort not in (None, Effort.NONE):
        config["effort"] = _EFFORTS.get(effort, effort.value)
    if schema is not None:
        config["format"] = {"type": "json_schema", "schema": closed(schema)}
    return config
