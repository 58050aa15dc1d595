"""gRPC-Web by hand, as a browser's library does it: one HTTP/1.1 request, frames in the answer, trailers at the end."""

from collections.abc import Iterator
from typing import Any

import httpx
from google.protobuf.message import Message

CONTENT_TYPE = "application/grpc-web+proto"
_TRAILERS = 0x80


def framed(message: Message) -> bytes:
    """Return a message as a frame."""
    data = message.SerializeToString()
    return b"\x00" + len(data).to_bytes(4, "big") + data


class Frames:
    """Parts what arrives into messages and trailers."""

    def __init__(self) -> None:
        self.trailers: dict[str, str] = {}
        self._rest = b""

    def messages(self, data: bytes) -> Iterator[bytes]:
        """Take bytes in, and yield the messages that are complete by now."""
        self._rest += data
        while len(self._rest) >= 5:
            end = 5 + int.from_bytes(self._rest[1:5], "big")
            if len(self._rest) < end:
                return
            kind, body, self._rest = self._rest[0], self._rest[5:end], self._rest[end:]
            if kind & _TRAILERS:
                lines = (line.partition(":") for line in body.decode().split("\r\n") if line)
                self.trailers = {name.strip().lower(): value.strip() for name, _, value in lines}
            else:
                yield body


async def call(
    http: httpx.AsyncClient, method: str, request: Message, answer: type[Any], headers: dict[str, str]
) -> tuple[list[Any], dict[str, str]]:
    """Make a call; return its messages and its trailers, which stand in the head when there is no message."""
    sent = {"content-type": CONTENT_TYPE, "accept": CONTENT_TYPE, "x-grpc-web": "1", **headers}
    frames = Frames()
    async with http.stream("POST", method, content=framed(request), headers=sent) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("application/grpc-web")
        got = [answer.FromString(body) async for data in response.aiter_raw() for body in frames.messages(data)]
    trailers = frames.trailers or {name: response.headers[name] for name in response.headers if "grpc-" in name}
    return got, trailers
