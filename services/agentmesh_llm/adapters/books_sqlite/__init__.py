"""The books in a SQLite file: one llm-proxy on one machine."""
