"""Every error the package raises on purpose, in one tree; each is also a builtin.

::

    WsiError
    ├── ConfigError   (ValueError)    a knob, an option, a manifest that cannot be used
    ├── SlideError    (OSError)       a file that cannot be opened, read, or is no brightfield slide
    │   └── StalledError               one that does not answer
    ├── ScaleError    (ValueError)    no micrometres per pixel, or implausible ones
    ├── StoreError    (OSError)       a tile store or run folder that is incomplete, foreign or full
    ├── ModelError    (ValueError)    a checkpoint that does not fit: architecture, classes, mpp, format
    └── ClusterError  (RuntimeError)  workers that died, or a resource nobody offers

A message tells what, the value got, and what to do.
"""


class WsiError(Exception):
    """Base of all errors raised on purpose by this package."""


class ConfigError(WsiError, ValueError):
    """A knob, an option or a manifest that cannot be used; found before any work."""


class SlideError(WsiError, OSError):
    """A file that cannot be opened or read, or that is no RGB brightfield slide."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class StalledError(SlideError):
    """A read that has given no answer for too long.

    Attributes:
        worker: address of the Dask worker that is left with it, where something can start it anew.
    """

    worker = ""


class ScaleError(WsiError, ValueError):
    """A slide without micrometres per pixel, or with implausible ones, or coarser than asked for."""


class StoreError(WsiError, OSError):
    """A tile store or run folder that is incomplete, made with other settings, or out of disk."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ModelError(WsiError, ValueError):
    """A checkpoint that cannot be read, or that does not fit the tiles it is to score."""


class ClusterError(WsiError, RuntimeError):
    """Workers that died or never came, or a resource that no worker offers."""


class WorkersGoneError(ClusterError):
    """No worker is left, or no scheduler: nothing of the run can go on."""
