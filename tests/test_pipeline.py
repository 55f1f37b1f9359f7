"""The run from slide to maps: every slide ends in one status, nothing is done twice, and all files agree."""

import gzip
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from math import isnan
from pathlib import Path

import fsspec
import numpy as np
import openslide
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
import zarr

from wsi_pipeline.cli.progress import Shown
from wsi_pipeline.config import Config, load_config
from wsi_pipeline.errors import ConfigError, StoreError, WorkersGoneError
from wsi_pipeline.maps.result import SlideResult, without_result
from wsi_pipeline.pipeline.begin import open_run_folder
from wsi_pipeline.pipeline.claims import Claims, open_claims
from wsi_pipeline.pipeline.folder import RunFolder
from wsi_pipeline.pipeline.run import run_cohort
from wsi_pipeline.scores.store import Scores, read_scores, write_scores
from wsi_pipeline.slide.entry import SlideEntry
from wsi_pipeline.slide.synthetic import draw_slide
from wsi_pipeline.tiles.store import open_store

GONE = "file not found; from kept tiles"
KNOBS = ["run.scheduler=threads", "run.workers=2", "tiles.tile_px=64", "tiles.shard_tiles=16"]


class DarkIsCancer:
    """A classifier without torch: P(tumour) is how dark a tile is. It counts the slides it really scored."""

    def __init__(self, id: str = "dark") -> None:
        self.id = id
        self.scored: list[str] = []
        self.rested: list[int] = []  # slides scored before each rest

    def score(self, store_path: str, key: str, progress: Callable[[int], None] | None = None) -> Scores:
        try:
            return read_scores(store_path, self.id, key=key)
        except StoreError:
            self.scored.append(Path(store_path).stem)
        store = open_store(store_path)
        tiles, readable = store.read(0, store.n_tiles)
        dark = 1 - tiles.reshape(len(tiles), -1).mean(axis=1) / 255 if len(tiles) else np.zeros(0)
        probs = np.where(readable, dark, np.nan).astype(np.float32)[:, None]
        scores = Scores(store.grid.rowcol, ("tumour",), ("tumour",), False, probs, self.id, 0.3, 0.5)
        write_scores(store_path, scores, key=key)
        return scores

    def rest(self) -> None:
        self.rested.append(len(self.scored))


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "a.tif"
    draw_slide(path, size_px=(1500, 1200), mpp=0.5, seed=3)
    return path


def knobs(*more: str) -> Config:
    return load_config(None, [*KNOBS, *more])


def ran(entries, folder: RunFolder, config: Config, classifier=None, **how) -> tuple[list[SlideResult], DarkIsCancer]:
    classifier = classifier or DarkIsCancer()
    return list(run_cohort(entries, folder, config, classifier=classifier, **how)), classifier


def hashes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".gpkg"}


def test_one_bad_slide_stops_no_other_and_each_ends_in_one_status(slide, tmp_path):
    bad = {"empty": b"", "text": b"no slide at all"}
    for name, content in bad.items():
        (tmp_path / f"{name}.svs").write_bytes(content)
    draw_slide(tmp_path / "noscale.tif", size_px=(600, 600), with_mpp=False)
    paths = {"a": slide, "noscale": tmp_path / "noscale.tif"} | {n: tmp_path / f"{n}.svs" for n in bad}
    rows, _ = ran([SlideEntry(k, str(v)) for k, v in paths.items()], open_run_folder(tmp_path / "run"), knobs())
    statuses = {row.slide_id: row.status for row in rows}
    assert statuses == {"a": "ok", "noscale": "no_mpp", "empty": "unreadable", "text": "unreadable"}
    assert all(row.message for row in rows if row.status != "ok")


def test_a_finer_scale_than_the_slide_has_fails_that_slide_and_names_its_finest(slide, tmp_path):
    (row,), _ = ran([SlideEntry("a", str(slide))], open_run_folder(tmp_path / "run"), knobs("tiles.mpp=0.25"))
    assert (row.status, row.stage) == ("failed", "tissue")
    assert "0.25 um/px asked for, its finest is 0.5" in row.message


