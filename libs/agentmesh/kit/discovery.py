"""Finds every address that names stand for."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable


async def resolve_all(
    addresses: Iterable[str], look_up: Callable[[str], Awaitable[set[str]]] | None = None
) -> dict[str, str]:
    """Return each ip:port that the addresses stand for, with the host name that its certificate is for.

    The name is empty where the address was an ip:port itself. Raises OSError with the address that can't be resolved.
    """
    found: dict[str, str] = {}
    for address in addresses:
        host = address.rpartition(":")[0].strip("[]")
        try:
            targets = await (look_up or resolve)(address)
        except OSError as error:
            raise OSError(address) from error
        for target in targets:
            found[target] = "" if target == address else host
    return found


async def resolve(address: str) -> set[str]:
    """Return every ip:port that a host:port stands for; an ip:port is returned as it is. Raises OSError."""
    host, _, port = address.rpartition(":")
    bare = host.strip("[]")
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo(bare, int(port), type=socket.SOCK_STREAM)
        found = {info[4][0] for info in infos}
        if bare == "localhost":
            found = {"127.0.0.1"}
        return {f"[{ip}]:{port}" if ":" in str(ip) else f"{ip}:{port}" for ip in found}
    return {address}
