"""The scores of a slide -> its maps, areas and tables in the run folder, without torch."""

from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.maps.aggregate import summarise
from wsi_pipeline.maps.annotations import cancer_name, write_annotations, write_tiles, write_tissue
from wsi_pipeline.maps.asap import write_asap
from wsi_pipeline.maps.extent import ExtentMap, ExtentSettings, map_extent
from wsi_pipeline.maps.geopackage import write_geopackage
from wsi_pipeline.maps.heatmap import write_heatmap, write_style
from wsi_pipeline.maps.lesions import Lesion, find_lesions
from wsi_pipeline.maps.overlay import draw_overlay, draw_tissue
from wsi_pipeline.maps.result import SlideResult
from wsi_pipeline.maps.tables import write_tiles_parquet
from wsi_pipeline.pipeline.outputs import MappingSettings
from wsi_pipeline.scores.dense import cells_of
from wsi_pipeline.scores.store import Scores, read_scores
from wsi_pipeline.slide.tissue import TissueMask, tissue_polygons
from wsi_pipeline.tiles.grid import TileGrid
from wsi_pipeline.tiles.store import TileStore, open_store
from wsi_pipeline.tiles.tiler import let_go


@dataclass(frozen=True)
class _Mapped:
    """All that is known of a mapped slide; what each output is written from."""

    store: TileStore
    scores: Scores
    tissue: TissueMask
    extent: ExtentMap
    lesions: tuple[Lesion, ...]
    settings: MappingSettings

    @property
    def grid(self) -> TileGrid:
        """What the scores are of: the store's tiles, or the windows of a dense map."""
        return self.scores.grid_over(self.store.grid)


def map_slide(store_path: str, maps: str, model: str, key: str, settings: MappingSettings) -> SlideResult:
    """Draw the extent of one scored slide, write every output that is switched on, sum the slide up.

    `model` and `key` name the scores. Raises StoreError where they are not there.
    """
    store = open_store(store_path)
    let_go(store.grid.slide)
    scores = read_scores(store_path, model, key=key)
    tissue = store.mask()
    extent = map_extent(
        scores.grid_over(store.grid),
        tissue,
        scores,
        ExtentSettings(**settings.extent),
        unreadable=None if scores.windows is None else cells_of(store.grid, scores.missed or ()),
    )
    mapped = _Mapped(store, scores, tissue, extent, find_lesions(extent), settings)
    for name in sorted(settings.outputs):
        _WRITERS[name](mapped, Path(maps) / store.grid.slide.id)
    return summarise(
        extent,
        mapped.lesions,
        scores,
        slide_id=store.grid.slide.id,
        status=_status(mapped),
        slide=store.grid.slide,
        warnings=(*store.warnings, *scores.remarks, *_gaps(mapped.grid)),
    )


def _gaps(grid: TileGrid) -> tuple[str, ...]:
    """What the reader of a map must know where tiles leave gaps."""
    if grid.stride_px <= grid.tile_px:
        return ()
    share = (grid.tile_px / grid.stride_px) ** 2
    return (
        f"tiles of {grid.tile_px} px every {grid.stride_px} px: about {share:.0%} of the tissue was looked at, which "
        "stands for the rest; the intervals do not tell of that",
    )


def _status(mapped: _Mapped) -> str:
    if not mapped.store.n_tiles:
        return "no_tissue"
    return "partial" if mapped.scores.unreadable else "ok"


def _path(stem: Path, ending: str) -> Path:
    return stem.with_name(f"{stem.name}_{ending}")


def _heatmap(mapped: _Mapped, stem: Path) -> None:
    path = _path(stem, "likelihood_map.tif")
    write_heatmap(
        path, mapped.extent, mapped.store.grid.slide, tags=mapped.settings.tags, positive=mapped.scores.positive
    )
    write_style(_path(stem, "likelihood_map.qml"))


def _pictures(mapped: _Mapped, stem: Path) -> None:
    slide, tissue = mapped.store.grid.slide, mapped.tissue
    draw_overlay(
        _path(stem, "overlay.png"),
        tissue.thumbnail,
        tissue,
        mapped.extent,
        mapped.lesions,
        slide,
        title=slide.id,
    )
    draw_tissue(_path(stem, "tissue.png"), tissue, slide, title=slide.id)


def _geojson(mapped: _Mapped, stem: Path) -> None:
    slide, polygons = mapped.store.grid.slide, tissue_polygons(mapped.tissue)
    full_frame = mapped.settings.full_frame
    name = cancer_name(mapped.scores.positive)
    write_annotations(_path(stem, "lesions.geojson"), mapped.lesions, slide, class_name=name, full_frame=full_frame)
    write_tissue(
        _path(stem, "tissue.geojson"), polygons, slide, tissue_mm2=mapped.tissue.tissue_mm2, full_frame=full_frame
    )


def _asap(mapped: _Mapped, stem: Path) -> None:
    write_asap(_path(stem, "lesions.xml"), mapped.lesions, group=cancer_name(mapped.scores.positive))


def _tiles_geojson(mapped: _Mapped, stem: Path) -> None:
    path, how = _path(stem, "tiles.geojson.gz"), {"threshold": mapped.extent.threshold}
    write_tiles(path, mapped.grid, mapped.scores, full_frame=mapped.settings.full_frame, **how)


def _geopackage(mapped: _Mapped, stem: Path) -> None:
    slide = mapped.store.grid.slide
    write_geopackage(_path(stem, "extent.gpkg"), mapped.lesions, tissue_polygons(mapped.tissue), slide)


def _parquet(mapped: _Mapped, stem: Path) -> None:
    write_tiles_parquet(_path(stem, "tiles.parquet"), mapped.grid, mapped.scores, threshold=mapped.extent.threshold)


_WRITERS = {
    "heatmap": _heatmap,
    "overlay": _pictures,
    "geojson": _geojson,
    "asap": _asap,
    "tiles_geojson": _tiles_geojson,
    "geopackage": _geopackage,
    "parquet": _parquet,
}
