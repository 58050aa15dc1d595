"""The production backend: PostgreSQL, any number of storage processes, group commit in few statements."""
