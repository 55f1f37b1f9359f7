"""Options that several commands share, and what they come to: one resolved Config."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from wsi_pipeline.config import Config, ModelKnobs, load_config
from wsi_pipeline.keys import deciding

Decorator = Callable[[Any], Any]

_CONFIG = [
    click.option("--config", "config_file", metavar="YAML", help="Knobs of the run; `config` prints all."),
    click.option("--set", "overrides", multiple=True, metavar="KNOB=VALUE", help="One knob, such as tiles.mpp=0.5."),
]
_SLIDES = [
    click.option("--mpp-default", type=float, help="um/px for slides that state none."),
    click.option(
        "--tiles-store",
        type=click.Choice(["pixels", "jpeg", "coordinates"]),
        help="Keep pixels, the same as JPEG, or places alone.",
    ),
    click.option("--limit", type=int, help="Only the first so many slides."),
]
_MACHINES = [
    click.option("--workers", type=int, help="Reading processes; one a core by default."),
    click.option("--scheduler", metavar="WHERE", help="local, threads, slurm or tcp://host:port of a Dask scheduler."),
]
_MODEL = [
    click.option("--model", help="A folder or file of ours, or a model in the box (default: demo)."),
    click.option("--batch", type=int, help="Tiles scored at once."),
    click.option("--device", help="auto, cpu, cuda or cuda:N."),
    click.option(
        "--adaptive",
        is_flag=True,
        default=None,
        help="Score coarsely first, finely only where the outcome is open; small lesions can be missed.",
    ),
]
_FOLDER = [
    click.option("--out", required=True, type=click.Path(), help="The run folder."),
    click.option("--resume", is_flag=True, help="Go on with its own knobs; do only what is missing or has changed."),
    click.option("--overwrite", is_flag=True, help="Remove what an earlier run left in the folder."),
]
_PSEUDONYMS = [
    click.option(
        "--pseudonymize",
        "key_file",
        metavar="KEYFILE",
        type=click.Path(),
        help="Write no names of slides and patients; KEYFILE, a CSV outside --out, made if absent, tells who is who.",
    ),
]
_KNOBS = {
    "mpp_default": "slide.mpp_default",
    "tiles_store": "tiles.store",
    "limit": "run.limit",
    "workers": "run.workers",
    "scheduler": "run.scheduler",
    "model": "model.checkpoint",
    "batch": "model.batch",
    "device": "model.device",
    "adaptive": "model.adaptive",
}


def _all(options: list[Decorator]) -> Decorator:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


config_options = _all(_CONFIG)
slide_options = _all(_SLIDES)
machine_options = _all(_MACHINES)
model_options = _all(_MODEL)
folder_options = _all(_FOLDER)
pseudonym_options = _all(_PSEUDONYMS)


def resolve(
    config_file: str | None, overrides: tuple[str, ...], *, own: Mapping[str, Any] | None = None, **given: Any
) -> Config:
    """The configuration of a command: file, then --set, then the options that have a name of their own.

    With `own`, the knobs of a run that is gone on with: those that decide what it comes to stand where none are given
    now, and what is given otherwise is told on stderr. The model's path is one that is known in any folder.
    """
    before = deciding(own or {})
    if "checkpoint" in before.get("model", {}):
        before["model"]["checkpoint"] = path_anywhere(before["model"]["checkpoint"])
    config = load_config(config_file, [*overrides, *named(given)], under=before)
    model = config.model.model_copy(update={"checkpoint": path_anywhere(config.model.checkpoint)})
    config = config.model_copy(update={"model": model})
    now = deciding(config.model_dump(mode="json"))
    changed = [
        f"{section}.{name} {value} -> {now[section][name]}"
        for section, values in before.items()
        for name, value in values.items()
        if now[section][name] != value
    ]
    if changed:
        click.echo(f"changed since: {', '.join(changed)}; what hangs on it is done again", err=True)
    return config


def path_anywhere(checkpoint: str) -> str:
    """A path as it is known in any folder; the name of a model in the box as it is."""
    if checkpoint == ModelKnobs().checkpoint:  # nothing has to be loaded to know it
        return checkpoint
    from wsi_pipeline.learn.model.checkpoint import shipped_models

    return checkpoint if checkpoint in shipped_models() else str(Path(checkpoint).absolute())


def own_knobs(out: str, *, resume: bool, overwrite: bool) -> dict[str, Any]:
    """The knobs of the run in `out` that is gone on with; none without --resume, or where no run has begun."""
    if resume and overwrite:
        raise click.UsageError("--resume goes on with what --overwrite removes; give one of the two")
    if not resume:
        return {}
    from wsi_pipeline.pipeline.remote_folder import account_of

    found: dict[str, Any] = account_of(out).get("config", {})
    return found


def named(given: dict[str, Any]) -> list[str]:
    """Options that have a name of their own as `section.knob=value`; those not given are left out."""
    return [f"{_KNOBS[name]}={value}" for name, value in given.items() if value is not None]
