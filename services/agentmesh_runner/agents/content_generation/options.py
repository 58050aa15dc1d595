"""What a text must be like, and what else a task may set."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agentmesh.sdk import Rejected

MAX_WORDS = 20_000
_MAX_TERMS = 50

Format = Literal["markdown", "plain", "html", "json"]
Language = Literal["", "de", "en", "es", "fr", "it", "ja", "ko", "nl", "pt", "ru", "zh"]


class TextConstraints(BaseModel):
    """What a text must be like; every one of these is checked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_words: int = Field(default=0, ge=0, le=MAX_WORDS, description="At least this many words.")
    max_words: int = Field(default=0, ge=0, le=MAX_WORDS, description="At most this many words; no upper bound if 0.")
    tone_words: tuple[str, ...] = Field(
        default=(), max_length=_MAX_TERMS, description="Words or phrases that must each occur."
    )
    forbidden_words: tuple[str, ...] = Field(
        default=(), max_length=_MAX_TERMS, description="Words or phrases that must not occur."
    )
    required_sections: tuple[str, ...] = Field(
        default=(),
        max_length=_MAX_TERMS,
        description="Headings that must be there, in this order; in JSON, keys of the outermost object.",
    )
    format: Format = Field(default="markdown", description="How the text is written.")
    language: Language = Field(default="", description="Language as its ISO 639-1 code; any if empty.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.max_words and self.min_words > self.max_words:
            raise ValueError(f"min_words ({self.min_words}) is above max_words ({self.max_words})")
        forbidden = {word.casefold() for word in self.forbidden_words}
        both = [word for word in self.tone_words if word.casefold() in forbidden]
        if both:
            raise ValueError(f"{both[0]!r} is both demanded and forbidden")
        return self


class ContentOptions(TextConstraints):
    """Parameters of one text."""

    max_revisions: int = Field(
        default=2, ge=0, le=5, description="How often the model may mend a draft that fails its checks."
    )
    model: str = Field(default="", max_length=200, description="Model that writes; the default if empty.")


def merge_constraints(options: ContentOptions, given: Mapping[str, Any]) -> TextConstraints:
    """Return the constraints of the parameters with those of the task laid over them.

    Raises Rejected CONSTRAINTS_INVALID if one is unknown, malformed or against another.
    """
    names = set(TextConstraints.model_fields)
    try:
        return TextConstraints.model_validate(options.model_dump(include=names) | dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(["constraints", *map(str, first["loc"])])
        hint = f"known are {', '.join(sorted(names))}" if first["type"] == "extra_forbidden" else first["msg"]
        raise Rejected("CONSTRAINTS_INVALID", f"{path}: {hint}") from error
