"""The name of a library -> the library, loaded when it is first used: for what few need and takes long to load."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import LazyLoader, find_spec, module_from_spec
from typing import Any


def load_later(name: str) -> Any:
    """A module at the top level by its name. Raises ModuleNotFoundError where it is not installed."""
    if name in sys.modules:
        return sys.modules[name]
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    loader = LazyLoader(spec.loader)
    spec.loader = loader
    module = module_from_spec(spec)
    sys.modules[name] = module  # where `import` finds it, to load it then
    loader.exec_module(module)
    return module


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Libraries at the top level seem not to be installed, for the import of one that can do without them.

    Those that are loaded already stay as they are, and so do all of them afterwards.
    """
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: `import` raises ModuleNotFoundError
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
