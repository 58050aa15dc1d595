"""Answers on their way to callers, shared or not, and those that were given before."""
