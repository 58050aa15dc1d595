"""What is raised for a configuration that can't be used."""


class ConfigError(ValueError):
    """The configuration is not usable; `errors` has a line for each fault: source, key path, remedy."""

    def __init__(self, *errors: str) -> None:
        self.errors = errors
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        super().__init__(f"the configuration has {count}:" + "".join(f"\n  {error}" for error in errors))
