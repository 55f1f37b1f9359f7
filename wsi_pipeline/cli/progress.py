"""What a run shows while it works: slides and tiles done, tiles/s, and a line for what happens."""

from time import perf_counter
from typing import Any

from wsi_pipeline.cli.bars import Bars


class Shown(Bars):
    """Listens to a run's events."""

    def __init__(self, slides: int) -> None:
        super().__init__()
        self._slides, self._ended = slides, 0
        self._planned = self._scored = self._filled = 0
        self._started = perf_counter()
        self._slide_bar = self._bars.add_task("slides", total=slides, rate="")
        self._tile_bar = self._bars.add_task("tiles", total=None, rate="")

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
            owner = f", such as {facts['owner']}" if facts["owner"] else ""
            self._say(f"{facts['slides']} slides are with other jobs{owner}; waiting for them")

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
