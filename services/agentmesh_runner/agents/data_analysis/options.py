"""What a task may set about an analysis, and the bounds of what is read."""

from pydantic import BaseModel, ConfigDict, Field

MAX_ROWS = 1_000_000
MAX_COLUMNS = 1_000
MAX_BYTES = 64 * 1024 * 1024
MAX_CHARTS = 12


class AnalysisOptions(BaseModel):
    """Parameters of one analysis."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str = Field(
        default="",
        max_length=255,
        description="Name of the file to analyse, if the task has several; otherwise the first is taken.",
    )
    columns: tuple[str, ...] = Field(
        default=(), max_length=MAX_COLUMNS, description="Only these columns are analysed; all if empty."
    )
    date_column: str = Field(
        default="",
        description="Column that trends run along: dates, times or rising numbers; detected if empty.",
    )
    target: str = Field(default="", description="Numeric column of most interest: its trend and relations come first.")
    max_charts: int = Field(default=6, ge=0, le=MAX_CHARTS, description="At most this many charts.")
    max_rows: int = Field(
        default=MAX_ROWS, ge=1, le=MAX_ROWS, description="A table with more rows than this is refused."
    )
    max_columns: int = Field(
        default=MAX_COLUMNS,
        ge=1,
        le=MAX_COLUMNS,
        description="A table with more columns than this is refused.",
    )
    max_bytes: int = Field(
        default=MAX_BYTES, ge=1, le=MAX_BYTES, description="A file with more bytes than this is refused."
    )
    narrative: bool = Field(
        default=True, description="Whether a model writes a short narrative about the computed numbers."
    )
    language: str = Field(default="English", min_length=2, max_length=40, description="Language of the narrative.")
    model: str = Field(
        default="", max_length=200, description="Model that writes the narrative; the default one if empty."
    )
