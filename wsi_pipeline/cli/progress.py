"""What a run shows while it works: bars with tiles/s and time left on a terminal, plain lines elsewhere."""

import sys
from time import perf_counter
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Shown:
    """Listens to a run's events; a context manager. Everything goes to stderr."""

    def __init__(self, slides: int) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._slides, self._ended = slides, 0
        self._planned = self._scored = self._filled = 0
        self._started = perf_counter()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not sys.stderr.isatty(),
        )
        self._slide_bar = self._bars.add_task("slides", total=slides, rate="")
        self._tile_bar = self._bars.add_task("tiles", total=None, rate="")

    def __enter__(self) -> "Shown":
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def __call__(self, name: str, facts: dict[str, Any]) -> None:
        """Show one event."""
        if name == "tiles_planned":
            self._plan(facts)
        elif name == "tiles_scored":
            self._scored += facts["tiles"]
            rate = self._scored / max(perf_counter() - self._started, 1e-3)
            self._bars.update(self._tile_bar, completed=self._scored + self._filled, rate=f"{rate:.0f} tiles/s")
        elif name == "scores_done":
            self._filled += facts.get("filled", 0) + facts.get("resumed", 0)
            self._bars.update(self._tile_bar, completed=self._scored + self._filled)
        elif name == "slide_done":
            self._end(facts)
        elif name == "warning":
            self._say(f"warning: {facts['text']}")
        elif name == "waiting":
            self._say(f"{facts['slides']} slides are with other jobs, such as {facts['owner']}; waiting for them")

    def _plan(self, facts: dict[str, Any]) -> None:
        self._planned += facts["tiles"]
        self._bars.update(self._tile_bar, total=self._planned)
        size = f", up to {facts['bytes'] / 2**20:,.0f} MiB" if facts["bytes"] else ""
        self._say(f"{facts['slide_id']}: {facts['tiles']:,} tiles{size}")

    def _end(self, facts: dict[str, Any]) -> None:
        self._ended += 1
        self._bars.update(self._slide_bar, completed=self._ended)
        why = f": {facts['message']}" if facts["message"] else ""
        seconds = facts["seconds"]
        self._say(f"[{self._ended}/{self._slides}] {facts['slide_id']}: {facts['status']} ({seconds:.1f} s){why}")

    def _say(self, text: str) -> None:
        self._console.print(escape(text), soft_wrap=True)