def test_a_resumed_run_does_only_what_is_missing(slide, tmp_path):
    entries = [SlideEntry("a", str(slide))]
    first, _ = ran(entries, open_run_folder(tmp_path / "run"), knobs())
    before = hashes(tmp_path / "run" / "maps")
    folder = open_run_folder(tmp_path / "run", resume=True)
    again, classifier = ran(entries, folder, knobs("outputs.overlay=false", "model.batch=3"))
    assert (again, classifier.scored) == (first, [])
    Path(folder.maps, "a_tiles.parquet").unlink()
    ran(entries, folder, knobs(), classifier)
    assert classifier.scored == [] and hashes(Path(folder.maps)) == before


def test_files_of_outputs_that_are_off_go_with_the_maps_that_they_were_of(slide, tmp_path):
    entries, other = [SlideEntry("a", str(slide))], "maps.threshold=0.4"
    ran(entries, open_run_folder(tmp_path / "run"), knobs())
    folder = open_run_folder(tmp_path / "run", resume=True)
    ran(entries, folder, knobs("outputs.overlay=false"))
    assert sorted(folder.pictures("a")) == ["overlay", "tissue"]  # the slide was kept, and they are of its maps
    ran(entries, folder, knobs("outputs.overlay=false", other))
    assert folder.pictures("a") == {} and Path(folder.maps, "a_lesions.geojson").exists()
    ran(entries, folder, knobs(other))
    ran(entries, open_run_folder(tmp_path / "fresh"), knobs(other))
    assert hashes(Path(folder.maps)) == hashes(tmp_path / "fresh" / "maps")


@pytest.mark.parametrize("until", ["tile", "score"])
def test_an_earlier_stage_over_a_finished_folder_leaves_records_and_rows(slide, tmp_path, until):
    entries = [SlideEntry("a", str(slide))]
    first, classifier = ran(entries, open_run_folder(tmp_path / "run"), knobs())
    folder = open_run_folder(tmp_path / "run", resume=True)
    folder.record_failure(replace(first[0], status="failed"))
    by = classifier if until == "score" else None
    assert list(run_cohort(entries, folder, knobs(), classifier=by, until=until)) == first
    assert folder.failed_since("a", 0.0) is None  # that is over
    drawn = hashes(Path(folder.maps))
    assert ran(entries, folder, knobs(), classifier)[0] == first and classifier.scored == ["a"]
    assert hashes(Path(folder.maps)) == drawn


def test_after_scoring_with_another_model_no_row_of_the_first_stands(slide, tmp_path):
    entries = [SlideEntry("a", str(slide))]
    first, classifier = ran(entries, open_run_folder(tmp_path / "run"), knobs())
    folder = open_run_folder(tmp_path / "run", resume=True)
    (row,) = run_cohort(entries, folder, knobs(), classifier=DarkIsCancer("other"), until="score")
    assert (row.status, row.stage) == ("ok", "score") and isnan(row.cancer_mm2)
    assert ran(entries, folder, knobs(), classifier)[0] == first  # its maps were left alone


@pytest.mark.parametrize("store", ["pixels", "coordinates"])
def test_a_slide_that_was_moved_is_read_where_it_is_now(slide, tmp_path, store):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    old, new = shutil.copy(slide, tmp_path / "old"), tmp_path / "new" / slide.name
    folder, config = open_run_folder(tmp_path / "run"), knobs(f"tiles.store={store}")
    list(run_cohort([SlideEntry("a", str(old))], folder, config, until="tile"))
    if store == "pixels":
        shutil.rmtree(Path(folder.store("a"), "tiles", "c", "1"))  # as an interruption leaves it
    shutil.move(old, new)
    entry = SlideEntry("a", str(new), mpp=(0.5, 0.5))
    (row,), _ = ran([entry], folder, config)
    assert (row.status, row.unreadable_tiles, row.mpp_source) == ("ok", 0, "manifest")
    assert open_store(folder.store("a")).grid.slide.path == str(new)


