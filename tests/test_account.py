"""Where a run's time went: all of it adds up, and kept scores do not count as scoring."""

import pytest

from wsi_pipeline.pipeline import account
from wsi_pipeline.pipeline.account import Account


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time; a test sets it."""
    now = [0.0]
    monkeypatch.setattr(account, "perf_counter", lambda: now[0])
    return now


def scored(spent: Account, *, seconds: float, busy: float) -> None:
    spent("scores_done", {"seconds": seconds, "busy_share": busy})


def test_the_workers_seconds_are_their_number_times_their_time() -> None:
    spent = Account()
    for _ in range(2):
        spent("tiles_done", {"reading_s": 2.0, "store_s": 1.0})
    tasks = {"_open": 0.5, "lay_tiles": 3.0, "draw_maps": 2.5, "cut_shard": 6.0}
    spent("workers_done", {"workers": 2, "scorers": 1, "seconds": 10.0, "spent": tasks})
    assert spent.seconds()["workers"] == {"reading": 4.5, "tissue": 3, "store": 2, "maps": 2.5, "idle": 8}
    assert spent.lines() == [
        "2 workers for 10.0 s: reading 22% (4.5 s), tissue 15% (3.0 s), store 10% (2.0 s), maps 12% (2.5 s), "
        "idle 40% (8.0 s)"
    ]


def test_gaps_between_slides_are_waiting(clock: list[float]) -> None:
    spent = Account()
    for at, tiles in ((14.0, 60), (20.0, 40)):  # scored from 10 to 14 and from 16 to 20
        clock[0] = at
        spent("tiles_scored", {"tiles": tiles})
        scored(spent, seconds=4.0, busy=0.9)
    assert spent.lines() == ["scorer: 100 tiles in 10.0 s, 10.0 a second: busy 72% (7.2 s), waiting 28% (2.8 s)"]


def test_scores_that_were_kept_say_nothing(clock: list[float]) -> None:
    spent = Account()
    scored(spent, seconds=4.0, busy=0.9)
    assert spent.lines() == []
