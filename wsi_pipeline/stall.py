"""A call -> its result, or StalledError where it has given no answer for so long.

A thread that waits for a disk or a network path cannot be ended. So each thread that asks has a partner, a daemon that
makes its calls one after the other; a partner that does not answer is left to itself, and the next call gets a new one.
"""

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any

from wsi_pipeline.errors import StalledError

_SLICES = 10  # a process that is stopped for hours and goes on has used up one of them, not all its patience
_mine = threading.local()

Call = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]


def answer_within(limit_s: float, function: Callable[..., Any], *args: Any) -> Any:
    """What `function(*args)` returns or raises, made by this thread's partner, which keeps open what it opened.

    Raises StalledError once it has run for `limit_s` seconds; the call is then not waited for any longer, and
    may still be under way.
    """
    partner = _mine.partner = getattr(_mine, "partner", None) or _Partner()
    answer = partner.ask(function, args)
    if not any(wait([answer], limit_s / _SLICES).done for _ in range(_SLICES)):
        _mine.partner = None
        raise StalledError(
            f"no answer for {limit_s:g} s from {function.__name__}: a disk or network path that stalls, or a damaged "
            "file that keeps its decoder busy; copy it to a disk of this machine, or raise run.stall_s"
        )
    return answer.result()


class _Partner:
    """A daemon thread that makes calls until it is forgotten."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        threading.Thread(target=_make_calls, args=(self._calls,), name="wsi-task", daemon=True).start()
        weakref.finalize(self, self._calls.put, None)

    def ask(self, function: Callable[..., Any], args: tuple[Any, ...]) -> "Future[Any]":
        answer: Future[Any] = Future()
        self._calls.put((answer, function, args))
        return answer


def _make_calls(calls: "SimpleQueue[Call | None]") -> None:
    while (call := calls.get()) is not None:
        _make(*call)
        del call  # and with it the result


def _make(answer: "Future[Any]", function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        answer.set_result(function(*args))
    except BaseException as error:
        answer.set_exception(error)  # raised again where it was asked for
