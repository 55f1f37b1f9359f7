"""What the map stage leaves of a slide: names of files, and the settings that travel to the worker that draws."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wsi_pipeline import __version__
from wsi_pipeline.config import Config
from wsi_pipeline.keys import config_hash

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
