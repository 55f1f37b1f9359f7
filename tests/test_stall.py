"""Calls that are given up: the caller goes on, results and errors are as they were, and no thread is left."""

import pickle
import threading
import time

import pytest

from wsi_pipeline.errors import ClusterError, SlideError, StalledError
from wsi_pipeline.stall import answer_within, life_sign


def partners() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "wsi-task"]


def test_results_and_errors_come_back_as_they_are() -> None:
    assert answer_within(5, divmod, 7, 2) == (3, 1)
    with pytest.raises(TimeoutError, match="its own"):
        answer_within(5, _fail, TimeoutError("its own"))


def test_calls_of_one_thread_are_made_by_one_other_so_that_its_handles_stay_open() -> None:
    first = answer_within(5, threading.get_ident)
    assert answer_within(5, threading.get_ident) == first != threading.get_ident()


def test_a_call_that_does_not_answer_is_left_and_the_next_one_works() -> None:
    release = threading.Event()
    began = time.monotonic()
    with pytest.raises(StalledError, match=r"no answer for 0.2 s from wait: .* raise run.stall_s"):
        answer_within(0.2, release.wait, 60)
    assert time.monotonic() - began < 30  # of 60
    assert answer_within(5, abs, -3) == 3
    release.set()


def test_a_call_is_left_once_nobody_wants_its_answer() -> None:
    release, began = threading.Event(), time.monotonic()
    with pytest.raises(ClusterError, match="stopped; wait had given no answer yet"):
        answer_within(60, release.wait, given_up=lambda: time.monotonic() > began + 0.2)
    assert time.monotonic() - began < 30  # of 60
    assert answer_within(60, abs, -3, given_up=lambda: True) == 3  # what is there by then is taken
    release.set()


def test_a_call_that_shows_that_it_gets_on_may_take_as_long_as_it_needs() -> None:
    def work() -> str:
        alive = life_sign()
        for _ in range(12):
            time.sleep(0.1)
            alive()
        return "done"

    assert answer_within(1, work) == "done"  # it takes 1.2 s
    life_sign()()  # in no call


def test_partners_end_with_the_thread_that_asked_or_once_they_are_free_again() -> None:
    release, before = threading.Event(), set(partners())

    def ask() -> None:
        with pytest.raises(StalledError):
            answer_within(0.05, release.wait)
        answer_within(5, abs, -1)

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join()
    release.set()
    for _ in range(1000):
        if not before.issuperset(partners()):
            time.sleep(0.05)
    assert before.issuperset(partners())


def test_the_error_is_of_a_slide_and_keeps_its_worker_on_the_way() -> None:
    error = StalledError("no answer")
    error.worker = "tcp://127.0.0.1:1"
    there = pickle.loads(pickle.dumps(error))
    assert isinstance(there, SlideError) and (str(there), there.worker) == ("no answer", error.worker)


def _fail(error: Exception) -> None:
    raise error
