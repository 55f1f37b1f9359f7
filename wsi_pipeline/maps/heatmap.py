"""Heatmap GeoTIFF of a slide from its ExtentMap, for QGIS, GDAL, ASAP, QuPath and napari; its QGIS style."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from wsi_pipeline.lazy import without
from wsi_pipeline.maps.atomic import replace_file
from wsi_pipeline.maps.extent import ExtentMap
from wsi_pipeline.maps.frame import frame_affine, frame_wkt
from wsi_pipeline.maps.palette import COLOURS, OPACITIES, PROBABILITIES
from wsi_pipeline.maps.raster import cell_under, pixel_centres_l0, sample
from wsi_pipeline.slide.reader import Slide

with without("boto3"):  # for files in buckets, which are not written by this
    import rasterio
    import rasterio.shutil
    from rasterio.io import MemoryFile
    from rasterio.transform import Affine
    from rasterio.windows import Window

NODATA = -1.0  # never NaN: ASAP paints NaN opaque red
SCALES = (128, 64, 32, 16)
BLOCK_PX = 256
GDAL_CACHE_MB = 64  # GDAL's own default is 5 % of the machine
FRAME_NOTE = "x_um = col*s*mpp_x, y_um = -row*s*mpp_y; level-0 px = (x_um/mpp_x, -y_um/mpp_y)"
COG_OPTIONS = {
    "compress": "LZW",  # ASAP refuses GDAL's DEFLATE and ZSTD
    "predictor": "NO",  # Bio-Formats cannot read predictor 3
    "blocksize": str(BLOCK_PX),
    "overview_resampling": "AVERAGE",
    "overviews": "IGNORE_EXISTING",
}


def choose_scale(cell_l0: tuple[float, float]) -> int:
    """Level-0 px of a heatmap pixel: the largest of 16, 32, 64, 128 not above a cell; 16 at least."""
    finest = min(cell_l0) * (1 + 1e-9)  # a stride of exactly 64 px may come out as 63.9999999999
    return next((scale for scale in SCALES if scale <= finest), SCALES[-1])


def fit_scale(size_l0: tuple[int, int], cell_l0: tuple[float, float]) -> int:
    """`choose_scale`, halved until ASAP accepts the heatmap beside its slide; 1 in the end.

    ASAP takes an overlay only if W0 // W' == H0 // H' and draws it at that factor. Floored sizes W' = W0 // s
    alone do not ensure it: 2220 x 2967 px at s = 128 gives 17 x 23 px, factors 130 and 129. A slide smaller
    than s in a side gets a smaller s too, so that no side of the heatmap is 0.
    """
    scale = choose_scale(cell_l0)
    while scale > 1 and not all(side >= scale and side // (side // scale) == scale for side in size_l0):
        scale //= 2
    return scale


def write_heatmap(
    path: str | Path,
    extent: ExtentMap,
    slide: Slide,
    *,
    tags: Mapping[str, str],
    positive: Sequence[str] = (),
) -> Path:
    """Write the probabilities of a slide as a Cloud-Optimised GeoTIFF; returns its path.

    One pixel is `fit_scale` level-0 px a side, from level-0 (0, 0) over the whole slide; float32 in steps of
    1e-4, -1 where there is none. Band 1 is P(cancer); more classes follow, each in a band of its own.

    Args:
        path: ends as `<slide>_likelihood_map.tif`, the name that ASAP looks for beside the slide.
        tags: model id, config hash, package version and so on; each lies in the file as WSI_<KEY>.
        positive: the classes that count as cancer; if it is one, band 1 bears its name and is its band.

    Raises:
        OSError: the file cannot be written.
    """
    scale = fit_scale(slide.size_l0, extent.cell_l0)
    names, bands = _name_bands(extent, positive)
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB), MemoryFile() as plain, MemoryFile(ext=".tif") as cog:
        with plain.open(**_profile(slide, scale, bands=len(names))) as target:
            target.update_tags(**_tags(extent, slide, scale, tags))
            for number, (name, cells) in enumerate(zip(names, bands, strict=True), start=1):
                target.set_band_description(number, name)
                for window, values in _strips(cells, extent, scale, shape=target.shape):
                    target.write(values, number, window=window)
        with plain.open() as source:
            rasterio.shutil.copy(source, cog.name, driver="COG", **COG_OPTIONS)
        return replace_file(path, cog.read())


def _profile(slide: Slide, scale: int, *, bands: int) -> dict:
    return {
        "driver": "GTiff",
        "dtype": "float32",
        "nodata": NODATA,
        "count": bands,
        "width": slide.size_l0[0] // scale,
        "height": slide.size_l0[1] // scale,
        "crs": frame_wkt("um"),
        "transform": _transform(slide, scale),
        "tiled": True,
        "blockxsize": BLOCK_PX,
        "blockysize": BLOCK_PX,
        "compress": "LZW",
        "photometric": "MINISBLACK",  # three bands are no colours
    }


def _transform(slide: Slide, scale: int) -> Affine:
    """(col, row) corners of the heatmap to the frame in micrometres, rows downwards."""
    transform = Affine(*frame_affine((scale, scale), slide.mpp_l0))
    if (transform.a, transform.e) == (1.0, -1.0):  # 1 um: rasterio takes exactly this for no frame, and warns
        transform = Affine(float(np.nextafter(1.0, 2.0)), *transform[1:6])
    return transform


def _name_bands(extent: ExtentMap, positive: Sequence[str]) -> tuple[list[str], list[np.ndarray]]:
    """Band descriptions and (rows, cols) cells: P(cancer) first, then the classes it does not stand for."""
    only = extent.class_names if len(extent.class_names) == 1 else positive
    primary = only[0] if len(only) == 1 else None
    others = [k for k, name in enumerate(extent.class_names) if name != primary]
    together = "positive" if "cancer" in extent.class_names else "cancer"
    names = [f"prob_{primary or together}", *(f"prob_{extent.class_names[k]}" for k in others)]
    return names, [extent.probability, *(extent.classes[k] for k in others)]


def _strips(
    cells: np.ndarray, extent: ExtentMap, scale: int, *, shape: tuple[int, int]
) -> Iterator[tuple[Window, np.ndarray]]:
    """Windows of BLOCK_PX rows over the heatmap with their float32 values: nearest cells, NaN made NODATA."""
    clean = np.where(np.isnan(cells), NODATA, np.round(cells, 4)).astype(np.float32)
    (cell_x, cell_y), (origin_x, origin_y) = extent.cell_l0, extent.origin_l0
    cols = cell_under(pixel_centres_l0(shape[1], scale), cell_x, origin_l0=origin_x, cells=cells.shape[1])
    rows = cell_under(pixel_centres_l0(shape[0], scale), cell_y, origin_l0=origin_y, cells=cells.shape[0])
    for top in range(0, shape[0], BLOCK_PX):
        part = rows[top : top + BLOCK_PX]
        yield Window(0, top, shape[1], len(part)), sample(clean, part, cols, outside=NODATA)


def _tags(extent: ExtentMap, slide: Slide, scale: int, given: Mapping[str, str]) -> dict[str, str]:
    """All tags of the file; ours bear a prefix, so that none can become an ImageDescription."""
    own = {
        "level0_width": slide.size_l0[0],
        "level0_height": slide.size_l0[1],
        "mpp_x": slide.mpp_l0.x,
        "mpp_y": slide.mpp_l0.y,
        "mpp_source": slide.mpp_l0.source,
        "level0_px_per_pixel": scale,
        "threshold": extent.threshold,
        "frame": FRAME_NOTE,
        "use": "Research use only",
    }
    if slide.bounds_l0 is not None:
        own |= {f"bounds_{k}": v for k, v in zip(("x", "y", "width", "height"), slide.bounds_l0, strict=True)}
    return {f"WSI_{key.upper()}": str(value) for key, value in {**given, **own}.items()} | {
        "TIFFTAG_XRESOLUTION": repr(1e4 / (scale * slide.mpp_l0.x)),
        "TIFFTAG_YRESOLUTION": repr(1e4 / (scale * slide.mpp_l0.y)),
        "TIFFTAG_RESOLUTIONUNIT": "3",  # cm
    }


def write_style(path: str | Path) -> Path:
    """Write the QGIS style (.qml) of band 1, a fixed scale of 0-1; QGIS takes it by the map's stem."""
    root = ElementTree.Element("qgis", version="3.22.0", styleCategories="AllStyleCategories")
    pipe = ElementTree.SubElement(root, "pipe")
    renderer = ElementTree.SubElement(
        pipe,
        "rasterrenderer",
        {
            "type": "singlebandpseudocolor",
            "band": "1",
            "classificationMin": "0",
            "classificationMax": "1",
            "opacity": "1",
            "alphaBand": "-1",
            "nodataColor": "",
        },
    )
    limits = ElementTree.SubElement(renderer, "minMaxOrigin")
    for key, value in (("limits", "None"), ("extent", "WholeRaster"), ("statAccuracy", "Estimated")):
        ElementTree.SubElement(limits, key).text = value  # None: QGIS must not stretch the scale to the data
    shader = ElementTree.SubElement(
        ElementTree.SubElement(renderer, "rastershader"),
        "colorrampshader",
        {
            "colorRampType": "INTERPOLATED",
            "classificationMode": "1",
            "clip": "0",
            "minimumValue": "0",
            "maximumValue": "1",
        },
    )
    for probability, colour, opacity in zip(PROBABILITIES, COLOURS, OPACITIES, strict=True):
        value = f"{probability:.1f}"
        look = {"color": "#{:02x}{:02x}{:02x}".format(*colour), "alpha": str(round(255 * opacity))}
        ElementTree.SubElement(shader, "item", {"value": value, "label": f"P = {value}", **look})
    ElementTree.SubElement(pipe, "brightnesscontrast", brightness="0", contrast="0", gamma="1")
    ElementTree.indent(root)
    doctype = b"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return replace_file(path, doctype + ElementTree.tostring(root))
