"""`check`: opens each slide and tells what a run would make of it; writes nothing, needs no torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from wsi_pipeline.cli import options

if TYPE_CHECKING:
    from wsi_pipeline.config import Config
    from wsi_pipeline.pipeline.check import Checked
    from wsi_pipeline.slide.entry import SlideEntry

READ_TILES_S = 300  # 256 px tiles read and stored a second by one core, as measured; see README


@click.command("check")
@click.argument("slides", type=click.Path())
@options.config_options
@options.slide_options
@options.machine_options
def command(slides: str, config_file: str | None, overrides: tuple[str, ...], **given: Any) -> int:
    """Tell for each of SLIDES its scale and where it comes from, levels, codec, bounds, the tiles, bytes and
    time to expect, and what would fail. Exit code 0: all would run; 3: some would not; 1: none would."""
    from wsi_pipeline.slide.cache import use_cache
    from wsi_pipeline.slide.cohort import find_slides

    config = options.resolve(config_file, overrides, **given)
    use_cache(config.run.cache_dir, config.run.cache_gb)
    return check(find_slides(slides)[: config.run.limit], config)


def check(entries: "Sequence[SlideEntry]", config: "Config") -> int:
    """Check each slide, print a block a slide and a sum; returns the exit code."""
    from wsi_pipeline.pipeline.check import check_slide

    rows = []
    for entry in entries:
        rows.append(check_slide(entry, config))
        _show(rows[-1])
    good = [row for row in rows if row.status in ("ok", "no_tissue")]
    tiles, size = sum(row.tiles or 0 for row in good), sum(row.bytes for row in good)
    pixels = tiles * (config.tiles.tile_px / 256) ** 2
    click.echo(
        f"{len(rows)} slides, {len(rows) - len(good)} would fail; ~ {tiles:,} tiles, up to {size / 2**20:,.0f} MiB, "
        f"{_minutes(pixels / READ_TILES_S)} of one core to read and store (scoring not counted)"
    )
    return 0 if len(good) == len(rows) else 3 if good else 1


def _show(row: "Checked") -> None:
    click.echo(f"{row.slide_id}: {row.status}")
    slide = row.slide
    if slide is not None:
        mpp, bounds = slide.mpp_l0, slide.bounds_l0
        click.echo(f"  mpp      {mpp.x:.4g} x {mpp.y:.4g} um/px ({mpp.source})")
        click.echo(f"  levels   {', '.join(f'{w:,} x {h:,}' for w, h in slide.level_sizes)} px")
        click.echo(f"  format   {slide.vendor}, {slide.codec}, by {slide.backend}")
        click.echo(f"  bounds   {', '.join(map(str, bounds)) if bounds else 'none'}")
    if row.tiles is not None:
        click.echo(f"  tiles    about {row.tiles:,}, up to {row.bytes / 2**20:,.1f} MiB")
    for note in filter(None, [row.message, *(slide.warnings if slide else ())]):
        click.echo(f"  note     {note}")


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