def test_a_kept_row_tells_where_its_scale_comes_from_now(slide, tmp_path):
    entry = SlideEntry("a", str(slide))
    (first,), classifier = ran([entry], open_run_folder(tmp_path / "run"), knobs())
    folder = open_run_folder(tmp_path / "run", resume=True)
    again, _ = ran([replace(entry, mpp=(0.5, 0.5))], folder, knobs(), classifier)
    assert again == [replace(first, mpp_source="manifest")] and classifier.scored == ["a"]


def test_the_classifier_rests_once_all_is_scored(slide, tmp_path):
    entries = [SlideEntry(name, str(slide)) for name in "ab"]
    _, classifier = ran(entries, open_run_folder(tmp_path / "run"), knobs())
    assert classifier.rested == [2]


def test_coordinates_alone_give_the_scores_that_pixels_give(slide, tmp_path):
    entries = [SlideEntry("a", str(slide))]
    one, _ = ran(entries, open_run_folder(tmp_path / "pixels"), knobs())
    other, _ = ran(entries, open_run_folder(tmp_path / "coordinates"), knobs("tiles.store=coordinates"))
    assert replace(one[0], seconds=0) == replace(other[0], seconds=0)
    assert not (tmp_path / "coordinates" / "tiles" / "a.zarr" / "tiles").exists()


def test_an_all_white_slide_has_valid_empty_outputs(tmp_path):
    import tifffile

    white = np.full((600, 700, 3), 255, np.uint8)
    tifffile.imwrite(tmp_path / "w.tif", white, photometric="rgb", tile=(256, 256), resolution=(20000, 20000), resolutionunit=3)  # fmt: skip # noqa: E501
    folder = open_run_folder(tmp_path / "run")
    (row,), _ = ran([SlideEntry("w", str(tmp_path / "w.tif"))], folder, knobs())
    assert (row.status, row.tiles, row.cancer_mm2) == ("no_tissue", 0, 0)
    assert zarr.open_group(folder.store("w"))["rowcol"].shape == (0, 2)
    with rasterio.open(Path(folder.maps, "w_likelihood_map.tif")) as heatmap:
        assert (heatmap.read() == -1).all()


@pytest.mark.real
def test_all_files_place_a_real_slides_tiles_at_the_same_pixel_with_the_same_probability(real_data, tmp_path):
    path = real_data / "slides" / "aperio" / "CMU-1-Small-Region.svs"
    folder = open_run_folder(tmp_path / "run")
    ran([SlideEntry("c", str(path))], folder, load_config(None, KNOBS))
    store = zarr.open_group(folder.store("c"))
    table = pq.read_table(Path(folder.maps, "c_tiles.parquet")).to_pydict()
    features = json.loads(gzip.decompress(Path(folder.maps, "c_tiles.geojson.gz").read_bytes()))["features"]
    with rasterio.open(Path(folder.maps, "c_likelihood_map.tif")) as heatmap, openslide.OpenSlide(path) as slide:
        mpp = float(slide.properties["openslide.mpp-x"])
        for k in np.random.default_rng(0).choice(len(features), 100, replace=False):
            x, y = int(store["x"][k]), int(store["y"][k])
            left, top, right, bottom = shapely.geometry.shape(features[k]["geometry"]).bounds
            probability = float(store["scores/dark"][k, 0])
            assert (table["x"][k], table["y"][k]) == (x, y) == (left, top)
            assert table["prob_tumour"][k] == pytest.approx(probability)
            assert features[k]["properties"]["measurements"]["prob_tumour"] == pytest.approx(probability, abs=1e-5)
            centre = (left + right) / 2 * mpp, -(top + bottom) / 2 * mpp
            (value,) = next(heatmap.sample([centre], indexes=1))
            if value >= 0:  # a cell of the tile's middle may lie off tissue
                assert value == pytest.approx(probability, abs=1e-4)
            fresh = np.asarray(slide.read_region((x, y), 0, (64, 64)))[..., :3]
            inside = (slice(0, min(64, slide.dimensions[1] - y)), slice(0, min(64, slide.dimensions[0] - x)))
            assert (store["tiles"][k][inside] == fresh[inside]).all()


