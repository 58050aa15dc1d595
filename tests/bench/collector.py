"""Takes spans and forgets them, so that a service that is measured has somewhere to send them. Run, it serves."""

import argparse
import asyncio
import sys
from typing import Any

import grpc
import uvloop

_SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"


def _same(data: bytes) -> bytes:
    return data


async def _export(request: bytes, context: Any) -> bytes:
    return b""


async def _serve(port: int) -> None:
    server = grpc.aio.server()
    handlers = {"Export": grpc.unary_unary_rpc_method_handler(_export, _same, _same)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.Event().wait()


def main() -> None:
    """Run as a process."""
    parser = argparse.ArgumentParser(description="A collector of spans that keeps none.")
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(_serve(parser.parse_args().port))


if __name__ == "__main__":
    sys.exit(main())
