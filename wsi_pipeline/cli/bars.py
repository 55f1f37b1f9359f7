"""What runs and trainings show with: bars with a rate and the time left on a terminal, plain lines elsewhere."""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bars:
    """A context manager, in which bars are drawn. Everything goes to stderr; with `show` off, nothing does."""

    def __init__(self, *, show: bool = True) -> None:
        self._console = Console(stderr=True, highlight=False, quiet=not show)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (show and sys.stderr.isatty()),
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def _say(self, text: str) -> None:
        self._console.print(escape(text), soft_wrap=True)
