"""Outlines: a bool raster -> exact polygons along its cell edges, in level-0 pixels."""

import numpy as np
import shapely


def outline(
    cells: np.ndarray, *, cell_l0: tuple[float, float], origin_l0: tuple[float, float] = (0.0, 0.0)
) -> shapely.MultiPolygon:
    """The True cells (rows, cols) as a valid MultiPolygon with holes, in level-0 pixels (x, y), y down.

    Corners lie at origin_l0 + (col, row) * cell_l0 (x, y): the area is the number of cells times the area
    of a cell. Cells that touch in a corner alone are parts of one MultiPolygon that touch in that point, as
    the rules of valid polygons ask; so an 8-connected component comes out as one (multi)polygon, unbroken.
    Nothing True gives an empty MultiPolygon.
    """
    segments = np.concatenate([_runs(*_edges(cells)), _runs(*_edges(cells.T))[..., ::-1]])
    if not len(segments):
        return shapely.MultiPolygon()
    faces = shapely.get_parts(shapely.polygonize(shapely.linestrings(segments.astype(float))))
    col, row = _inner_cells(shapely.get_exterior_ring(faces))
    parts = shapely.multipolygons(faces[cells[row, col]])
    return shapely.transform(parts, lambda corners: np.asarray(origin_l0) + corners * np.asarray(cell_l0))


def _inner_cells(rings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(col, row), each (N,), of the cell inside each ring by its first edge; a face is all one value."""
    first, second = (shapely.get_coordinates(shapely.get_point(rings, i)) for i in (0, 1))
    along = np.sign(second - first)
    turn = np.where(shapely.is_ccw(rings), 1, -1)[:, None]  # inner side: left of a counter-clockwise ring
    inner = first + (along + turn * np.stack([-along[:, 1], along[:, 0]], axis=1)) / 2
    return inner[:, 0].astype(int), inner[:, 1].astype(int)


def _edges(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Horizontal borders between cells and where a run of them must stop.

    For (rows, cols) cells: edge (rows + 1, cols), True where the cell above differs from the one below;
    corner (rows + 1, cols + 1), True where a vertical border ends or passes.
    """
    padded = np.pad(np.asarray(cells, bool), 1)
    across = padded[1:] != padded[:-1]
    upright = padded[:, 1:] != padded[:, :-1]
    return across[:, 1:-1], upright[1:] | upright[:-1]


def _runs(edge: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Longest straight pieces of the edges that pass no corner: (N, 2 ends, 2 [x, y]) in cells."""
    before = np.pad(edge, ((0, 0), (1, 0)))
    after = np.pad(edge, ((0, 0), (0, 1)))
    start_row, start_col = np.nonzero(after & (corner | ~before))
    _, end_col = np.nonzero(before & (corner | ~after))
    starts, ends = np.stack([start_col, start_row], 1), np.stack([end_col, start_row], 1)
    return np.stack([starts, ends], axis=1)
