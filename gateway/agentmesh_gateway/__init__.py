"""The HTTP edge of the mesh: JSON, server-sent events and raw bytes in front of the router."""
