"""Scores written into a tile store and read back, by us and by stock readers."""

from dataclasses import replace
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

from wsi_pipeline.errors import StoreError
from wsi_pipeline.scores.store import Scores, read_scores, write_scores

MODEL = "0123456789ab"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """As much of a tile store as scores need: five tiles."""
    path = tmp_path / "slide.zarr"
    group = zarr.create_group(path, zarr_format=3)
    group.create_array("rowcol", data=five_tiles(), dimension_names=("tile", "row_col"))
    return path


def five_tiles() -> np.ndarray:
    return np.array([[0, 1], [0, 2], [1, 0], [1, 1], [3, 2]], np.int32)


def scores_of(rows: list[list[float]], **fields: object) -> Scores:
    known = {
        "rowcol": five_tiles()[: len(rows)],
        "class_names": ("tumour", "necrosis"),
        "positive": ("tumour",),
        "exclusive": False,
        "probs": np.array(rows, np.float32).reshape(-1, 2),
        "checkpoint_id": MODEL,
        "threshold": 0.4,
        "model_mpp": 0.5,
        "note": "knows little",
        "seconds": 2.0,
        "model_seconds": 1.5,
    }
    return Scores(**known | fields)  # type: ignore[arg-type]


FIVE = [[0.1, 0.2], [0.3, 0.4], [np.nan, np.nan], [1.0, 0.0], [0.5, 0.9]]


def test_scores_come_back_as_they_were_written(store: Path) -> None:
    written = scores_of(FIVE)
    write_scores(store, written, key="k")
    found = read_scores(store, MODEL, key="k")
    np.testing.assert_array_equal(found.probs, written.probs)
    np.testing.assert_array_equal(found.rowcol, written.rowcol)
    assert found.probs.dtype == np.float32
    for name in ("class_names", "positive", "exclusive", "threshold", "model_mpp", "note", "seconds"):
        assert getattr(found, name) == getattr(written, name)
    assert (found.tiles_per_s, found.busy_share) == (2.5, 0.75)


def test_a_slide_without_tiles_has_scores_of_no_rows(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "empty.zarr", zarr_format=3)
    group.create_array("rowcol", data=np.empty((0, 2), np.int32))
    write_scores(tmp_path / "empty.zarr", scores_of([]))
    assert read_scores(tmp_path / "empty.zarr", MODEL).probs.shape == (0, 2)


def test_stock_readers_open_the_scores_of_models_with_other_classes(store: Path) -> None:
    write_scores(store, scores_of(FIVE))
    one = scores_of(FIVE, checkpoint_id="ba9876543210", class_names=("tumour",))
    write_scores(store, replace(one, probs=one.probs[:, :1]))
    opened = xr.open_zarr(store, group="scores", consolidated=False)
    assert dict(opened[MODEL].sizes) == {"tile": 5, f"class_{MODEL}": 2}
    lazy = da.from_array(zarr.open_array(store, path=f"scores/{MODEL}", mode="r"))
    np.testing.assert_array_equal(lazy.compute(), scores_of(FIVE).probs)


def test_scores_made_from_something_else_are_refused(store: Path) -> None:
    write_scores(store, scores_of(FIVE), key="old")
    with pytest.raises(StoreError, match="scores are of old, not of new"):
        read_scores(store, MODEL, key="new")
    write_scores(store, scores_of(FIVE), key="new")
    assert len(read_scores(store, MODEL, key="new").probs) == 5


def test_absent_scores_are_told_from_absent_stores(store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"no scores of model {MODEL}; score the slide first"):
        read_scores(store, MODEL)
    with pytest.raises(StoreError, match="no tile store there"):
        read_scores(tmp_path / "nothing.zarr", MODEL)
    zarr.create_group(tmp_path / "foreign.zarr", zarr_format=3)
    with pytest.raises(StoreError, match="a Zarr group without tiles"):
        write_scores(tmp_path / "foreign.zarr", scores_of(FIVE))


def test_an_interrupted_write_is_no_scores(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    write_scores(store, scores_of(FIVE))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(zarr.Array, "__setitem__", killed)
        write_scores(store, scores_of(FIVE))
    with pytest.raises(StoreError, match="are incomplete; score again"):
        read_scores(store, MODEL)


@pytest.mark.parametrize("lost", ["gone", "emptied", "cut", "metadata"])
def test_scores_that_a_power_cut_took_part_of_are_scored_again(store: Path, lost: str) -> None:
    write_scores(store, scores_of(FIVE))
    path = store / "scores" / MODEL / ("zarr.json" if lost == "metadata" else "c/0/0")
    if lost == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:10] if lost == "cut" else b"")
    with pytest.raises(StoreError, match=rf"{MODEL} are (damaged|not as they were written).*score again"):
        read_scores(store, MODEL)
    write_scores(store, scores_of(FIVE))
    np.testing.assert_array_equal(read_scores(store, MODEL).probs, scores_of(FIVE).probs)


@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00000])  # NaN as numpy has it, and as x86 makes it
def test_scores_of_unreadable_tiles_alone_come_back_whatever_the_bits_of_their_nan(store: Path, bits: int) -> None:
    nothing = np.full((5, 2), bits, np.uint32).view(np.float32)
    write_scores(store, scores_of(FIVE, probs=nothing))
    np.testing.assert_array_equal(read_scores(store, MODEL).probs.view(np.uint32), bits)


def test_scores_of_an_older_version_have_no_checksums_and_are_read(store: Path) -> None:
    write_scores(store, scores_of(FIVE))
    array = zarr.open_array(store, path=f"scores/{MODEL}", mode="r+")
    told = array.attrs["wsi_pipeline"]
    array.attrs["wsi_pipeline"] = {name: value for name, value in told.items() if name != "crc32c"}
    np.testing.assert_array_equal(read_scores(store, MODEL).probs, scores_of(FIVE).probs)


def test_a_full_disk_is_said(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zarr.Array, "__setitem__", full)
    with pytest.raises(StoreError, match="disk full while writing 40 bytes"):
        write_scores(store, scores_of(FIVE))


def test_rows_that_are_not_the_tiles_are_refused(store: Path) -> None:
    with pytest.raises(StoreError, match="4 scored tiles are not those of the store"):
        write_scores(store, scores_of(FIVE[:4]))


def test_cancer_is_the_sum_of_exclusive_classes_and_the_highest_of_others() -> None:
    rows = [[0.3, 0.6], [np.nan, np.nan], [0.5, 0.5]]
    both = {"positive": ("tumour", "necrosis")}
    np.testing.assert_allclose(scores_of(rows, exclusive=True, **both).positive_prob(), [0.9, np.nan, 1.0])
    np.testing.assert_allclose(scores_of(rows, **both).positive_prob(), [0.6, np.nan, 0.5])
    np.testing.assert_allclose(scores_of(rows, positive=("necrosis",)).positive_prob(), [0.6, np.nan, 0.5])
