"""What a run says of its scorer: busy from the first tile to the last, slides whose scores were kept left out."""

import pytest

from wsi_pipeline.cli import progress
from wsi_pipeline.cli.progress import Shown


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time; a test sets it."""
    now = [0.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: now[0])
    return now


def done(shown: Shown, *, seconds: float, busy: float) -> None:
    shown("scores_done", {"seconds": seconds, "busy_share": busy})


def test_gaps_between_slides_count_as_idle(clock: list[float]) -> None:
    shown = Shown(2)
    for at, tiles in ((14.0, 60), (20.0, 40)):  # scored from 10 to 14 and from 16 to 20
        clock[0] = at
        shown("tiles_scored", {"tiles": tiles})
        done(shown, seconds=4.0, busy=0.9)
    assert shown.busy() == "100 tiles scored in 10.0 s, 10.0 a second; scorer busy 72%"


def test_scores_that_were_kept_say_nothing(clock: list[float]) -> None:
    shown = Shown(1)
    done(shown, seconds=4.0, busy=0.9)
    assert shown.busy() == ""
