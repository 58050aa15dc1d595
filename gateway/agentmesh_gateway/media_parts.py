"""Parts of messages from what vendors' JSON holds: base64, data addresses, addresses."""

import base64
import binascii
import re

from agentmesh.api.types.v1 import types_pb2

_DATA_URL = re.compile(r"data:(?P<kind>[\w.+-]+/[\w.+-]+)(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.ASCII)
# What an address holds is seen by the provider, who reads it; until then it is an image of some kind.
ANY_IMAGE = "image/*"


def text_part(text: str) -> types_pb2.Part:
    """Return a part that holds text, which may be empty."""
    return types_pb2.Part(text=text)


def raw_part(data: str, media_type: str, filename: str = "") -> types_pb2.Part:
    """Return a part that holds the bytes that base64 stands for; raise ValueError if it is none."""
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be base64") from None
    if not raw:
        raise ValueError("must not be empty")
    return types_pb2.Part(raw=raw, media_type=media_type, filename=filename)


def data_url_part(url: str, filename: str = "") -> types_pb2.Part:
    """Return a part that holds what a data address holds; raise ValueError."""
    found = _DATA_URL.match(url)
    if found is None:
        raise ValueError("must begin with data:TYPE/SUBTYPE;base64,")
    return raw_part(url[found.end() :], found["kind"].lower(), filename)


def url_part(url: str, media_type: str) -> types_pb2.Part:
    """Return a part that the provider reads from an http or https address; raise ValueError for any other."""
    if not url.startswith(("https://", "http://")):
        raise ValueError("must be an http, https or data address")
    return types_pb2.Part(url=url, media_type=media_type)


def image_part(url: str) -> types_pb2.Part:
    """Return an image that is in a data address, or at an address; raise ValueError."""
    return data_url_part(url) if url.startswith("data:") else url_part(url, ANY_IMAGE)
