"""The books in PostgreSQL, which all llm-proxies share."""