def test_a_folder_that_is_not_ours_is_never_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="holds other files"):
        open_run_folder(tmp_path, overwrite=True)
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_a_folder_that_another_job_is_just_making_is_shared(tmp_path):
    for name in ("tiles", "claims"):
        (tmp_path / name).mkdir()
    (tmp_path / ".0a1b.partial").write_text("{")  # its run.json, not yet named so
    assert open_run_folder(tmp_path, resume=True).account()


def test_an_earlier_run_is_kept_unless_it_is_said_what_to_do(tmp_path):
    folder = open_run_folder(tmp_path / "run")
    begun = {"wsi_pipeline": "0.0.1", "slides": []}
    folder.write_account(begun)
    with pytest.raises(ConfigError, match="--resume to finish it, --overwrite"):
        open_run_folder(tmp_path / "run")
    assert open_run_folder(tmp_path / "run", resume=True).account() == begun
    assert open_run_folder(tmp_path / "run", overwrite=True).account() != begun


def test_overwrite_removes_nothing_under_a_job_at_work_and_waits_for_no_dead_one(tmp_path):
    folder = open_run_folder(tmp_path / "run")
    folder.write_account({"wsi_pipeline": "0.0.1", "slides": []})
    with open_claims(folder.claims) as job:
        assert job.take("a")
        with pytest.raises(ConfigError, match=rf"a job \({job.job}\) is at work in it; .* expire in (90|89) s"):
            open_run_folder(tmp_path / "run", overwrite=True)
        assert job.holds("a") and "slides" in folder.account()
    (folder.claims / "a.1").write_text('{"job": "killed"}')
    with pytest.raises(ConfigError, match="killed"):
        open_run_folder(tmp_path / "run", overwrite=True)
    os.utime(folder.claims / "a.1", (0, 0))
    assert "slides" not in open_run_folder(tmp_path / "run", overwrite=True).account()


