"""The storage service: tasks, events, steps, leases and artifacts, and the only authority that numbers events."""
