"""What a task may set about work on code, and the bounds of what is read."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_FILES = 50
MAX_FILE_BYTES = 1024 * 1024
MAX_PROMPT_CHARACTERS = 60_000
MAX_FINDINGS = 500

Action = Literal["review", "explain", "generate", "refactor", "write_tests"]


class CodeOptions(BaseModel):
    """Parameters of one piece of work on code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Action = Field(default="review", description="What to do with the code.")
    language: str = Field(
        default="",
        max_length=40,
        description="Programming language; told from the files' names if empty, Python for new code.",
    )
    max_complexity: int = Field(
        default=10, ge=1, le=1000, description="A function with a higher cyclomatic complexity is a finding."
    )
    max_function_lines: int = Field(
        default=80, ge=1, le=10_000, description="A function with more lines than this is a finding."
    )
    max_retries: int = Field(
        default=2,
        ge=0,
        le=5,
        description="How often the model is asked again, with what was wrong, when its code fails the checks.",
    )
    model: str = Field(default="", max_length=200, description="Model that is asked; the default if empty.")
