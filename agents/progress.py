"""Progress for people: a bar with rate and time left on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0
PLAIN_WIDTH = 160


class Reporter:
    """Where sentences and progress go."""

    def __init__(self, console: Console | None = None) -> None:
        width = None if sys.stdout.isatty() else PLAIN_WIDTH
        self.console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True, width=width)

    def say(self, sentence: str) -> None:
        """A line on standard output; text is never read as markup."""
        self.console.print(sentence, markup=False)

    def task(self, title: str, total: int, unit: str) -> "TaskProgress":
        """Progress of `total` units; use it as a context manager and call `advance`."""
        return TaskProgress(self.console, title, total, unit)


class TaskProgress:
    """One bar, or its plain lines."""

    def __init__(self, console: Console, title: str, total: int, unit: str) -> None:
        self._console, self._title, self._total, self._unit = console, title, total, unit
        self._done = 0
        self._started = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]} {task.fields[note]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task(title, total=total, rate="", note="")

    def __enter__(self) -> "TaskProgress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, note: str = "") -> None:
        """One unit more."""
        self._done += 1
        elapsed = max(time.monotonic() - self._started, 1e-6)
        rate = self._done / elapsed
        if self._bar:
            self._bar.update(self._task, completed=self._done, rate=f"{rate:.2f} {self._unit}/s", note=note)
            return
        due = time.monotonic() - self._last_line >= LINE_EVERY_S
        if due or self._done == self._total:
            self._last_line = time.monotonic()
            left = (self._total - self._done) / rate
            text = f"{self._title}: {self._done}/{self._total} {self._unit}s, {rate:.2f}/s, {left:.0f} s left {note}"
            self._console.print(text.rstrip(), markup=False)
