"""Memory that was freed -> the system: glibc keeps what was given back in small parts for what may come."""

import ctypes
import sys


def give_back_freed() -> None:
    """Once after much was built and left; elsewhere than with glibc nothing happens."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
