"""Knobs in sections -> read from YAML, overridden by `--set section.knob=value`, checked, written out again.

What there is to set is said where it is used: config.py for a run, learn/training/settings.py for a training.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from wsi_pipeline.errors import ConfigError

_MAX_YAML = 2**20  # characters
_MAX_DEPTH = 100  # lists and tables in one another; beyond, the time of reading grows with the square of it
_MAX_SAID = 300  # characters of what was got, in a message
_OPENS = (
    yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken, yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken,
)  # fmt: skip
_CLOSES = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)
_NO_YAML = (yaml.YAMLError, ArithmeticError, RecursionError, ValueError)  # all that its reader was seen to raise


def knob(default: Any, help: str, *, unit: str = "", **limits: Any) -> Any:
    """A field with its meaning, unit and limits beside it."""
    return Field(default, description=help, json_schema_extra={"unit": unit}, **limits)


class Section(BaseModel):
    """Knobs that belong together; unknown ones and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Knobs = TypeVar("Knobs", bound=Section)


def load_knobs(
    kind: type[Knobs],
    path: str | Path | None = None,
    overrides: Iterable[str] = (),
    *,
    under: Mapping[str, Mapping[str, Any]] | None = None,
    listing: str = "",
) -> Knobs:
    """The resolved knobs: defaults, then those `under` all others, the YAML file, `section.knob=value` strings.

    Those `under` are of a run that is gone on with. Raises ConfigError naming the file, the knob, the value got and the
    nearest known knob, `listing` beside it.
    """
    place = str(path) if path else "configuration"
    knobs: dict[str, Any] = {section: dict(values) for section, values in (under or {}).items()}
    for section, values in (_read_yaml(Path(path)) if path else {}).items():
        knobs[section] = knobs.get(section, {}) | values
    for text in overrides:
        _override(kind, knobs, text)
    _refuse_unknown(kind, knobs, place, listing)
    try:
        return kind.model_validate(knobs)
    except ValidationError as error:
        said = _in_words(error)
        raise ConfigError(f"{place}: {said}{_to_take_back(kind, under or {}, knobs, said)}") from None


def all_knobs(config: Section) -> Iterable[tuple[str, Any, FieldInfo]]:
    """Each knob as (dotted name, value, field) in the order of the file."""
    for section in type(config).model_fields:
        model = getattr(config, section)
        for name, field in type(model).model_fields.items():
            yield f"{section}.{name}", getattr(model, name), field


def as_yaml(config: Section) -> str:
    """The configuration as YAML, each knob with its unit and meaning as a comment."""
    lines: list[str] = []
    for name, value, field in all_knobs(config):
        section, knob = name.split(".")
        if not lines or not any(line == f"{section}:" for line in lines):
            lines.append(f"{section}:")
        extra = field.json_schema_extra
        unit = extra.get("unit") if isinstance(extra, dict) else ""
        lines.append(
            f"  {knob}: {_as_written(value)}".ljust(33) + f" # {f'[{unit}] ' if unit else ''}{field.description}"
        )
    return "\n".join(lines) + "\n"


def _as_written(value: Any) -> str:
    """JSON, which YAML reads; but not its two escapes for one rare letter, which YAML takes for two broken ones."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            found = _parse_yaml(file.read(_MAX_YAML + 1))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give --config an existing YAML file") from None
    except _NO_YAML as error:
        raise ConfigError(f"{path}: is no valid YAML: {_short(' '.join(str(error).split()))}") from None
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(v, dict | None) for v in found.values()):
        raise ConfigError(f"{path}: sections with knobs are expected, such as 'tiles:' with 'mpp: 0.5' below it")
    return {str(section): dict(values or {}) for section, values in found.items()}


def _parse_yaml(text: str) -> Any:
    """Plain values; no aliases, by which a few lines can stand for gigabytes, and no depth that nobody writes."""
    if len(text) > _MAX_YAML:
        raise ValueError(f"more than {_MAX_YAML:,} characters")
    depth = 0
    for token in yaml.scan(text):
        if isinstance(token, yaml.AliasToken):
            raise ValueError("an alias (*name); write the value out")
        depth += isinstance(token, _OPENS) - isinstance(token, _CLOSES)
        if depth > _MAX_DEPTH:
            raise ValueError(f"more than {_MAX_DEPTH} lists and tables in one another")
    return yaml.safe_load(text)


def _short(text: str) -> str:
    return text if len(text) <= _MAX_SAID else f"{text[:_MAX_SAID]}..."


def _override(kind: type[Section], knobs: dict[str, Any], text: str) -> None:
    name, equals, value = text.partition("=")
    section, dot, knob = name.strip().partition(".")
    if not equals or not dot or not knob:
        raise ConfigError(f"--set {text}: use --set section.knob=value, such as --set tiles.mpp=0.5")
    try:
        parsed = _parse_yaml(value)
    except _NO_YAML:
        parsed = value
    if _is_text(kind, section, knob) and not isinstance(parsed, str | None):
        parsed = value.strip()  # 12:00:00, 0123: for YAML 43,200 and 83
    table = knobs.setdefault(section, {})
    *above, last = knob.split(".")
    for name in above:  # data.options.labels=a.csv: a knob that is itself a table
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {text}: {name} holds {table!r} and no names below it")
    table[last] = parsed


def _is_text(kind: type[Section], section: str, knob: str) -> bool:
    """Whether a knob holds text and nothing else."""
    known = kind.model_fields.get(section.strip())
    field = getattr(known and known.annotation, "model_fields", {}).get(knob)
    return field is not None and field.annotation in (str, str | None)


def _refuse_unknown(kind: type[Section], knobs: Mapping[str, Any], place: str, listing: str) -> None:
    known = {name: set(getattr(field.annotation, "model_fields", ())) for name, field in kind.model_fields.items()}
    dotted = [f"{section}.{knob}" for section, names in known.items() for knob in names]
    for section, values in knobs.items():
        if section not in known:
            raise ConfigError(f"{place}: unknown section {section!r}{_nearest(section, list(known), listing)}")
        for knob in values:
            if knob not in known[section]:
                name = f"{section}.{knob}"
                raise ConfigError(f"{place}: unknown knob {name!r}{_nearest(name, dotted, listing)}")


def _nearest(name: str, known: list[str], listing: str) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"; did you mean {near[0]!r}? {listing}".rstrip() if near else ""


def _to_take_back(kind: type[Section], under: Mapping[str, Any], knobs: Mapping[str, Any], said: str) -> str:
    """Which knobs that a message names are set by the run that is gone on with, and how to do without."""
    own = [
        (f"{section}.{name}", value, getattr(kind.model_fields[section].default, name))
        for section, values in under.items()
        for name, value in values.items()
        if value == knobs[section][name] and re.search(rf"{section}\.{name}\b", said)
    ]
    has = ", ".join(f"{name}={json.dumps(value)}" for name, value, default in own if value != default)
    back = " ".join(f"--set {name}={json.dumps(default)}" for name, value, default in own if value != default)
    return f"; the run's own run.json has {has}, {back} takes that back" if has else ""


def _in_words(error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        got = f" (got {_short(repr(item['input']))})" if name else ""
        if item["type"] == "string_type" and isinstance(item["input"], bool | int | float | date):
            got += "; put it in quotes"
        parts.append(f"{name}: {item['msg']}{got}" if name else str(item["msg"]).removeprefix("Value error, "))
    return "; ".join(parts)
