"""Claims: one job alone has a slide, a dead owner blocks nobody, a living one is never robbed."""

import json
import multiprocessing
import os
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from wsi_pipeline.errors import StoreError
from wsi_pipeline.pipeline.claims import _this_process, open_claims

QUICK = {"heartbeat_s": 0.05, "expiry_s": 1.2}  # 24 beats: on a busy machine some are late


def test_a_slide_is_one_jobs_alone_until_it_is_given_back(tmp_path: Path) -> None:
    with open_claims(tmp_path) as mine, open_claims(tmp_path) as theirs:
        assert mine.take("a") and mine.take("a") and not theirs.take("a")
        assert theirs.owner("a") == mine.job
        mine.free("a")
        assert theirs.take("a") and not mine.holds("a") and theirs.holds("a")


def test_nothing_is_left_of_claims_when_their_jobs_have_ended(tmp_path: Path) -> None:
    with open_claims(tmp_path) as claims:
        assert claims.take("a.1") and claims.take("a")
    assert os.listdir(tmp_path) == []


def test_a_claim_that_is_not_touched_any_more_goes_to_one_other_job(tmp_path: Path) -> None:
    (tmp_path / "a.4").write_text("{}")
    os.utime(tmp_path / "a.4", (0, time.time() - 3600))
    with open_claims(tmp_path) as mine, open_claims(tmp_path) as theirs:
        assert mine.take("a") and not theirs.take("a")
        assert (tmp_path / "a.5").exists()


def test_who_lives_is_known_by_a_claim_that_is_touched(tmp_path: Path) -> None:
    with open_claims(tmp_path) as claims:
        assert claims.living() is None
        (tmp_path / "a.1.3").write_text('{"job": "another"}')
        job, left_s = claims.living() or ("", 0.0)
        assert job == "another" and 80 < left_s <= 90
        os.utime(tmp_path / "a.1.3", (0, time.time() - 91))
        assert claims.living() is None


def test_a_living_owner_keeps_its_slide_for_longer_than_the_expiry(tmp_path: Path) -> None:
    with open_claims(tmp_path, **QUICK) as mine, open_claims(tmp_path, **QUICK) as theirs:
        assert mine.take("a")
        time.sleep(1.4)
        assert not theirs.take("a") and mine.holds("a")


def test_an_owner_that_was_taken_over_lets_go_and_removes_nothing_of_the_new_one(tmp_path: Path) -> None:
    with open_claims(tmp_path, **QUICK) as mine, open_claims(tmp_path, **QUICK) as theirs:
        assert mine.take("a")
        (tmp_path / "a.2").write_text("{}")  # another job found it dead, as after a long sleep of this one
        assert not mine.holds("a")
        mine.free("a")
        assert (tmp_path / "a.2").exists() and not theirs.take("a")


def test_a_job_that_was_asleep_has_its_slide_again_only_once_the_other_is_gone(tmp_path: Path) -> None:
    with open_claims(tmp_path, heartbeat_s=3600) as asleep:  # beats as little as a process that is stopped
        assert asleep.take("a")
        os.utime(tmp_path / "a.1", (0, 0))
        with open_claims(tmp_path) as other:
            assert other.take("a") and (tmp_path / "a.2").exists()
            assert not asleep.holds("a") and not asleep.take("a") and not asleep.take("a")
            assert other.holds("a")
        assert asleep.take("a") and asleep.holds("a")
    assert os.listdir(tmp_path) == []


def test_a_claim_of_the_same_name_by_a_later_job_is_not_taken_for_ones_own(tmp_path: Path) -> None:
    with open_claims(tmp_path, heartbeat_s=3600) as asleep:
        assert asleep.take("a") and asleep.take("b")
        for name in ("a.1", "b.1"):  # taken over, done and given back while this job was asleep
            (tmp_path / name).unlink()
        with open_claims(tmp_path) as later:
            assert later.take("a") and later.take("b")
            assert not asleep.holds("a") and not asleep.take("a")
            asleep.free("b")
            assert later.holds("a") and later.holds("b")


def test_the_slide_of_a_process_that_is_gone_is_free_at_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    dying = spawn.Process(target=die_with_a_claim, args=(tmp_path,))
    dying.start()
    dying.join()
    assert (tmp_path / "a.1").exists()
    with open_claims(tmp_path) as mine:
        assert mine.take("a")


def die_with_a_claim(folder: Path) -> None:
    with open_claims(folder) as claims:
        claims.take("a")
        os._exit(1)


def test_a_process_is_known_by_its_number_and_by_when_it_began_since_the_machine_did(tmp_path: Path) -> None:
    mine = _this_process()
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - mine["ticks"] / os.sysconf("SC_CLK_TCK")
    assert 0 <= age_s < 24 * 3600  # by a clock that nobody sets
    (tmp_path / "a.1").write_text(json.dumps(mine))
    (tmp_path / "b.1").write_text(json.dumps(mine | {"ticks": mine["ticks"] - 1}))  # the number is another's by now
    with open_claims(tmp_path) as claims:
        assert not claims.take("a") and claims.take("b")


def take_all(folder: Path, names: list[str], together: Barrier, out: "Queue[list[str]]") -> None:
    with open_claims(folder) as claims:
        together.wait()
        out.put([name for name in names if claims.take(name)])
        together.wait()


def test_of_jobs_that_ask_at_the_same_moment_one_gets_each_slide(tmp_path: Path) -> None:
    names = [f"s{number}" for number in range(40)]
    for name in names[::2]:  # half of them left behind by a dead job
        (tmp_path / f"{name}.1").write_text("{}")
        os.utime(tmp_path / f"{name}.1", (0, 0))
    spawn = multiprocessing.get_context("spawn")
    out, together = spawn.Queue(), spawn.Barrier(4, timeout=120)
    jobs = [spawn.Process(target=take_all, args=(tmp_path, names, together, out)) for _ in range(4)]
    for job in jobs:
        job.start()
    taken = [name for _ in jobs for name in out.get(timeout=240)]
    for job in jobs:
        job.join()
    assert sorted(taken) == sorted(names)


def test_a_folder_that_cannot_be_written_is_an_error_that_says_so(tmp_path: Path) -> None:
    with open_claims(tmp_path / "claims") as claims, pytest.raises(StoreError, match="cannot be claimed"):
        claims.take("a/../b")
