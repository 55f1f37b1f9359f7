"""JPEGs decoded where they are scored: the pixels of libjpeg-turbo, damage among them, what the device cannot do.

A GPU is not needed: nvImageCodec decodes on the CPU by the same calls; where there is one, pixels and damage are tried
on it too. Tests that need the library are skipped where it is not installed.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import simplejpeg
import torch
from small_slide import a_grid, a_slide, all_tissue
from test_engines import CPU, a_checkpoint

from wsi_pipeline.cli.model import load
from wsi_pipeline.config import load_config
from wsi_pipeline.errors import ConfigError, ModelError, StoreError
from wsi_pipeline.keys import config_hash, digest, scoring_key
from wsi_pipeline.pipeline.lanes import Recipe
from wsi_pipeline.scores.adaptive import Adaptive
from wsi_pipeline.scores.ahead import reading
from wsi_pipeline.scores.gpu_jpeg import MOST_OFF, JpegDecoder
from wsi_pipeline.scores.infer import Scorer, score_tiles
from wsi_pipeline.slide.jpeg import standalone
from wsi_pipeline.tiles.making import create_store, mark_complete, write_jpegs
from wsi_pipeline.tiles.store import TileStore

GPU = pytest.param("cuda:0", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))
PX = 64
TILES = 20  # of a slide of 320 x 256 px
ON_GPU = ["model.decode=gpu", "tiles.store=jpeg"]


def opened(kind: type[JpegDecoder] = JpegDecoder, device: str = CPU) -> JpegDecoder:
    try:
        return kind(device)
    except ModelError as error:
        if "needs nvImageCodec" in str(error):
            pytest.skip("nvImageCodec is not installed")
        raise


@pytest.fixture(params=[CPU, GPU])
def decoder(request: pytest.FixtureRequest) -> JpegDecoder:
    return opened(device=request.param)


def stained(seed: int, px: int = PX) -> np.ndarray:
    """A tile of soft colours, each of its own."""
    steps = np.random.default_rng(seed).normal(0, 4, (px, px, 3))
    return np.clip(160 + 8 * seed % 60 + np.cumsum(steps, axis=1), 0, 255).astype(np.uint8)


def as_jpeg(coding: str, seed: int = 0, px: int = PX) -> bytes:
    """A tile in YCbCr (with or without fewer colours), in RGB, or in grey; the first two as slides' tiles are kept."""
    tile = stained(seed, px)
    if coding == "grey":
        return bytes(simplejpeg.encode_jpeg(tile[..., :1].copy(), colorspace="GRAY"))
    if coding == "rgb":
        data = imagecodecs.jpeg8_encode(tile, level=90, colorspace="RGB", outcolorspace="RGB")
    else:
        data = simplejpeg.encode_jpeg(tile, quality=90, colorsubsampling=coding)
    return standalone(data, None, ycbcr=coding != "rgb", shape=(px, px))


@pytest.mark.parametrize("coding", ["444", "422", "420", "rgb", "grey"])
def test_pixels_are_those_of_libjpeg_turbo(coding: str, decoder: JpegDecoder) -> None:
    jpegs = [as_jpeg(coding, seed) for seed in range(3)]
    tiles, readable = decoder.decode(jpegs, PX)
    assert tiles.dtype == torch.uint8 and readable.all()
    expected = np.array([simplejpeg.decode_jpeg(jpeg) for jpeg in jpegs], int)
    assert np.abs(tiles.cpu().numpy() - expected).max() <= (0 if decoder.device.type == "cpu" else MOST_OFF)


def test_rgb_taken_for_ycbcr_would_be_seen() -> None:
    ycbcr = as_jpeg("444")
    as_rgb = standalone(ycbcr, None, ycbcr=False, shape=(PX, PX))
    assert np.abs(simplejpeg.decode_jpeg(ycbcr).astype(int) - simplejpeg.decode_jpeg(as_rgb)).max() > MOST_OFF


