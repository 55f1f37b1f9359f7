"""`map`: draw the maps of a run folder."""

from typing import Any

import click

from wsi_pipeline.cli import options


@click.command("map")
@click.argument("run_folder", type=click.Path())
@options.config_options
@options.model_options
@options.machine_options
def command(run_folder: str, config_file: str | None, overrides: tuple[str, ...], **given: Any) -> int:
    """Draw maps and areas of RUN_FOLDER, with its own knobs but for those given now.

    Does first what earlier stages have left to do; keeps what would come out the same.
    """
    from wsi_pipeline.cli.again import go_on

    return go_on(run_folder, "map", config_file, overrides, **given)
