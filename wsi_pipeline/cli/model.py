"""The classifier of a configuration, loaded, with what the user is told of it."""

from typing import Any

import click

from wsi_pipeline.config import Config
from wsi_pipeline.pipeline.score import Classifier
from wsi_pipeline.scores.adaptive import Adaptive


def load(config: Config) -> tuple[Classifier, dict[str, Any]]:
    """The classifier, and its entry for run.json; its note goes to stderr before any work."""
    knobs = config.model
    classifier = Classifier(
        knobs.checkpoint,
        device=knobs.device,
        batch=knobs.batch,
        resample=knobs.resample,
        engine=knobs.engine,
        compiled=knobs.compiled,
        adaptive=Adaptive(knobs.adaptive_tolerance, config.maps.threshold) if knobs.adaptive else None,
        dense=knobs.dense,
        min_tissue=config.tiles.min_tissue,
    )
    click.echo(f"model {classifier.name} ({classifier.id}) on {classifier.device}, by {classifier.engine}", err=True)
    if classifier.note:
        click.echo(f"note: {classifier.note}", err=True)
    about = {
        "name": classifier.name,
        "id": classifier.id,
        "note": classifier.note,
        "positive": list(classifier.positive),
        "threshold": classifier.threshold,
        "device": classifier.device,
        "engine": classifier.engine,
    }
    return classifier, about
