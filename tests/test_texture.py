"""Drawn textures are periodic, reproducible, and keep their colours at every scale."""

import numpy as np
import pytest

from wsi_pipeline.slide.texture import KINDS, Stain, draw_stain, draw_textures, reduce_blocks, tiled_out

STAIN = Stain((0.6, 0.65, 0.3), (0.1, 0.5, 0.28), (244.0, 243.0, 245.0))


@pytest.fixture(scope="module")
def textures() -> dict[str, np.ndarray]:
    return draw_textures(STAIN, mpp=0.5, side_px=256, variant=0)


def test_every_kind_has_a_texture_of_the_side_asked_for(textures: dict[str, np.ndarray]) -> None:
    assert {name: texture.shape for name, texture in textures.items()} == dict.fromkeys(KINDS, (256, 256, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_texture_has_no_seam(textures: dict[str, np.ndarray], kind: str) -> None:
    texture = textures[kind].astype(float)
    seam = np.abs(texture[:, 0] - texture[:, -1]).mean()
    inner = np.abs(np.diff(texture, axis=1)).mean()
    assert seam < 1.5 * inner + 1


def test_glass_is_the_colour_of_the_lamp(textures: dict[str, np.ndarray]) -> None:
    assert np.abs(textures["glass"].reshape(-1, 3).mean(axis=0) - STAIN.glass).max() < 4


def test_tumour_is_bluer_and_darker_than_stroma(textures: dict[str, np.ndarray]) -> None:
    tumour, stroma = (textures[kind].reshape(-1, 3).mean(axis=0) for kind in ("tumour", "stroma"))
    assert tumour[2] - tumour[0] > stroma[2] - stroma[0] + 20
    assert tumour.mean() < stroma.mean()


@pytest.mark.parametrize(("mpp", "side"), [(0.25, 256), (0.5, 256), (1.0, 128), (1.2, 64), (2.0, 64)])
def test_a_coarser_texture_has_a_smaller_side_and_the_same_mean(
    textures: dict[str, np.ndarray], mpp: float, side: int
) -> None:
    scaled = draw_textures(STAIN, mpp=mpp, side_px=256, variant=0)["stroma"]
    assert scaled.shape == (side, side, 3)
    assert np.abs(scaled.mean(axis=(0, 1)) - textures["stroma"].mean(axis=(0, 1))).max() < 15


def test_stains_differ_from_seed_to_seed_and_only_so() -> None:
    first, again, other = (draw_stain(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_reduced_blocks_are_rounded_means() -> None:
    rgb = np.array([[[0], [1]], [[1], [1]]], np.uint8).repeat(3, axis=2)
    assert reduce_blocks(rgb, 2).tolist() == [[[1, 1, 1]]]


def test_tiling_out_repeats_from_the_top_left() -> None:
    texture = np.arange(4, dtype=np.uint8).reshape(2, 2, 1).repeat(3, axis=2)
    assert tiled_out(texture, 3)[..., 0].tolist() == [[0, 1, 0], [2, 3, 2], [0, 1, 0]]
