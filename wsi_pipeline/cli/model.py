"""The classifier of a configuration, loaded, with what the user is told of it."""

from typing import Any

import click

from wsi_pipeline.cli.options import path_anywhere
from wsi_pipeline.config import Config
from wsi_pipeline.pipeline.lanes import Recipe, RemoteClassifier
from wsi_pipeline.pipeline.score import Classifier
from wsi_pipeline.scores.adaptive import Adaptive, lattice_step


def load(config: Config) -> tuple[Classifier | RemoteClassifier, dict[str, Any]]:
    """The classifier, and its entry for run.json; its note goes to stderr before any work.

    Raises ModelError where it is none for tiles of the scale and size that are asked for: before any is cut.
    """
    knobs = config.model
    recipe = Recipe(
        path_anywhere(knobs.checkpoint),
        device=knobs.device,
        batch=knobs.batch,
        resample=knobs.resample,
        engine=knobs.engine,
        compiled=knobs.compiled,
        adaptive=Adaptive(knobs.adaptive_tolerance, config.maps.threshold) if knobs.adaptive else None,
        dense=knobs.dense,
        min_tissue=config.tiles.min_tissue,
        decode=knobs.decode,
        precision=knobs.precision,
        stall_s=config.run.stall_s,
    )
    here = config.run.scheduler in ("local", "threads")
    classifier = recipe.open() if here else RemoteClassifier(recipe)
    classifier.check_tiles(config.tiles.tile_px, config.tiles.mpp)
    by = f"{classifier.engine} in {classifier.precision}" if classifier.precision else classifier.engine
    click.echo(f"model {classifier.name} ({classifier.id}) on {classifier.device}, by {by}", err=True)
    if classifier.note:
        click.echo(f"note: {classifier.note}", err=True)
    tile_px, stride_px = config.tiles.tile_px, config.stride_px
    if knobs.adaptive and lattice_step(tile_px, stride_px) == 1:
        said = f"tiles of {tile_px} px every {stride_px} px are all scored, which saves nothing"
        click.echo(f"note: model.adaptive: {said}; overlap them, as by --set tiles.stride_px={tile_px // 4}", err=True)
    about = {
        "name": classifier.name,
        "id": classifier.id,
        "note": classifier.note,
        "positive": list(classifier.positive),
        "threshold": classifier.threshold,
        "device": classifier.device,
        "engine": classifier.engine,
        "precision": classifier.precision,
    }
    return classifier, about
