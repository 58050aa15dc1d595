"""From what the repeats measured to what the table says: medians, spreads and verdicts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench.lines import LINES, Line


class BadSample(Exception):
    """A measurement that can't be a measurement: not a positive, finite number."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A figure and its anchor, timed in the same repeat."""

    figure: float
    anchor: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value > 0 for value in (self.figure, self.anchor)):
            raise BadSample(f"measured {self.figure} beside an anchor of {self.anchor}")

    @property
    def ratio(self) -> float:
        """Return the figure in units of its anchor."""
        return self.figure / self.anchor


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of the repeats, and their extremes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise at least one value."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Figure:
    """A finished line of the table."""

    line: Line
    samples: Sequence[Sample]

    @property
    def figure(self) -> Spread:
        """Return the figures, in the line's unit."""
        return Spread.of([sample.figure for sample in self.samples])

    @property
    def anchor(self) -> Spread:
        """Return the anchor's figures."""
        return Spread.of([sample.anchor for sample in self.samples])

    @property
    def ratio(self) -> Spread:
        """Return figure by anchor, each pair of one repeat."""
        return Spread.of([sample.ratio for sample in self.samples])

    @property
    def verdict(self) -> str:
        """Say what the median reaches: `goal`, `floor` or `below floor`."""
        value = self.ratio.median if self.line.judged == "ratio" else self.figure.median
        return self._reached(value, self.line.floor, self.line.goal)

    @property
    def verdict_in_ms(self) -> str:
        """Say the same of a time without regard to the machine's speed; nothing of what is no time."""
        line = self.line
        return self._reached(self.figure.median, line.floor_ms, line.goal_ms) if line.floor_ms else ""

    def _reached(self, value: float, floor: float, goal: float) -> str:
        if self.line.reaches(value, goal):
            return "goal"
        return "floor" if self.line.reaches(value, floor) else "below floor"


@dataclass(frozen=True, slots=True)
class Setup:
    """How the mesh was set up that the figures are of; `says` is for the foot of the table."""

    database: str
    fsync: str
    features: str
    says: Sequence[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. `repeats` is what each line must have samples of; `faults` says what failed, by row."""

    rows: Sequence[str]
    repeats: int
    samples: Mapping[str, Sequence[Sample]]
    faults: Mapping[str, str]
    facts: Mapping[str, str]
    setup: Setup

    @property
    def figures(self) -> list[Figure]:
        """Return the lines that every repeat measured."""
        wanted = [line for line in LINES if line.row in self.rows]
        done = [line for line in wanted if len(self.samples.get(line.key, ())) == self.repeats]
        return [Figure(line, self.samples[line.key]) for line in done]

    @property
    def missing(self) -> list[str]:
        """Return the keys of the lines that were asked for and aren't there."""
        there = {figure.line.key for figure in self.figures}
        return [line.key for line in LINES if line.row in self.rows and line.key not in there]

    def exit_code(self, *, strict: bool) -> int:
        """Return 1 if a line is missing or failed; with `strict`, also if one is below its floor."""
        if self.missing or self.faults:
            return 1
        return int(strict and any(figure.verdict == "below floor" for figure in self.figures))
