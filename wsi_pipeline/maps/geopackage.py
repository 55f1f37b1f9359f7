"""Lesions and tissue -> polygons in micrometres for QGIS (GeoPackage)."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import shapely

from wsi_pipeline.disk import free_bytes, writing
from wsi_pipeline.errors import StoreError
from wsi_pipeline.lazy import without
from wsi_pipeline.maps.atomic import replace_file
from wsi_pipeline.maps.frame import frame_wkt, l0_to_frame
from wsi_pipeline.maps.lesions import Lesion
from wsi_pipeline.slide.reader import Slide

with without("pandas", "geopandas", "pyproj"):  # they took a second and 50 MiB, for what is of no use here
    import pyogrio
    import pyogrio.raw
    from pyogrio.errors import DataLayerError, DataSourceError

GPKG_VERSION = "1.2"  # GDAL before 3.7, and so QGIS 3.22, warns of GDAL's newer default
_TOLD = 60  # last characters of an error of GDAL, which begins with the whole SQL
_WHEN = {"OGR_CURRENT_DATE": "2000-01-01T00:00:00.000Z"}  # what GDAL dates layers by; run.json has the real time
_QUIET = {"CPL_LOG": os.devnull}  # GDAL prints what it also raises


def write_geopackage(path: str | Path, lesions: Sequence[Lesion], tissue: shapely.MultiPolygon, slide: Slide) -> Path:
    """Layers "lesions" and "tissue": polygons in micrometres, in the frame of the heatmap (maps/frame.py), y up.

    A feature a lesion and a feature a piece of tissue; layers without any are there too. The areas of lesions
    count tissue alone, so a lesion's outline may hold a little more. Equal lesions and tissue give equal bytes.
    Raises OSError where the file cannot be written.
    """
    mpp = slide.mpp_l0
    centres = l0_to_frame(np.array([lesion.centroid_l0 for lesion in lesions]).reshape(-1, 2), mpp)
    lesion_columns = {
        "number": np.array([lesion.number for lesion in lesions], dtype=np.int32),
        "area_mm2": _floats(lesion.area_mm2 for lesion in lesions),
        "longest_um": _floats(lesion.longest_um for lesion in lesions),
        "centroid_x_um": centres[:, 0],
        "centroid_y_um": centres[:, 1],
        "mean_probability": _floats(lesion.mean_probability for lesion in lesions),
        "max_probability": _floats(lesion.max_probability for lesion in lesions),
        "tiles": np.array([lesion.tiles for lesion in lesions], dtype=np.int32),
    }
    pieces = [shapely.MultiPolygon([piece]) for piece in tissue.geoms]
    tissue_columns = {"area_mm2": _floats(piece.area * mpp.x * mpp.y * 1e-6 for piece in pieces)}
    with writing(path), TemporaryDirectory() as scratch:  # GDAL builds the database in place; ours appears whole
        draft, said = Path(scratch) / "extent.gpkg", ""
        try:
            _write_layer(draft, "lesions", [lesion.polygon for lesion in lesions], lesion_columns, slide=slide)
            _write_layer(draft, "tissue", pieces, tissue_columns, slide=slide)
        except (DataSourceError, DataLayerError) as error:
            said = str(error)[-_TOLD:]
        if said:  # not raised from GDAL's own error, which does not travel from a worker
            raise StoreError(
                f"{path}: its draft in {Path(scratch).parent} failed, where {free_bytes(draft):,} bytes are free "
                f"(GDAL: ...{said}); free some there or set TMPDIR, then run again with --resume"
            )
        return replace_file(path, draft.read_bytes())


def _write_layer(
    path: Path, layer: str, shapes: Sequence[shapely.MultiPolygon], columns: Mapping[str, np.ndarray], *, slide: Slide
) -> None:
    """Add a layer of level-0 shapes, moved to the frame, to a GeoPackage, made where it is not there yet."""
    before = {name: pyogrio.get_gdal_config_option(name) for name in _WHEN}
    pyogrio.set_gdal_config_options(_QUIET)
    placed = [shapely.transform(shape, lambda xy: l0_to_frame(xy, slide.mpp_l0)) for shape in shapes]
    pyogrio.set_gdal_config_options(_WHEN)
    try:
        pyogrio.raw.write(
            path,
            geometry=shapely.to_wkb(np.array(placed, dtype=object)),
            field_data=list(columns.values()),
            fields=list(columns),
            layer=layer,
            driver="GPKG",
            geometry_type="MultiPolygon",
            crs=frame_wkt("um"),
            append=path.exists(),
            dataset_options={"VERSION": GPKG_VERSION},
        )
    finally:
        pyogrio.set_gdal_config_options(before)


def _floats(values: Any) -> np.ndarray:
    return np.fromiter(values, dtype=np.float64)
