"""Whether tiles and a model fit: the same um/px and size, or tiles that can be reduced to the model's. No torch."""

from wsi_pipeline.errors import ModelError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.learn.model.architectures import MIN_INPUT_PX
from wsi_pipeline.learn.model.checkpoint import Checkpoint
from wsi_pipeline.scores.dense import CELL_PX
from wsi_pipeline.tiles.grid import TileGrid

MPP_TOLERANCE = 0.05  # objectives called 20x and 40x differ by about as much between scanners


def check_fit(grid: TileGrid, checkpoint: Checkpoint, *, resample: bool = False, dense: bool = False) -> int:
    """Side in px at which the model gets the tiles: `tile_px`, or less when they are to be reduced.

    Within 5 % of the model's um/px (x and y each), tiles of the model's input size go in as they are.
    With `resample`, two things more are done knowingly; pixels are never enlarged:

    - the scale fits, the size does not: the tile goes in whole and unchanged, at its own size. A DenseNet
      takes any from 32 px on; the model then sees another field of view than it was trained on.
    - tiles are finer than the model: the tile is reduced to round(tile_px * mpp / model mpp) px, which brings
      its pixels to the model's scale, by exact means of blocks when that is a whole fraction (512 px at
      0.25 um/px -> 256 px at 0.5), else by an antialiased triangle filter. The field of view is the tile's.

    With `dense` the scale must fit and the size need not, but both sizes are multiples of its cells' 32 px.

    Raises ModelError with both numbers and the knob to set when they do not agree, and for a model that
    cannot score slides: no positive class, grey input, or no scale.
    """
    return input_px(checkpoint, grid.tile_px, grid.mpp, resample=resample, dense=dense)


def input_px(
    checkpoint: Checkpoint, tile_px: int, tile_mpp: Mpp, *, resample: bool = False, dense: bool = False
) -> int:
    """As `check_fit`, for tiles of `tile_px` px at `tile_mpp`, which need not be there yet."""
    mpp = slide_mpp(checkpoint)
    have = f"tiles are {tile_px} px at {tile_mpp.x:.4g} x {tile_mpp.y:.4g} um/px"
    want = f"model {checkpoint.id} wants {checkpoint.input_px} px at {mpp:.4g} um/px"
    cut_anew = f"--set tiles.mpp={mpp:.4g} --set tiles.tile_px={checkpoint.input_px}"
    fits = _fits(tile_px, tile_mpp, mpp, tile_px)
    px = tile_px if fits else round(tile_px * tile_mpp.mean / mpp)
    if not fits and (px >= tile_px or not _fits(tile_px, tile_mpp, mpp, px)):
        raise ModelError(f"{have}, {want}, and reducing cannot bring them together; use {cut_anew}")
    if dense and px != tile_px:
        raise ModelError(f"{have}, {want}: dense maps need tiles at the model's scale; use --set tiles.mpp={mpp:.4g}")
    if dense and (tile_px % CELL_PX or checkpoint.input_px % CELL_PX):
        nearest = max(1, round(tile_px / CELL_PX)) * CELL_PX
        remedy = "--set model.dense=false" if checkpoint.input_px % CELL_PX else f"--set tiles.tile_px={nearest}"
        raise ModelError(f"{have}, {want}: dense maps need multiples of {CELL_PX} px; use {remedy}")
    if (px != tile_px or px != checkpoint.input_px) and not (resample or dense):
        raise ModelError(f"{have}, {want}; use {cut_anew}, or allow it with --set model.resample=true")
    if px < MIN_INPUT_PX:
        raise ModelError(f"{have}, {want}: {px} px at its scale are too few, {MIN_INPUT_PX} needed; use {cut_anew}")
    return px


def slide_mpp(checkpoint: Checkpoint) -> float:
    """um/px of a model that can score slides; ModelError tells why it cannot."""
    if not checkpoint.positive:
        lack = "counts no class as cancer"
    elif checkpoint.in_channels != 3:
        lack = "takes grey images"
    elif checkpoint.mpp is None:
        lack = "knows no um/px: its images had no scale"
    else:
        return checkpoint.mpp
    raise ModelError(f"model {checkpoint.id} {lack}; use one made for slides, such as demo")


def _fits(tile_px: int, tile_mpp: Mpp, mpp: float, px: int) -> bool:
    """Whether the tile, given as `px` pixels a side, has `mpp` um/px within the tolerance, along x and y."""
    factor = tile_px / max(px, 1) / mpp
    return all(abs(axis * factor - 1) <= MPP_TOLERANCE for axis in (tile_mpp.x, tile_mpp.y))
