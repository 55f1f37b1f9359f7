"""The slides that each thread of a worker has open: opened once, used by task after task, a few at a time."""

import threading
from collections import OrderedDict

from wsi_pipeline.geometry import Mpp
from wsi_pipeline.slide.reader import PLAIN, Reading, Slide, SlideReader
from wsi_pipeline.slide.urls import is_url

_OPEN_HANDLES = 4  # a thread


class _Handles(threading.local):
    """The open readers of one thread, least recently used first."""

    def __init__(self) -> None:
        self.readers: OrderedDict[tuple[str, str, Mpp, Reading], SlideReader] = OrderedDict()


_handles = _Handles()


def reader_for(slide: Slide, reading: Reading = PLAIN) -> SlideReader:
    """This thread's open reader of a slide, a fresh one after an error; a few stay open, the oldest are closed."""
    key = (slide.path, slide.fingerprint, slide.mpp_l0, reading)  # the scale too: another row may give another one
    readers = _handles.readers
    if key in readers and readers[key].failed:
        readers.pop(key).close()
    if key not in readers:
        if is_url(slide.path):
            _close_other_urls(slide)
        while len(readers) >= _OPEN_HANDLES:
            readers.popitem(last=False)[1].close()
        readers[key] = SlideReader(slide, reading)
    readers.move_to_end(key)
    return readers[key]


def _close_other_urls(slide: Slide) -> None:
    """Let go of this thread's other slides at URLs: the cache keeps whatever is open."""
    for key in [key for key in _handles.readers if is_url(key[0]) and key[0] != slide.path]:
        _handles.readers.pop(key).close()


def drop_reader(slide: Slide) -> None:
    """Close this thread's readers of a slide, if it has any."""
    for key in [key for key in _handles.readers if key[:2] == (slide.path, slide.fingerprint)]:
        _handles.readers.pop(key).close()
