"""Answers that callers share: those under way, and those that were given before."""
