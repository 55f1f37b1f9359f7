"""Batches: order, augmentation and workers by the seed alone; unreadable images named."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from bright_images import PX, bright_images

from wsi_pipeline.errors import ConfigError, SlideError
from wsi_pipeline.learn.data.augment import augmentation
from wsi_pipeline.learn.data.batches import Batches, Squares, in_order, order_of

ROWS = np.arange(20)


def squares(*, cache_gib: float = 1.0) -> Squares:
    made = Squares(bright_images(20), PX, "pad", cache_gib=cache_gib)
    made.read_all(lambda row, pixels: None)
    return made


def pixels_of(batches: Batches, epoch: int) -> list[torch.Tensor]:
    return [batch.pixels for batch in batches.epoch(order_of(ROWS, batch=8, seed=3, epoch=epoch))]


@dataclass(frozen=True)
class Broken:
    """Reads nothing from row 3 on."""

    def __call__(self, row: int) -> np.ndarray:
        if row < 3:
            return np.zeros((PX, PX, 3), np.uint8)
        raise SlideError(f"{row}.png: truncated")


def test_an_epoch_holds_every_row_at_most_once_and_drops_what_is_left_over():
    plan = order_of(ROWS, batch=8, seed=0, epoch=1)
    rows = np.concatenate([rows for _, rows in plan])
    assert [len(rows) for _, rows in plan] == [8, 8]  # 20 = 2 * 8 + 4
    assert len(set(rows.tolist())) == 16


def test_fewer_images_than_a_batch_are_one_batch():
    assert [len(rows) for _, rows in order_of(ROWS[:5], batch=8, seed=0, epoch=1)] == [5]


def test_the_order_hangs_on_seed_and_epoch():
    def first(seed: int, epoch: int) -> list[int]:
        return order_of(ROWS, batch=8, seed=seed, epoch=epoch)[0][1].tolist()

    assert first(0, 1) == first(0, 1)
    assert first(0, 1) != first(0, 2) and first(0, 1) != first(1, 1)


def test_batches_differ_in_their_seeds_over_epochs_and_processes():
    plans = [order_of(ROWS, batch=4, seed=0, epoch=epoch, share=(k, 2)) for epoch in (1, 2) for k in (0, 1)]
    seeds = [seed for plan in plans for seed, _ in plan]
    assert len(set(seeds)) == len(seeds) == 20


def test_processes_share_each_batch():
    whole = order_of(ROWS, batch=8, seed=0, epoch=1)
    shares = [order_of(ROWS, batch=8, seed=0, epoch=1, share=(k, 2)) for k in (0, 1)]
    for (_, rows), (_, even), (_, odd) in zip(whole, *shares, strict=True):
        assert sorted([*even, *odd]) == sorted(rows) and len(even) == len(odd) == 4


def test_validation_takes_every_row_once_in_order():
    assert [rows.tolist() for _, rows in in_order(ROWS[:5], batch=2)] == [[0, 1], [2, 3], [4]]
    shares = [np.concatenate([rows for _, rows in in_order(ROWS[:5], batch=2, share=(k, 2))]) for k in (0, 1)]
    assert [share.tolist() for share in shares] == [[0, 2, 4], [1, 3]]


def test_chances_draw_rare_rows_more_often():
    chances = np.where(ROWS == 7, 0.5, 0.5 / 19)
    drawn = np.concatenate([rows for epoch in range(20) for _, rows in order_of(
        ROWS, batch=20, seed=0, epoch=epoch, chances=chances)])  # fmt: skip
    assert 0.4 < (drawn == 7).mean() < 0.6


def test_augmentation_repeats_by_epoch_and_leaves_torchs_generator_alone():
    batches = Batches(squares(), augment=augmentation("skin"))
    before = torch.get_rng_state()
    one, again, other = pixels_of(batches, 1), pixels_of(batches, 1), pixels_of(batches, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], other[0])


@pytest.mark.slow
def test_workers_change_nothing_but_the_time():
    alone = pixels_of(Batches(squares(), augment=augmentation("skin")), 1)
    spread = pixels_of(Batches(squares(), augment=augmentation("skin"), workers=2), 1)
    assert all(torch.equal(a, b) for a, b in zip(alone, spread, strict=True))


@pytest.mark.slow
def test_what_a_worker_cannot_read_is_told_in_a_line():
    broken = Squares(replace(bright_images(20), read=Broken()), PX, "pad", cache_gib=0.0)
    with pytest.raises(SlideError, match=r"\A3\.png: truncated[^\n]*\Z"):
        list(Batches(broken, workers=1).epoch(in_order(ROWS, batch=8)))


def test_images_that_do_not_fit_into_memory_are_read_again_to_the_same_pixels():
    kept, read = squares(), squares(cache_gib=0.0)
    assert kept.cached and not read.cached
    assert torch.equal(kept.take([4, 1]), read.take([4, 1]))


def test_a_batch_says_which_rows_it_is_of():
    images = bright_images(20)
    (batch, _, _) = Batches(squares()).epoch(in_order(ROWS, batch=8))
    assert batch.rows.tolist() == list(range(8)) and batch.pixels.shape == (8, 3, PX, PX)
    np.testing.assert_array_equal(batch.labels.numpy(), images.labels[:8])


def test_all_unreadable_images_are_counted_and_named():
    images = replace(bright_images(20), read=Broken())
    with pytest.raises(SlideError, match=r"17 of 20 images: image003 \(row 3\): 3.png: truncated.*and 12 more"):
        Squares(images, PX, "pad", cache_gib=1.0).read_all(lambda row, pixels: None)


def test_too_little_shared_memory_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(ConfigError, match=r"shared memory .*No space left.*--shm-size\), or use run.workers=0"):
        Squares(bright_images(4), PX, "pad", cache_gib=1.0).share()
