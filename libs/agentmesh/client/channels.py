"""The connections of a client: a pool of channels for each address, the next address after a failure."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from agentmesh.api.artifact.v1 import artifact_service_pb2_grpc as artifact_grpc
from agentmesh.api.schedule.v1 import schedule_service_pb2_grpc as schedule_grpc
from agentmesh.api.task.v1 import task_service_pb2_grpc as task_grpc
from agentmesh.kit.errors import InvalidRequest, ResourceExhausted
from agentmesh.kit.rpc_client import Trust, open_channel
from agentmesh.kit.setting_types import ADDRESS

DEFAULT_ADDRESS = "127.0.0.1:50051"
MAX_STREAMS_PER_CHANNEL = 80
"""Servers take 100 on a connection; the next one would wait silently until its deadline."""
MAX_CHANNELS = 64


SYSTEM = Path("system")
"""Stands for the authorities that every client knows, in the place of a PEM file."""


def ca_from_environment() -> Path | None:
    """Return what $AGENTMESH_CA names, if it is set."""
    text = os.environ.get("AGENTMESH_CA")
    return Path(text) if text else None


def _trust(ca: Path | None) -> Trust | None:
    if ca is None:
        return None
    return Trust() if ca == SYSTEM else Trust(ca)


class Channel:
    """One connection, and how many calls it carries."""

    def __init__(self, address: str, ca: Path | None) -> None:
        self.address = address
        self.calls = 0
        self.raw: grpc.aio.Channel = open_channel(address, trust=_trust(ca))
        self.tasks: Any = task_grpc.TaskServiceStub(self.raw)
        self.artifacts: Any = artifact_grpc.ArtifactServiceStub(self.raw)
        self.schedules: Any = schedule_grpc.ScheduleServiceStub(self.raw)


class ChannelPool:
    """Channels to one of several addresses at a time; each carries at most 80 calls."""

    def __init__(self, addresses: Sequence[str], *, ca: Path | None = None) -> None:
        self._addresses = tuple(addresses)
        self._ca = ca
        self._current = 0
        self._channels: dict[str, list[Channel]] = {address: [] for address in self._addresses}

    @property
    def address(self) -> str:
        """Where the next call goes."""
        return self._addresses[self._current]

    def take(self) -> Channel:
        """Return a channel with room for a call, which must be given back; raise ResourceExhausted at the bound."""
        channels = self._channels[self.address]
        for channel in channels:
            if channel.calls < MAX_STREAMS_PER_CHANNEL:
                break
        else:
            if len(channels) >= MAX_CHANNELS:
                limit = MAX_CHANNELS * MAX_STREAMS_PER_CHANNEL
                raise ResourceExhausted(
                    f"this client has {limit} calls open: use a lane, which carries many tasks over one call",
                    reason="TOO_MANY_CALLS",
                )
            channel = Channel(self.address, self._ca)
            channels.append(channel)
        channel.calls += 1
        return channel

    def give_back(self, channel: Channel) -> None:
        """End a call's hold on its channel."""
        channel.calls -= 1

    def failed(self, channel: Channel) -> None:
        """Go on at the next address, unless another call's failure has moved on already."""
        if channel.address == self.address:
            self._current = (self._current + 1) % len(self._addresses)

    async def aclose(self) -> None:
        """Close every channel; calls on them end with Canceled."""
        for channels in self._channels.values():
            for channel in channels:
                await channel.raw.close()
            channels.clear()


def addresses_from(address: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the addresses to call: those given, else $AGENTMESH_ADDRESS, else 127.0.0.1:50051.

    A text may hold several, separated by commas. Raises InvalidRequest for one that isn't host:port.
    """
    text = address if address is not None else os.environ.get("AGENTMESH_ADDRESS") or DEFAULT_ADDRESS
    parts = text.split(",") if isinstance(text, str) else text
    found = tuple(part.strip() for part in parts if part.strip())
    for one in found or ("",):
        match = ADDRESS.fullmatch(one)
        if match is None or not match["port"] or not 0 < int(match["port"]) <= 65535:
            raise InvalidRequest("the address is wrong", violations=[("address", f"{one!r} must be host:port")])
    return found