def damaged() -> list[bytes]:
    whole = as_jpeg("444")
    return [
        whole[: len(whole) // 2],  # cut off
        b"",
        b"no JPEG at all \xff\xd9",
        whole[:20] + bytes(len(whole) - 22) + whole[-2:],  # tables and pixels zeroed
        as_jpeg("444", px=32),  # of another size
        as_jpeg("444", px=128),
    ]


def test_damaged_ones_are_white_and_unreadable_and_the_others_as_they_are(decoder: JpegDecoder) -> None:
    good, bad = as_jpeg("420", 5), damaged()
    tiles, readable = decoder.decode([good, *bad, good], PX)
    assert readable.tolist() == [True, *[False] * len(bad), True]
    assert (tiles[1:-1] == 255).all()
    alone, _ = decoder.decode([good], PX)
    assert torch.equal(tiles[[0, -1]], alone[[0, 0]]) and alone.float().mean() < 250


def test_no_jpegs_give_no_tiles(decoder: JpegDecoder) -> None:
    tiles, readable = decoder.decode([], PX)
    assert tiles.shape == (0, PX, PX, 3) and readable.shape == (0,)


class Refusing(JpegDecoder):
    """A device that refuses all but what it is tried out with, as one whose memory is full."""

    def _by_device(self, jpegs: Sequence[bytes], px: int) -> list[Any]:
        return [None] * len(jpegs) if len(jpegs) > 1 else super()._by_device(jpegs, px)


def test_what_the_device_refuses_is_decoded_by_the_cpu() -> None:
    jpegs = [as_jpeg("444", 1), b"", as_jpeg("rgb", 2)]
    tiles, readable = opened(Refusing).decode(jpegs, PX)
    assert readable.tolist() == [True, False, True]
    np.testing.assert_array_equal(tiles[::2].numpy(), [simplejpeg.decode_jpeg(jpegs[row]) for row in (0, 2)])


class Full(JpegDecoder):
    """A device whose memory is full, as nvImageCodec tells of it."""

    def _decoded(self, jpegs: Sequence[bytes], px: int) -> Any:
        raise RuntimeError("CUDA Runtime failure: '#2'\nin cudaMallocAsync")


def test_a_full_memory_costs_time_and_no_tile_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    jpegs, decoder = [as_jpeg("444", 1), as_jpeg("rgb", 2)], opened(Full)
    for _ in range(2):
        tiles, readable = decoder.decode(jpegs, PX)
        assert readable.all()
        np.testing.assert_array_equal(tiles, [simplejpeg.decode_jpeg(jpeg) for jpeg in jpegs])
    assert caplog.text.count("cpu does not decode 2 tiles of 64 px (CUDA Runtime failure: '#2'): the CPU does") == 1


class Miscoloured(JpegDecoder):
    """A device that gives what is in RGB as blue, green and red."""

    def _by_device(self, jpegs: Sequence[bytes], px: int) -> list[Any]:
        tiles = super()._by_device(jpegs, px)
        return [
            tile.flip(-1) if tile is not None and jpeg[17] == 0 else tile
            for tile, jpeg in zip(tiles, jpegs, strict=True)
        ]


def test_colours_that_the_device_gets_wrong_are_left_to_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    jpegs = [as_jpeg("rgb", 1), as_jpeg("444", 2)]
    found = opened(Miscoloured)
    assert "JPEGs in RGB are decoded by the CPU: on cpu their colours come out wrong" in caplog.text
    tiles, readable = found.decode(jpegs, PX)
    assert readable.all()
    np.testing.assert_array_equal(tiles.numpy(), [simplejpeg.decode_jpeg(jpeg) for jpeg in jpegs])


class Blind(JpegDecoder):
    """A device without a decoder: nvJPEG is missing."""

    def _by_device(self, jpegs: Sequence[bytes], px: int) -> list[Any]:
        return [None] * len(jpegs)


def test_a_library_that_decodes_nothing_here_is_told() -> None:
    with pytest.raises(ModelError, match=r"does not decode JPEGs on cpu; pip install 'wsi-pipeline\[gpu\]'"):
        opened(Blind)


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    with pytest.raises(ModelError, match=r"needs nvImageCodec .*pip install 'wsi-pipeline\[gpu\]'"):
        JpegDecoder(CPU)


def a_jpeg_store(folder: Path, jpegs: Sequence[bytes], *, unreadable: int = 3) -> TileStore:
    slide, _ = a_slide(folder)
    options: dict[str, Any] = {"pixels": True, "shard_tiles": 8, "key": "k", "settings": {}, "codec": "jpeg"}
    grid = a_grid(slide, tile=PX)
    assert len(grid) == TILES
    store = create_store(folder / "j.zarr", grid, all_tissue(slide), **options)
    for shard, (start, stop) in enumerate(store.shards):
        write_jpegs(store, shard, jpegs[start:stop], np.arange(start, stop) != unreadable)
    return mark_complete(store)


@pytest.mark.parametrize("way", ["plain", "dense", "adaptive"])
def test_scores_are_those_of_the_pixels_and_damaged_tiles_have_none(way: str, tmp_path: Path) -> None:
    opened()
    jpegs = [as_jpeg("rgb" if row % 2 else "420", row) for row in range(TILES)]
    for row, bytes_ in zip((0, 9, 10, 11, 12, 19), damaged(), strict=True):
        jpegs[row] = bytes_
    store, checkpoint = a_jpeg_store(tmp_path, jpegs), a_checkpoint()
    how: dict[str, Any] = {"batch": 6, "adaptive": Adaptive() if way == "adaptive" else None}
    pixels = score_tiles(store, Scorer(checkpoint, CPU, "torch", cells=way == "dense"), **how)
    found = score_tiles(store, Scorer(checkpoint, CPU, cells=way == "dense", jpegs=True), **how)
    np.testing.assert_array_equal(found.probs, pixels.probs)
    if way == "plain":
        assert np.flatnonzero(np.isnan(found.probs).any(axis=1)).tolist() == [0, 3, 9, 10, 11, 12, 19]


def test_rows_apart_are_decoded_together_and_in_order(tmp_path: Path) -> None:
    jpegs = [as_jpeg("444", row) for row in range(TILES)]
    store, scorer = a_jpeg_store(tmp_path, jpegs), Scorer(a_checkpoint(), CPU, "torch", jpegs=bool(opened()))
    rows = np.array([2, 3, 7, 8, 9, 19])
    tiles, readable = reading(store, scorer.decoder)(rows)
    np.testing.assert_array_equal(tiles.numpy(), [simplejpeg.decode_jpeg(jpegs[row]) for row in rows])
    assert readable.tolist() == [True, False, True, True, True, True]


@pytest.mark.parametrize("pixels", [True, False], ids=["zstd", "coordinates"])
def test_a_store_without_jpegs_is_refused_with_what_to_set(pixels: bool, tmp_path: Path) -> None:
    slide, _ = a_slide(tmp_path)
    options: dict[str, Any] = {"shard_tiles": 8, "key": "k", "settings": {}}
    store = create_store(tmp_path / "z.zarr", a_grid(slide), all_tissue(slide), pixels=pixels, **options)
    kept = "pixels in zstd" if pixels else "coordinates"
    with pytest.raises(StoreError, match=rf"z\.zarr: holds {kept}, no JPEGs; cut tiles with tiles\.store=jpeg"):
        store.read_jpegs(0, 4)


def test_onnx_takes_no_jpegs() -> None:
    with pytest.raises(ModelError, match=r"engine onnx takes pixels, not JPEGs; use model\.engine=auto"):
        Scorer(a_checkpoint(), CPU, "onnx", jpegs=True)


def test_on_a_cpu_it_is_refused_where_the_model_is_opened() -> None:
    told = "model.decode=gpu: the device is cpu; set model.decode=cpu"
    with pytest.raises(ModelError, match=told):
        Recipe("demo", device="cpu", batch=None, resample=False, decode="gpu").open()
    with pytest.raises(ModelError, match=told):
        load(load_config(None, [*ON_GPU, "model.device=cpu"]))


@pytest.mark.parametrize("store", ["pixels", "coordinates"])
def test_without_jpegs_to_come_the_configuration_is_refused(store: str) -> None:
    with pytest.raises(ConfigError, match=f"decodes JPEGs, tiles.store is {store}; set tiles.store=jpeg"):
        load_config(None, ["model.decode=gpu", f"tiles.store={store}"])


def test_it_is_in_the_key_of_the_scores_and_a_default_run_keeps_its_own() -> None:
    one, other = load_config(None, ["tiles.store=jpeg"]), load_config(None, ON_GPU)
    assert scoring_key(one, "t", "m") == digest({"tiles": "t", "checkpoint": "m"}) != scoring_key(other, "t", "m")
    assert "decode" in one.model_dump()["model"] and config_hash(one) != config_hash(other)
    machine = {"batch", "device", "engine", "compiled", "decode", "precision"}
    before = one.model_dump(exclude={"run": True, "slurm": True, "outputs": True, "model": machine})
    assert config_hash(one) == digest(before)
