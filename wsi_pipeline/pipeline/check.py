"""One slide -> what a run would make of it, without writing anything: its scale, levels, tiles, bytes, or why not."""

from dataclasses import dataclass, replace

from wsi_pipeline.config import Config
from wsi_pipeline.errors import ScaleError, SlideError, WsiError
from wsi_pipeline.pipeline.settings import tiling_settings
from wsi_pipeline.slide.entry import SlideEntry
from wsi_pipeline.slide.reader import Slide, SlideReader, open_slide, working_mpp
from wsi_pipeline.slide.tissue import find_tissue
from wsi_pipeline.tiles.codecs import store_bytes
from wsi_pipeline.tiles.grid import lay_grid, too_little

COARSE_MPP = 32.0  # tissue is only estimated here; a sixteenth of the pixels that a run looks at
MAX_PX = 4e8  # pixels of the level to be read for it; above, tissue is not looked for


@dataclass(frozen=True)
class Checked:
    """What would become of a slide: status as in slides.csv, or "ok" with an estimate."""

    slide_id: str
    status: str
    slide: Slide | None = None
    tiles: int | None = None
    bytes: int = 0
    message: str = ""


def check_slide(entry: SlideEntry, config: Config) -> Checked:
    """Open the slide, look for tissue on a coarse overview, count tiles."""
    try:
        slide = open_slide(entry.path, slide_id=entry.slide_id, mpp=entry.mpp, mpp_default=config.slide.mpp_default)
    except ScaleError as error:
        return Checked(entry.slide_id, "no_mpp", message=str(error))
    except SlideError as error:
        return Checked(entry.slide_id, "unreadable", message=str(error))
    except WsiError as error:  # of a URL that no library reads, say: a run fails that slide alone, too
        return Checked(entry.slide_id, "failed", message=str(error))
    try:
        return _estimate(Checked(entry.slide_id, "ok", slide), slide, config)
    except WsiError as error:
        status = "unreadable" if isinstance(error, SlideError) else "failed"
        return Checked(entry.slide_id, status, slide, message=str(error))


def _estimate(checked: Checked, slide: Slide, config: Config) -> Checked:
    settings = tiling_settings(config)
    mpp = working_mpp(slide, settings.mpp, reductions=settings.reading.reductions)
    if slide.level_sizes[-1][0] * slide.level_sizes[-1][1] > MAX_PX:
        return replace(checked, message="single level: tissue is not looked for here, tiles not estimated")
    with SlideReader(slide, settings.reading) as reader:
        tissue = find_tissue(reader, replace(settings.tissue, mpp=max(COARSE_MPP, settings.tissue.mpp)))
    grid = lay_grid(
        slide,
        tissue,
        tile_px=settings.tile_px,
        stride_px=settings.stride_px,
        mpp=mpp,
        min_tissue=settings.min_tissue,
        edge=settings.edge,
    )
    size = store_bytes(len(grid), settings.tile_px, settings.codec) if settings.pixels else 0
    status = "ok" if len(grid) else "no_tissue"
    message = "; ".join((*tissue.warnings, *too_little(grid, tissue.tissue_mm2)))
    return replace(checked, status=status, tiles=len(grid), bytes=size, message=message)
