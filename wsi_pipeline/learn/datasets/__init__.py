"""A name and a folder -> LabelledImages: one small file a data set."""

import difflib
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.datasets.chest_xray import open_chest_xray
from wsi_pipeline.learn.datasets.folder import open_folder
from wsi_pipeline.learn.datasets.pcam import open_pcam
from wsi_pipeline.learn.datasets.retina import open_retina
from wsi_pipeline.learn.datasets.skin import open_skin
from wsi_pipeline.learn.datasets.tiles import open_tiles

DATASETS: dict[str, Callable[..., LabelledImages]] = {
    "tiles": open_tiles,
    "pcam": open_pcam,
    "chest_xray": open_chest_xray,
    "retina": open_retina,
    "skin": open_skin,
    "folder": open_folder,
}


def open_dataset(name: str, folder: Path, **options: Any) -> LabelledImages:
    """The data set `name` (a key of DATASETS) in `folder`; `options` are those of its function.

    One name where several may stand is a list of it, a number where a name belongs is its text. Raises ConfigError
    for a name or an option that does not exist, a value that is none of its kind, and what the data set itself raises.
    """
    if name not in DATASETS:
        raise ConfigError(f"data set {name!r}: {_nearest(name, DATASETS)}")
    known = [option for option in inspect.signature(DATASETS[name]).parameters if option != "folder"]
    for option in options:
        if option not in known:
            raise ConfigError(f"{name}: option {option!r} does not exist; {_nearest(option, known)}")
    hints = get_type_hints(DATASETS[name])
    fitting = {option: _fitting(name, option, value, hints[option]) for option, value in options.items()}
    return DATASETS[name](Path(os.path.abspath(folder)), **fitting)


def _fitting(name: str, option: str, value: Any, kind: Any) -> Any:
    """An option's value as its function takes it: a text is a sequence too, of letters."""
    known = TypeAdapter(kind, config=ConfigDict(coerce_numbers_to_str=True))
    try:
        return known.validate_python(value)
    except ValidationError as error:
        wanted = dict.fromkeys(one["msg"].removeprefix("Input should be ").replace("'", "") for one in error.errors())
    try:
        return known.validate_python([value])
    except ValidationError:
        raise ConfigError(f"{name}: {option} {value!r}: give {', or '.join(wanted)}") from None


def _nearest(value: str, known: Any) -> str:
    close = difflib.get_close_matches(value, list(known), n=1)
    there = ", ".join(known)
    return f"did you mean {close[0]!r}? (there are {there})" if close else f"give one of {there}"
