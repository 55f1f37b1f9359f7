"""A call -> its result, or StalledError where it has given no answer for so long.

A thread that waits for a disk or a network path cannot be ended. So each thread that asks has a partner, a daemon that
makes its calls one after the other; a partner that does not answer is left to itself, and the next call gets a new one.
"""

import math
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any

from wsi_pipeline.errors import ClusterError, StalledError

_SLICES = 10  # at least; a process that is stopped for hours and goes on has used up one, not all its patience
_LOOK_S = 1.0  # at most, between looks at whether the answer is still wanted
_mine = threading.local()

Call = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]


def answer_within(
    limit_s: float, function: Callable[..., Any], *args: Any, given_up: Callable[[], bool] | None = None
) -> Any:
    """What `function(*args)` returns or raises, made by this thread's partner, which keeps open what it opened.

    Raises StalledError once it has given neither a result nor a `life_sign` for `limit_s` seconds; it is not
    waited for any longer then, and may still be under way. So it is once `given_up`, asked every second, says that all
    is to end; that raises ClusterError.
    """
    partner = _mine.partner = getattr(_mine, "partner", None) or _Partner()
    answer = partner.ask(function, args)
    slices = max(_SLICES, math.ceil(limit_s / _LOOK_S))
    quiet, signs = 0, partner.life.signs
    while not wait([answer], limit_s / slices).done:
        if given_up is not None and given_up():
            _mine.partner = None
            raise ClusterError(f"stopped; {function.__name__} had given no answer yet")
        quiet, signs = (quiet + 1 if signs == partner.life.signs else 0), partner.life.signs
        if quiet == slices:
            _mine.partner = None
            raise StalledError(
                f"no answer for {limit_s:g} s from {function.__name__}: a disk or network path that stalls, or a "
                "damaged file that keeps its decoder busy; copy it to a disk of this machine, or raise run.stall_s"
            )
    return answer.result()


def life_sign() -> Callable[[], None]:
    """For a call that takes long, what tells that it gets on, from whatever thread; where nobody waits, nothing."""
    life: _Life = getattr(_mine, "life", None) or _Life()
    return life.sign


class _Life:
    """What a call tells of itself while it is made."""

    signs = 0

    def sign(self) -> None:
        self.signs += 1


class _Partner:
    """A daemon thread that makes calls until it is forgotten."""

    def __init__(self) -> None:
        self.life = _Life()
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        threading.Thread(target=_make_calls, args=(self._calls, self.life), name="wsi-task", daemon=True).start()
        weakref.finalize(self, self._calls.put, None)

    def ask(self, function: Callable[..., Any], args: tuple[Any, ...]) -> "Future[Any]":
        answer: Future[Any] = Future()
        self._calls.put((answer, function, args))
        return answer


def _make_calls(calls: "SimpleQueue[Call | None]", life: _Life) -> None:
    _mine.life = life
    while (call := calls.get()) is not None:
        _make(*call)
        del call  # and with it the result


def _make(answer: "Future[Any]", function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        answer.set_result(function(*args))
    except BaseException as error:
        answer.set_exception(error)  # raised again where it was asked for
