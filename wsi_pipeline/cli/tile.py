"""`tile`: slides in, tile stores out; needs no torch."""

from typing import Any

import click

from wsi_pipeline.cli import options
from wsi_pipeline.cli.places import refuse_slides


@click.command("tile")
@click.argument("slides", type=click.Path())
@options.folder_options
@options.pseudonym_options
@options.config_options
@options.slide_options
@options.machine_options
def command(
    slides: str, out: str, resume: bool, overwrite: bool, key_file: str | None, config_file: str | None,
    overrides: tuple[str, ...], **given: Any,
) -> int:  # fmt: skip
    """Only find tissue and cut tiles of SLIDES into Zarr stores; `score` and `map` go on from there."""
    from functools import partial
    from pathlib import Path

    from wsi_pipeline.forks import begin_workers

    refuse_slides(out, slides)
    own = options.own_knobs(out, resume=resume, overwrite=overwrite)
    config = options.resolve(config_file, overrides, own=own, **given)
    begin_workers(config.run.scheduler)
    from wsi_pipeline.cli.job import hidden, work
    from wsi_pipeline.pipeline.remote_folder import open_run
    from wsi_pipeline.pipeline.run import check_start
    from wsi_pipeline.slide.cache import use_cache
    from wsi_pipeline.slide.cohort import find_slides

    use_cache(config.run.cache_dir, config.run.cache_gb)
    entries = find_slides(slides, exclude=[Path(out)])
    entries, key = hidden(entries, key_file, out=out)
    ready = partial(check_start, config=config)
    folder = open_run(out, resume=resume, overwrite=overwrite, ready=ready)
    return work(entries, folder, config, until="tile", pseudonyms=key)
