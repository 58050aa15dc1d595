"""The runner: the place where agents live."""
