"""Tools: functions that agents and models may call, with a schema made of their signature."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model


@dataclass(frozen=True)
class Tool:
    """A function with a name, a description and a JSON Schema.

    An `idempotent` tool is run again when a crash hides whether it did its work; others are not, see
    ToolOutcomeUnknown.
    """

    name: str
    description: str
    function: Callable[..., Any]
    arguments: type[BaseModel]
    idempotent: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)

    def fits(self, arguments: dict[str, Any]) -> bool:
        """Say whether `call` would take these arguments."""
        try:
            self.arguments.model_validate(arguments)
        except ValidationError:
            return False
        return True

    async def call(self, arguments: dict[str, Any]) -> Any:
        """Check the arguments against the schema and call the function; raises pydantic's ValidationError."""
        checked = self.arguments.model_validate(arguments)
        values = {name: getattr(checked, name) for name in type(checked).model_fields}
        result = self.function(**values)
        return await result if inspect.isawaitable(result) else result


def tool(
    function: Callable[..., Any] | None = None, *, name: str = "", description: str = "", idempotent: bool = False
) -> Any:
    """Make a tool of a function with annotated parameters; use it bare or with options."""
    if function is None:
        return lambda f: tool(f, name=name, description=description, idempotent=idempotent)
    hints = get_type_hints(function)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"tool {function.__name__!r} must name every parameter")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints.get(parameter.name, Any), default)
    arguments = create_model(function.__name__, __config__=ConfigDict(extra="forbid"), **fields)
    return Tool(
        name=name or function.__name__,
        description=description or (inspect.getdoc(function) or ""),
        function=function,
        arguments=arguments,
        idempotent=idempotent,
        parameters=arguments.model_json_schema(),
    )
