"""A configuration -> what the workers of a stage must know of it, as plain values that travel."""

from dataclasses import dataclass

from wsi_pipeline.config import Config
from wsi_pipeline.keys import config_hash
from wsi_pipeline.slide.reader import Reading
from wsi_pipeline.slide.tissue import TissueSettings
from wsi_pipeline.tiles.codecs import Codec
from wsi_pipeline.tiles.grid import Edge


@dataclass(frozen=True)
class TilingSettings:
    """What the worker that lays a grid must know, as plain values."""

    tissue: TissueSettings
    mpp: float
    tile_px: int
    stride_px: int
    min_tissue: float
    edge: Edge
    pixels: bool
    codec: Codec
    jpeg_quality: int
    shard_tiles: int
    reading: Reading
    config_hash: str


def tiling_settings(config: Config) -> TilingSettings:
    """The plain values of a configuration that tiling needs."""
    tiles = config.tiles
    return TilingSettings(
        tissue=TissueSettings(**config.tissue.model_dump()),
        mpp=tiles.mpp,
        tile_px=tiles.tile_px,
        stride_px=config.stride_px,
        min_tissue=tiles.min_tissue,
        edge=tiles.edge,
        pixels=tiles.store != "coordinates",
        codec="jpeg" if tiles.store == "jpeg" else "zstd",
        jpeg_quality=tiles.jpeg_quality,
        shard_tiles=tiles.shard_tiles,
        reading=Reading(
            icc=config.slide.icc, direct=config.slide.reader == "auto", reduced=config.slide.reduced_decode
        ),
        config_hash=config_hash(config),
    )
