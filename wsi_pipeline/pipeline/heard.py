"""Warnings that the package logs while it works -> whoever tells the user, in place of Python's bare line on stderr."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def heard(tell: Callable[[str], object]) -> Iterator[None]:
    """Call `tell` with each warning that this process logs in the block, in whatever thread."""
    handler = _Handler(logging.WARNING)
    handler.tell = tell
    log = logging.getLogger("wsi_pipeline")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _Handler(logging.Handler):
    tell: Callable[[str], object]

    def emit(self, record: logging.LogRecord) -> None:
        self.tell(record.getMessage())
