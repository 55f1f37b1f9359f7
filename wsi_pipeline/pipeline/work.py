"""What a run and one slide's way through it are: the model that is asked, what is known of the slide so far."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from time import perf_counter
from typing import Any, Literal, Protocol, runtime_checkable

from wsi_pipeline.cluster import Cluster
from wsi_pipeline.config import Config
from wsi_pipeline.gpus import Gpus
from wsi_pipeline.maps.result import SlideResult
from wsi_pipeline.pipeline.claims import Claims
from wsi_pipeline.pipeline.folder import RunFolder
from wsi_pipeline.slide.entry import SlideEntry
from wsi_pipeline.slide.reader import Slide

Stage = Literal["tile", "score", "map"]
Listen = Callable[[str, dict[str, Any]], None]


class Scoring(Protocol):
    """What the run needs of a classifier; see pipeline/score.py."""

    id: str

    def score(self, store_path: str, key: str, progress: Callable[[int], None] | None = None) -> Any: ...

    def rest(self) -> None:
        """No slide is to be scored for a while."""
        ...


@runtime_checkable
class Placeable(Protocol):
    """A classifier that scores where the cluster's GPUs are; see pipeline/lanes.py."""

    def place(self, gpus: Gpus | None) -> Scoring: ...


class Work:
    """One slide on its way: what is known of it so far, and the stage it is in."""

    def __init__(self, entry: SlideEntry) -> None:
        self.entry = entry
        self.stage = "open"
        self.started = perf_counter()
        self.slide: Slide | None = None
        self.source: list[Any] | None = None
        self.tiles_key = self.scores_key = self.maps_key = ""
        self.result: SlideResult | None = None
        self.elsewhere = False  # another job has it
        self.gone = False  # its file is, and the tiles that are kept stand for it

    @property
    def seconds(self) -> float:
        return perf_counter() - self.started


@dataclass(frozen=True)
class Run:
    """What every step of a run shares."""

    folder: RunFolder
    config: Config
    cluster: Cluster
    classifier: Scoring | None
    until: Stage
    listen: Listen
    claims: Claims
    stopping: Event

    def tell(self, name: str, **facts: Any) -> None:
        """Write an event down and show it."""
        self.folder.event(name, **facts)
        self.listen(name, facts)