@pytest.mark.parametrize(("taken", "said"), [("b", "other jobs, such as another; w"), ("", "other jobs; waiting for")])
def test_who_is_waited_for_is_told_where_anybody_is_known(taken, said, slide, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("wsi_pipeline.pipeline.run._POLL_S", 0.01)
    monkeypatch.setattr(Claims, "owner", lambda self, slide_id: "another" if slide_id == taken else "")
    folder = open_run_folder(tmp_path / "run")
    for name in "ab":
        (folder.claims / f"{name}.1").write_text("{}")

    def listen(name, facts):
        shown(name, facts)
        if name == "waiting":  # the other job ends
            for path in folder.claims.glob("*.1"):
                path.unlink()

    shown, entries = Shown(3), [SlideEntry(name, str(slide)) for name in "abc"]
    rows = list(run_cohort(entries, folder, knobs(), until="tile", listen=listen))
    assert len(rows) == 3 and f"2 slides are with {said}" in capsys.readouterr().err


def test_a_folder_of_a_run_that_ended_before_it_began_is_taken_as_a_new_one(tmp_path):
    open_run_folder(tmp_path / "run")
    assert open_run_folder(tmp_path / "run").account()
    (tmp_path / "run" / "records" / "a.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a run already"):
        open_run_folder(tmp_path / "run")


def test_a_broken_run_json_is_refused_and_overwrite_goes_on(tmp_path):
    folder = open_run_folder(tmp_path / "run")
    (folder.root / "run.json").write_text("{")
    (folder.root / "records" / "a.json").write_text("{}")
    for resume in (False, True):
        with pytest.raises(StoreError, match=r"cannot be read .* use another --out, or --overwrite"):
            open_run_folder(tmp_path / "run", resume=resume)
    assert open_run_folder(tmp_path / "run", overwrite=True).account() and not any(folder.root.glob("records/*"))


def test_jpegs_of_the_slide_that_our_decoder_refuses_are_read_as_openslide_does(slide, tmp_path, monkeypatch):
    entries, config = [SlideEntry("a", str(slide))], knobs("tiles.store=jpeg", "tiles.tile_px=256")
    stores = []
    for name in ("own", "refused"):
        folder = open_run_folder(tmp_path / name)
        (row,) = run_cohort(entries, folder, config, until="tile")
        assert row.unreadable_tiles == 0
        stores.append(open_store(folder.store("a")))
        monkeypatch.setattr("wsi_pipeline.tiles.pixels._decodes", lambda *_: False)
    (own, _), (encoded, readable) = (store.read_jpegs(0, store.n_tiles) for store in stores)
    assert readable.all() and len(set(own) - set(encoded)) > len(own) / 2  # those at the edge are encoded in any case
    pixels = [store.read(0, store.n_tiles)[0].astype(int) for store in stores]
    assert 0 < np.abs(pixels[0] - pixels[1]).mean() < 5  # encoded once more


def test_a_store_that_cannot_be_reached_for_a_moment_is_kept(slide, tmp_path, monkeypatch):
    entries, folder = [SlideEntry("a", str(slide))], open_run_folder(tmp_path / "run")
    ran(entries, folder, knobs())

    def stale(*_: object) -> None:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr("wsi_pipeline.tiles.store.read_grid", stale)
        (row,), _ = ran(entries, folder, knobs("maps.threshold=0.4"))
    assert row.status == "failed" and "Stale file handle" in row.message
    assert open_store(folder.store("a")).status == "complete"


def test_maps_that_could_not_be_drawn_leave_none_of_other_knobs(slide, tmp_path, monkeypatch):
    entries, folder = [SlideEntry("a", str(slide))], open_run_folder(tmp_path / "run")
    _, classifier = ran(entries, folder, knobs())

    def full(*_: object, **__: object) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr("wsi_pipeline.pipeline.map.write_geopackage", full)
    (row,), _ = ran(entries, folder, knobs("maps.threshold=0.4"), classifier)
    assert row.status == "failed" and not Path(folder.maps, "a_likelihood_map.tif").exists()


def test_a_run_whose_workers_are_gone_ends_and_fails_no_slide(slide, tmp_path, monkeypatch):
    def gone(*_: object, **__: object) -> None:
        raise WorkersGoneError("no workers left for 60 s")

    monkeypatch.setattr("wsi_pipeline.pipeline.steps.fill_store", gone)
    folder = open_run_folder(tmp_path / "run")
    with pytest.raises(WorkersGoneError):
        ran([SlideEntry(name, str(slide)) for name in "abc"], folder, knobs())
    assert all(folder.last_told(name) is None for name in "abc")


def test_maps_are_drawn_anew_from_the_tiles_of_a_slide_that_is_gone(slide, tmp_path):
    here = SlideEntry("a", shutil.copy(slide, tmp_path))
    folder = open_run_folder(tmp_path / "run")
    (first,), classifier = ran([here], folder, knobs())
    Path(here.path).unlink()
    (row,), _ = ran([here], folder, knobs("maps.threshold=0.4"), classifier)
    assert row.status == "ok" and row.cancer_mm2 != first.cancer_mm2 and classifier.scored == ["a"]
    assert row.warnings == (GONE,) and first.warnings == ()
    (row,), _ = ran([here], folder, knobs("tiles.stride_px=32"), classifier)  # for these tiles the file is needed
    assert (row.status, row.stage) == ("unreadable", "open") and open_store(folder.store("a")).status == "complete"


@pytest.mark.parametrize("name", ["maps/a_overlay.png", "records/a.json"])
def test_an_older_file_that_cannot_be_removed_is_named_with_what_to_do(name, slide, tmp_path):
    folder = open_run_folder(tmp_path / "run")
    (folder.root / name).mkdir()  # which no one can remove as a file
    (row,), _ = ran([SlideEntry("a", str(slide))], folder, knobs())
    assert (row.status, row.error) == ("failed", "StoreError")
    assert f"{name}: cannot be written" in row.message and "see to the folder's permissions" in row.message


def test_of_a_slide_that_is_gone_and_back_the_kept_row_tells_where_it_came_from(slide, tmp_path):
    here = SlideEntry("a", shutil.copy(slide, tmp_path))
    folder = open_run_folder(tmp_path / "run")
    (first,), classifier = ran([here], folder, knobs())
    Path(here.path).unlink()
    (kept,), _ = ran([here], folder, knobs(), classifier)
    assert kept == replace(first, warnings=(GONE,))
    ran([here], folder, knobs("maps.threshold=0.4"), classifier)
    shutil.copy(slide, tmp_path)
    (back,), _ = ran([here], folder, knobs("maps.threshold=0.4"), classifier)
    assert back.warnings == () and classifier.scored == ["a"]


@pytest.mark.parametrize(
    ("before", "now", "mpp"),
    [
        (None, (0.4, 0.4), None),
        ((0.5, 0.5), (0.4, 0.4), None),
        ((0.5, 0.5), None, None),
        (None, None, ("0.5", "0.4")),
        (None, None, ("0.5", "null")),
    ],
    ids=["manifest", "other manifest", "no manifest", "other default", "no default"],
)
def test_the_tiles_of_a_slide_that_is_gone_are_of_no_use_at_another_scale(tmp_path, before, now, mpp):
    draw_slide(tmp_path / "a.tif", size_px=(600, 600), mpp=0.5, seed=3, with_mpp=mpp is None)
    default, other = (f"slide.mpp_default={value}" for value in mpp or ("null", "null"))
    folder = open_run_folder(tmp_path / "run")
    (first,), classifier = ran([SlideEntry("a", str(tmp_path / "a.tif"), before)], folder, knobs(default))
    (tmp_path / "a.tif").rename(tmp_path / "b.tif")
    (row,), _ = ran([SlideEntry("a", str(tmp_path / "a.tif"), now)], folder, knobs(other), classifier)
    assert (row.status, row.stage) == ("unreadable", "open") and "no such file" in row.message
    (row,), _ = ran([SlideEntry("a", str(tmp_path / "a.tif"), before)], folder, knobs(default), classifier)
    assert replace(row, warnings=first.warnings) == first  # the same scale, and nothing was lost meanwhile


def test_maps_are_drawn_anew_of_a_slide_that_is_gone_from_its_url(slide, tmp_path, monkeypatch):
    monkeypatch.setenv("WSI_PIPELINE_CACHE_DIR", str(tmp_path / "cache"))
    files, entry = fsspec.filesystem("memory"), SlideEntry("a", "memory://gone/a.tif")
    files.pipe_file("/gone/a.tif", slide.read_bytes())
    folder = open_run_folder(tmp_path / "run")
    (first,), classifier = ran([entry], folder, knobs())
    files.rm("/gone/a.tif")
    (row,), _ = ran([entry], folder, knobs("maps.threshold=0.4"), classifier)
    assert row.status == "ok" and row.cancer_mm2 != first.cancer_mm2
    assert (row.warnings, classifier.scored) == ((GONE,), ["a"])

    def unreachable(*_: object, **__: object) -> None:
        raise FileNotFoundError("a.tif") from OSError("no route to host")  # as fsspec does for http

    monkeypatch.setattr(type(files), "info", unreachable)
    (row,), _ = ran([entry], folder, knobs("maps.threshold=0.6"), classifier)
    assert (row.status, row.stage) == ("unreadable", "open")


def test_a_folder_tells_what_was_recorded_since_and_how_a_slide_was_left(tmp_path):
    folder = open_run_folder(tmp_path / "run")
    assert folder.last_told("a") is None and not folder.recorded_since("a", 0.0)
    folder.record_failure(without_result("a", "failed", message="why"))
    told = folder.last_told("a")
    assert told is not None and told.message == "why" and not folder.recorded_since("a", 0.0)
    folder.record(without_result("a", "ok"), "key")
    told = folder.last_told("a")
    assert told is not None and told.status == "ok"
    assert folder.recorded_since("a", 0.0) and not folder.recorded_since("a", 4e9)
