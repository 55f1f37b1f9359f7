"""What the map stage leaves of a slide: names of files, the settings that travel, and its task for a worker.

What draws the maps is loaded by the worker that draws the first: matplotlib, GDAL and scipy take a second and a
tenth of a gigabyte, in the process that scores too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from wsi_pipeline import __version__
from wsi_pipeline.config import Config, config_hash
from wsi_pipeline.maps.result import SlideResult
from wsi_pipeline.tiles.places import filled

ENDINGS = {
    "heatmap": ("likelihood_map.tif", "likelihood_map.qml"),
    "overlay": ("overlay.png", "tissue.png"),
    "geojson": ("lesions.geojson", "tissue.geojson"),
    "asap": ("lesions.xml",),
    "tiles_geojson": ("tiles.geojson.gz",),
    "geopackage": ("extent.gpkg",),
    "parquet": ("tiles.parquet",),
}


@dataclass(frozen=True)
class MappingSettings:
    """What the worker that draws the maps must know, as plain values."""

    extent: Mapping[str, Any]  # the fields of ExtentSettings
    outputs: frozenset[str]
    full_frame: bool
    tags: Mapping[str, str]


def mapping_settings(config: Config, model: str) -> MappingSettings:
    """The plain values of a configuration that mapping needs; `model` is the checkpoint's id."""
    return MappingSettings(
        extent=config.maps.model_dump(),
        outputs=frozenset(name for name in ENDINGS if getattr(config.outputs, name)),
        full_frame=config.outputs.full_frame,
        tags={"model": model, "config_hash": config_hash(config), "package_version": __version__},
    )


def map_files(slide_id: str, outputs: frozenset[str]) -> list[str]:
    """Names of the files that a slide's map stage leaves behind."""
    return [f"{slide_id}_{ending}" for name in sorted(outputs) for ending in ENDINGS[name]]


def draw_maps(store_path: str, maps: str, model: str, key: str, settings: MappingSettings) -> SlideResult:
    """`map_slide` of pipeline/map.py, as the task of a worker; `maps` is a folder or a URL."""
    map_slide = import_module("wsi_pipeline.pipeline.map").map_slide
    with filled(maps) as folder:
        drawn: SlideResult = map_slide(store_path, str(folder), model, key, settings)
    return drawn
