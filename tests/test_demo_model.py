"""The model in the box: small, described, calibrated, and true to areas that were drawn."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.lib.stride_tricks import sliding_window_view

from wsi_pipeline.learn.model.checkpoint import Checkpoint, load_checkpoint, shipped_models
from wsi_pipeline.learn.model.probabilities import probabilities
from wsi_pipeline.scores.infer import Scorer
from wsi_pipeline.slide.synthetic import Tumour, draw_slide, draw_tiles

REPOSITORY = Path(__file__).resolve().parents[1]
PX, STRIDE, MPP = 256, 64, 0.5


@pytest.fixture(scope="module")
def demo() -> Checkpoint:
    return load_checkpoint("demo")


def tumour_probability(demo: Checkpoint, tiles: np.ndarray) -> np.ndarray:
    """P(tumour) (n,) of tiles (n, 256, 256, 3)."""
    z = Scorer(demo, "cpu").logits(tiles, PX)
    return probabilities(z, exclusive=False, prior=demo.prior, temperature=demo.temperature)[:, 0]


def map_rows(demo: Checkpoint, slide: Path) -> np.ndarray:
    """P(tumour) (rows, cols) of every tile at a stride of 64 px, one row of tiles in memory at a time."""
    rgb = tifffile.imread(slide, level=0)
    rows = sliding_window_view(rgb, (PX, PX), axis=(0, 1))[::STRIDE, ::STRIDE]
    return np.stack([tumour_probability(demo, np.moveaxis(row, 1, -1)) for row in rows])


def test_it_is_small_has_a_card_and_says_what_it_knows(demo: Checkpoint) -> None:
    folder = shipped_models()["demo"]
    assert (folder / "model.safetensors").stat().st_size < 2 * 2**20
    assert demo.class_names == demo.positive == ("tumour",)
    assert (demo.input_px, demo.mpp, demo.threshold) == (PX, MPP, 0.5)
    assert "only synthetic tissue" in demo.note
    card = (folder / "README.md").read_text()
    assert all(words in card for words in ("Research use only", "only synthetic tissue", "means nothing", demo.id))


def test_it_tells_drawn_tumour_from_drawn_normal_tissue_without_bias(demo: Checkpoint) -> None:
    tiles, share, centre = draw_tiles(120, tile_px=PX, mpp=MPP, seed=987)
    p = tumour_probability(demo, tiles)
    assert ((p >= demo.threshold) == centre)[(share == 0) | (share == 1)].mean() > 0.99
    assert ((p >= demo.threshold) == centre).mean() > 0.95
    assert abs(p.mean() - centre.mean()) < 0.03
    assert np.mean((p - centre) ** 2) < 0.04


def test_glass_and_padding_are_no_tumour(demo: Checkpoint) -> None:
    blank = np.stack([np.full((PX, PX, 3), value, np.uint8) for value in (255, 245, 235)])
    assert tumour_probability(demo, blank).max() < 0.05


def draw(folder: Path, seed: int, *, px: int, tumours: list[Tumour]) -> tuple[Path, float]:
    truth = draw_slide(folder / f"{seed}.tif", size_px=(px, px), mpp=MPP, tumours=tumours, seed=seed)
    return Path(truth.path), truth.tumour_mm2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [12, 13])  # 11 goes the whole way in test_end_to_end.py
def test_a_drawn_tumour_comes_back_within_2_percent(demo: Checkpoint, tmp_path: Path, seed: int) -> None:
    path, drawn_mm2 = draw(tmp_path, seed, px=3072, tumours=[Tumour(768, 768, 380 + 7 * seed, 430 - 9 * seed)])
    mapped_mm2 = (map_rows(demo, path) >= demo.threshold).sum() * (STRIDE * MPP) ** 2 * 1e-6
    assert mapped_mm2 == pytest.approx(drawn_mm2, rel=0.02)


@pytest.mark.slow
def test_a_slide_without_tumour_has_none(demo: Checkpoint, tmp_path: Path) -> None:
    path, _ = draw(tmp_path, 14, px=2048, tumours=[])
    assert (map_rows(demo, path) >= demo.threshold).sum() == 0


def test_the_training_script_explains_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = REPOSITORY / "workflows" / "train_demo_model.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_path(str(script), run_name="__main__")
    said = capsys.readouterr().out
    assert "--seed" in said and "never sees real tissue" in said


def test_the_card_tells_how_it_was_made_and_measured() -> None:
    card = json.loads((shipped_models()["demo"] / "card.json").read_text())
    assert {"data", "training", "versions", "measured"} <= card["about"].keys()
    assert card["about"]["measured"]["tiles"] >= 1000
