"""One slide -> its tile store: tissue found, grid laid, tiles cut by the workers, a whole shard a task."""

from collections.abc import Callable
from dataclasses import asdict

import zarr

from wsi_pipeline.cluster import Cluster
from wsi_pipeline.errors import StoreError
from wsi_pipeline.pipeline.damage import are_healed, flag_unreadable, missed_tiles, take_back_scores
from wsi_pipeline.pipeline.settings import TilingSettings
from wsi_pipeline.slide.handles import drop_reader, reader_for
from wsi_pipeline.slide.reader import Slide, working_mpp
from wsi_pipeline.slide.tissue import find_tissue
from wsi_pipeline.slide.urls import broken
from wsi_pipeline.tiles.grid import lay_grid
from wsi_pipeline.tiles.layout import ATTRIBUTES, read_attributes
from wsi_pipeline.tiles.making import create_store, delete_store
from wsi_pipeline.tiles.places import place_of
from wsi_pipeline.tiles.store import TileStore, open_store
from wsi_pipeline.tiles.tiler import CutResult, check_readable, cut_tiles


def lay_tiles(slide: Slide, store_path: str, key: str, settings: TilingSettings) -> int:
    """Find the tissue of a slide, lay the grid and create the store; the task of a worker.

    Returns the number of tiles. A store of the same `key` is kept and told where the slide lies now, one of another key
    is made anew. Raises SlideError, ScaleError where the slide is coarser than asked for, StoreError where the disk is
    full.
    """
    if (kept := _same_store(store_path, key)) is not None:
        if kept.grid.slide != slide:
            _tell_slide(kept, slide)
        return kept.n_tiles
    mpp = working_mpp(slide, settings.mpp, reductions=settings.reading.reductions)
    try:
        reader = reader_for(slide, settings.reading)
        tissue = find_tissue(reader, settings.tissue)
    finally:
        drop_reader(slide)
    grid = lay_grid(
        slide,
        tissue,
        tile_px=settings.tile_px,
        stride_px=settings.stride_px,
        mpp=mpp,
        min_tissue=settings.min_tissue,
        edge=settings.edge,
    )
    told = {"target_mpp": settings.mpp, "tissue": asdict(settings.tissue), "config_hash": settings.config_hash}
    store = create_store(
        store_path,
        grid,
        tissue,
        pixels=settings.pixels,
        shard_tiles=settings.shard_tiles,
        key=key,
        settings=told,
        codec=settings.codec,
        quality=settings.jpeg_quality,
        reading=settings.reading,
    )
    return store.n_tiles


def fill_store(
    store_path: str,
    cluster: Cluster,
    *,
    max_unreadable: float,
    model: str = "",
    key: str = "",
    progress: Callable[[int], None] | None = None,
) -> CutResult:
    """Cut what the store still misses, or has as unreadable, and mark it complete.

    Scores of `model` and `key` that miss a tile which can be read by now are to be made again.
    """
    store = open_store(store_path, complete=False)
    missed = missed_tiles(store, model, key)
    if store.pixels and len(missed):
        flag_unreadable(store, missed)
        store = open_store(store_path, complete=False)
    done = cut_tiles(store, cluster, progress=progress, max_unreadable=max_unreadable)
    if len(missed) and are_healed(store_path, missed, cluster):
        take_back_scores(store, model)
    return done


def kept_tiles(store_path: str, *, max_unreadable: float) -> CutResult:
    """What a complete store of pixels holds, of a slide that is gone; SlideError as of `cut_tiles`."""
    store = open_store(store_path)
    unreadable = int((~store.flags(0, store.n_tiles)).sum())
    check_readable(store.grid.slide, unreadable, store.n_tiles, max_unreadable)
    return CutResult(store.n_tiles, unreadable, shards_written=0, seconds=0.0, reading_s=0.0, store_s=0.0)


def _tell_slide(store: TileStore, slide: Slide) -> None:
    """Write down in a store what its slide is now: it was moved, or is seen from another machine."""
    with store.place.writing():
        group = zarr.open_group(store.place.zarr, mode="r+", zarr_format=3)
        group.attrs[ATTRIBUTES] = {**read_attributes(group), "slide": asdict(slide)}


def _same_store(store_path: str, key: str) -> TileStore | None:
    """The store that is there, if it is whole and was made from the same; any other store of ours is removed.

    Raises StoreError, and leaves it, where it cannot be reached: a disk or network that fails for a moment.
    """
    if not place_of(store_path).taken():
        return None
    try:
        store = open_store(store_path, complete=False)
    except StoreError as error:
        cause = error.__cause__
        if isinstance(cause, broken()) and not isinstance(cause, FileNotFoundError):
            raise
        delete_store(store_path)
        return None
    if store.key == key and store.is_whole():
        return store
    delete_store(store_path)
    return None
