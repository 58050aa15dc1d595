"""Which failures a client may try again after, because that may help and does no harm."""

from agentmesh.kit import names
from agentmesh.kit.errors import Canceled, Internal, MeshError, ResourceExhausted, Unavailable


def is_worth_repeating(error: MeshError) -> bool:
    """Say whether trying again later may help: the mesh can't be reached, or it asked this client to slow down."""
    return is_out_of_reach(error) or is_told_to_slow_down(error)


def is_out_of_reach(error: MeshError) -> bool:
    """Say whether a failure is one of the connection or of something that comes back.

    A status without an error id was made by gRPC itself, not said by the mesh: the connection was cut.
    """
    return isinstance(error, Unavailable) or (
        isinstance(error, Internal | Canceled) and "error_id" not in error.metadata
    )


def is_told_to_slow_down(error: MeshError) -> bool:
    """Say whether a submit was refused for its pace. Nothing was done for it, so it is safe to repeat.

    A full queue (QUEUE_FULL) is not of this kind: it may stay full for hours, and who fills it should know.
    """
    return (
        isinstance(error, ResourceExhausted)
        and error.retry_after_s is not None
        and error.reason in (names.OVERLOADED, names.RATE_LIMITED)
    )
