"""Finds every address that a name stands for."""

import asyncio
import ipaddress
import socket


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
