"""AI agents workflow as a durable gRPC service mesh."""

__version__ = "0.1.0"
