"""The bounds of the llm service in one place: the configured ones and those that follow from the contract."""

from dataclasses import dataclass

from agentmesh.kit.model_settings import Llm


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is held, and for how long."""

    join_grace_s: float = 60.0
    """How long a keyed call goes on without callers, and a whole answer stays joinable."""
    join_call_bytes: int = 1024 * 1024
    """Kept of one keyed call."""
    join_total_bytes: int = 64 * 1024 * 1024
    """Kept of all of them."""
    reader_bytes: int = 128 * 1024
    """Unread by the slowest caller before the provider has to wait; one read from its socket may come on top."""
    response_bytes: int = 64 * 1024
    """One message of a stream, give or take one delta."""
    stream_s: float = 3600.0
    """The longest stream, whatever its deadline."""

    lease_s: float = 3.0
    """After which another llm-proxy asks a question whose holder is dead."""
    share_wait_s: float = 20.0
    """How long a call waits for the same one at another llm-proxy."""

    @staticmethod
    def of(settings: Llm) -> "Bounds":
        """Take over what is configured; all joinable answers together get 64 times what one gets."""
        return Bounds(
            join_grace_s=settings.join_grace_s,
            join_call_bytes=settings.join_max_bytes,
            join_total_bytes=64 * settings.join_max_bytes,
            share_wait_s=settings.share_wait_s,
        )
