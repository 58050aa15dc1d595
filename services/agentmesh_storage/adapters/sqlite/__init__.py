"""The embedded backend: one SQLite file, one writer, group commit."""
