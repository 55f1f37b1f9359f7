"""The events of a run -> where its time went: that of the workers by what they did, and that of the scorer.

A worker's second goes to one of reading (opening and decoding slides), tissue, store (encoding and writing tiles),
maps, or idle: waiting for work, loading the package, starting anew, or on what failed. Together they are the number
of workers times the time that they were there. The scorer's time runs from its first tile to its last and is busy
or waiting; slides whose scores were kept do not count.
"""

from time import perf_counter
from typing import Any


class Account:
    """Listens to a run's events, as `run_cohort` tells them."""

    def __init__(self) -> None:
        self._workers, self._scorers = 0, 1
        self._wall_s = 0.0
        self._spent = dict.fromkeys(("reading", "tissue", "store", "maps"), 0.0)
        self._tiles = self._fresh = 0  # tiles scored, of them in slides under way: the others were read back
        self._busy_s = self._scoring_s = 0.0
        self._scoring_began: float | None = None

    def __call__(self, name: str, facts: dict[str, Any]) -> None:
        """Count one event."""
        if name == "tiles_done":
            self._spent["reading"] += facts["reading_s"]
            self._spent["store"] += facts["store_s"]
        elif name == "tiles_scored":
            self._tiles += facts["tiles"]
            self._fresh += facts["tiles"]
        elif name == "scores_done":
            self._count(facts)
        elif name == "workers_done":
            self._workers, self._scorers, self._wall_s = facts["workers"], facts["scorers"], facts["seconds"]
            for what, task in {"reading": "_open", "tissue": "lay_tiles", "maps": "draw_maps"}.items():
                self._spent[what] += facts["spent"].get(task, 0.0)

    def _count(self, facts: dict[str, Any]) -> None:
        if self._fresh:
            now = perf_counter()
            self._scoring_began = self._scoring_began or now - facts["seconds"]
            self._scoring_s = now - self._scoring_began
            self._busy_s += facts["busy_share"] * facts["seconds"]
        self._fresh = 0

    def seconds(self) -> dict[str, dict[str, float]]:
        """Seconds of all workers and of all scorers, by what they went to; as run.json has them."""
        workers = self._spent | {"idle": max(0.0, self._workers * self._wall_s - sum(self._spent.values()))}
        scorer = {"busy": self._busy_s, "waiting": max(0.0, self._scorers * self._scoring_s - self._busy_s)}
        return {"workers": _rounded(workers), "scorer": _rounded(scorer)}

    def lines(self) -> list[str]:
        """The same in words; a line is left out where there was nothing to do."""
        seconds, said = self.seconds(), []
        if self._workers:
            said.append(f"{self._workers} workers for {self._wall_s:.1f} s: {_shares(seconds['workers'])}")
        if self._scoring_s:
            rate = f"{self._tiles:,} tiles in {self._scoring_s:.1f} s, {self._tiles / self._scoring_s:.1f} a second"
            said.append(f"scorer: {rate}: {_shares(seconds['scorer'])}")
        return said


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {what: round(value, 3) for what, value in seconds.items()}


def _shares(seconds: dict[str, float]) -> str:
    whole = sum(seconds.values()) or 1.0
    return ", ".join(f"{what} {value / whole:.0%} ({value:.1f} s)" for what, value in seconds.items())
