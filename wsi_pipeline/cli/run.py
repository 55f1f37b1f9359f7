"""`run`: slides in, maps of cancer extent out."""

from typing import Any

import click

from wsi_pipeline.cli import options
from wsi_pipeline.cli.places import refuse_slides


@click.command("run")
@click.argument("slides", type=click.Path())
@options.folder_options
@options.pseudonym_options
@options.config_options
@options.model_options
@options.slide_options
@options.machine_options
@click.option("--dry-run", is_flag=True, help="Only tell what would be done; see `check`.")
def command(
    slides: str, out: str, resume: bool, overwrite: bool, key_file: str | None, config_file: str | None,
    overrides: tuple[str, ...], dry_run: bool, **given: Any,
) -> int:  # fmt: skip
    """Tile, score and map SLIDES: a folder (searched recursively), a glob, one file, or a manifest CSV
    slide_id,path[,mpp,label,patient_id,split]; paths or URLs such as s3://bucket/slides."""
    from functools import partial
    from pathlib import Path

    from wsi_pipeline.forks import begin_workers

    refuse_slides(out, slides)
    own = options.own_knobs(out, resume=resume, overwrite=overwrite)
    config = options.resolve(config_file, overrides, own=own, **given)
    if not dry_run:
        begin_workers(config.run.scheduler)
    from wsi_pipeline.cli.check import check
    from wsi_pipeline.slide.cache import use_cache
    from wsi_pipeline.slide.cohort import find_slides

    use_cache(config.run.cache_dir, config.run.cache_gb)
    entries = find_slides(slides, exclude=[Path(out)])
    from wsi_pipeline.cli.model import load

    if dry_run:
        from wsi_pipeline.pipeline.remote_folder import check_run

        check_run(out, resume=resume, overwrite=overwrite)
        load(config)
        return check(entries[: config.run.limit], config)
    from wsi_pipeline.cli.job import hidden, work
    from wsi_pipeline.pipeline.remote_folder import open_run
    from wsi_pipeline.pipeline.run import check_start

    entries, key = hidden(entries, key_file, out=out)
    classifier, about = load(config)
    ready = partial(check_start, config=config)
    folder = open_run(out, resume=resume, overwrite=overwrite, ready=ready)
    return work(entries, folder, config, classifier=classifier, model=about, pseudonyms=key)
