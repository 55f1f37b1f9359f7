"""History: the same rows in history.csv, curves.png and TensorBoard."""

import math

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wsi_pipeline.errors import StoreError
from wsi_pipeline.learn.training.history import History, as_csv, curves


def row(epoch: int, loss: float = 0.5, auroc: float = 0.7) -> dict:
    return {"epoch": epoch, "rate": 1e-3, "train_loss": loss, "val_loss": loss, "val_auroc": auroc}


def board(folder) -> EventAccumulator:
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


def test_rows_go_to_all_three(tmp_path):
    with History(tmp_path, []) as history:
        history.add(row(1), best_epoch=1, more={"auroc/Mass": 0.6})
        history.add(row(2, loss=0.25), best_epoch=2)
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines == ["epoch,rate,train_loss,val_loss,val_auroc", "1,0.001,0.5,0.5,0.7", "2,0.001,0.25,0.25,0.7"]
    with Image.open(tmp_path / "curves.png") as curves:
        assert curves.size[0] > 1000
    assert [event.value for event in board(tmp_path).Scalars("train_loss")] == [0.5, 0.25]
    assert board(tmp_path).Scalars("auroc/Mass")[0].value == pytest.approx(0.6)


@pytest.mark.parametrize("rates", [(1e-3, 6.2e-4), (2.9e-4, 1.8e-5), (1e-3, 1e-3)])
def test_no_label_of_a_panel_lies_over_another_panel(rates):
    rows = [row(epoch, loss=0.00125 * epoch) | {"rate": rate} for epoch, rate in enumerate(rates, start=1)]
    figure = curves(rows, best_epoch=1)
    figure.canvas.draw()
    left, middle, right = (axes.get_tightbbox() for axes in figure.axes)
    assert left.x1 < middle.x0 and middle.x1 < right.x0


def test_what_cannot_be_told_is_empty(tmp_path):
    assert as_csv([row(1, auroc=math.nan)]).splitlines()[1] == "1,0.001,0.5,0.5,"
    with History(tmp_path, []) as history:
        history.add(row(1, auroc=math.nan), best_epoch=0)
    assert "val_auroc" not in board(tmp_path).Tags()["scalars"]


def test_epochs_done_again_after_a_kill_stand_once(tmp_path):
    rows = [row(1)]
    with History(tmp_path, rows) as history:
        history.add(row(2, loss=9.0), best_epoch=1)
    with History(tmp_path, [row(1)]) as history:  # killed before epoch 2 was saved
        history.add(row(2, loss=0.25), best_epoch=2)
    assert [event.value for event in board(tmp_path).Scalars("train_loss")] == [0.25]
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 3


def test_only_the_first_process_writes(tmp_path):
    with History(tmp_path, [], writes=False) as history:
        history.add(row(1), best_epoch=1)
    assert history.rows == [row(1)] and not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_is_a_clear_error(tmp_path):
    with History(tmp_path / "run", []) as history:
        (tmp_path / "run" / "history.csv").mkdir()  # nothing can take its place
        with pytest.raises(StoreError, match=r"history.csv: not written"):
            history.add(row(1), best_epoch=1)
