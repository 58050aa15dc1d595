"""What a command says and exits with when something is wrong: a line, the fields, and what to do about it."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from agentmesh.kit.config import ConfigError
from agentmesh.kit.errors import (
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    MeshError,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

COMPLETED, FAILED, USAGE, UNREACHABLE, CANCELED, INPUT_REQUIRED = range(6)
INTERRUPTED = 130

P = ParamSpec("P")
R = TypeVar("R")


def exit_code_of(error: MeshError) -> int:
    """Return the exit code of a command that ended with this error."""
    if isinstance(error, Unavailable):
        return UNREACHABLE
    return USAGE if isinstance(error, InvalidRequest) else FAILED


def advice_for(error: MeshError) -> str:
    """Return what to do about an error, or nothing."""
    if isinstance(error, Unavailable):
        if "error_id" in error.metadata:
            return "the mesh is there but something it needs is not; `agentmesh doctor` says what"
        return "start it with: agentmesh up   (or name another with --address or AGENTMESH_ADDRESS)"
    if isinstance(error, Unauthenticated | PermissionDenied):
        return "set AGENTMESH_TOKEN to an API key that the mesh knows"
    if isinstance(error, ResourceExhausted) and error.retry_after_s:
        return f"try again in {error.retry_after_s:g} s"
    if isinstance(error, DeadlineExceeded):
        return "the mesh is slow or overloaded; `agentmesh doctor` shows how fast each service answers"
    if error.reason == "AGENT_NOT_FOUND":
        return "`agentmesh agents` lists those that are served"
    return ""


def report(error: MeshError, *, of_task: bool = False) -> None:
    """Print an error to standard error: message, fields, advice; that of a task says nothing of this call."""
    print(f"error: {error.message}", file=sys.stderr)
    for field, description in error.violations:
        print(f"  {field}: {description}", file=sys.stderr)
    if not of_task and (advice := advice_for(error)):
        print(f"  {advice}", file=sys.stderr)
    if isinstance(error, Internal) and (error_id := error.metadata.get("error_id")):
        print(f"  error id: {error_id}", file=sys.stderr)


def reported(command: Callable[P, R]) -> Callable[P, R]:
    """Turn what a command raises into lines and an exit code."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(USAGE)
        except MeshError as error:
            report(error)
            sys.exit(exit_code_of(error))
        except OSError as error:
            name = f"{error.filename}: " if error.filename else ""
            print(f"error: {name}{error.strerror or error}", file=sys.stderr)
            sys.exit(FAILED)

    return wrapped
