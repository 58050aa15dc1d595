"""Shows a task while it runs: as JSON lines, as plain lines, or live on a terminal."""

import time
from typing import TYPE_CHECKING, Protocol

from agentmesh.api.types.v1 import types_pb2
from agentmesh.cli.output import describe, event_json, note, printable, shortened, state_word
from agentmesh.client import Event, Folder

if TYPE_CHECKING:
    from rich.console import Console, ConsoleRenderable

_TAIL_LINES = 12


class View(Protocol):
    """Shows events as they come; `retracted` is how many earlier ones no longer hold since this one."""

    def show(self, event: Event, folder: Folder, retracted: int) -> None:
        """Show one event."""

    def pause(self) -> None:
        """Leave the terminal to a question; lines may still come."""

    def resume(self) -> None:
        """Take the terminal again."""

    def close(self) -> None:
        """Leave the terminal as it should stay."""


class JsonView:
    """One event a line, as it was said; nothing else on standard output."""

    def show(self, event: Event, folder: Folder, retracted: int) -> None:
        """Print the event."""
        print(event_json(event), flush=True)

    def pause(self) -> None:
        """Nothing is held."""

    def resume(self) -> None:
        """Nothing was held."""

    def close(self) -> None:
        """Nothing is held."""


class PlainView:
    """Lines on standard error, so that standard output holds the answer alone."""

    def __init__(self) -> None:
        self._line = ""

    def show(self, event: Event, folder: Folder, retracted: int) -> None:
        """Print what is worth a line; streamed text whenever a line of it is whole."""
        if event.name == "text_delta":
            *whole, self._line = (self._line + printable(event.event.text_delta.text)).split("\n")
            for line in whole:
                note(f"| {line}")
            return
        if retracted and event.event.attempt_started.attempt > 1:
            self._line = ""
            note(superseded_line(retracted))
        if line := describe(event.event):
            self.pause()
            note(line)

    def pause(self) -> None:
        """Print the line that has begun."""
        if self._line:
            note(f"| {self._line}")
            self._line = ""

    def resume(self) -> None:
        """Lines need no room of their own."""

    def close(self) -> None:
        """Print the line that has begun."""
        self.pause()


class LiveView:
    """A terminal: lines that stay, and below them a region that shows where the task is and what it writes.

    The region is drawn from the folded log, so what an attempt had written vanishes when it is superseded.
    """

    def __init__(self, console: "Console | None" = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = console or Console()
        self._started = time.monotonic()
        self._state = "sending"
        self._fraction = -1.0
        self._doing = ""
        self._tail = ""
        self._tokens = 0
        self._running = False
        self._paused = False
        # Draws at once, so it comes last.
        self._live = Live(console=self._console, transient=True, refresh_per_second=10, get_renderable=self.region)

    def show(self, event: Event, folder: Folder, retracted: int) -> None:
        """Print a line that stays, or draw the region anew."""
        if not self._paused:
            self._start()
        if retracted and event.event.attempt_started.attempt > 1:
            self._print(superseded_line(retracted), "yellow")
            self._tail = "".join(kept.text_delta.text for _, _, kept in folder.events)
            self._fraction, self._doing = -1.0, ""
        match event.name:
            case "state_changed":
                self._state = state_word(event.event.state_changed.state)
                if describe(event.event) != self._state:
                    self._print(describe(event.event), "yellow")
            case "text_delta":
                self._tail = (self._tail + event.event.text_delta.text)[-8000:]
                self._tokens += 1
            case "reasoning_delta":
                self._doing = "thinking"
                self._tokens += 1
            case "progress":
                self._fraction = event.event.progress.fraction
                self._doing = shortened(event.event.progress.message)
            case "message" if event.event.message.role != types_pb2.ROLE_USER:
                self._print(describe(event.event), "")
            case _:
                if line := describe(event.event):
                    self._print(line, "dim")

    def pause(self) -> None:
        """Take the region away."""
        self._paused = True
        if self._running:
            self._live.stop()
            self._running = False

    def resume(self) -> None:
        """Draw the region again."""
        self._paused = False
        self._start()

    def close(self) -> None:
        """Take the region away."""
        self.pause()

    def _start(self) -> None:
        if not self._running:
            self._live.start()
            self._running = True

    def _print(self, line: str, style: str) -> None:
        from rich.text import Text

        self._console.print(Text(line, style=style))

    def region(self) -> "ConsoleRenderable":
        """Draw what is below the lines: what is being written, the state, the progress."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        elapsed = f"{time.monotonic() - self._started:.0f} s"
        parts = [self._state, elapsed, *([f"{self._tokens} pieces"] if self._tokens else []), self._doing]
        shown: list[ConsoleRenderable] = []
        if self._tail:
            shown.append(Text("\n".join(printable(self._tail).splitlines()[-_TAIL_LINES:])))
        shown.append(Text(" · ".join(filter(None, parts)), style="cyan"))
        if self._fraction >= 0:
            shown.append(ProgressBar(total=1.0, completed=min(1.0, self._fraction), width=40))
        return Group(*shown)


def superseded_line(retracted: int) -> str:
    """Say that something said before no longer holds."""
    return f"↺ the attempt before was lost: {retracted} of its events are taken back"


def view_for(*, as_json: bool, terminal: bool) -> View:
    """Return the view that fits where the output goes."""
    if as_json:
        return JsonView()
    return LiveView() if terminal else PlainView()
