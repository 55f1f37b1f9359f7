"""Logits and probabilities of images: in order, whatever the batch, with unreadable images named or left."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from bright_images import bright_images

from wsi_pipeline.errors import ConfigError, ModelError, SlideError
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.evaluation.predict import predict, predict_logits, to_input
from wsi_pipeline.learn.model.checkpoint import Checkpoint
from wsi_pipeline.learn.model.densenet import build_densenet, build_model


@dataclass(frozen=True)
class Torn:
    """Reads as `inner`, but image 3 cannot be read."""

    images: LabelledImages

    def __call__(self, row: int) -> np.ndarray:
        if row == 3:
            raise SlideError("image003.png: truncated")
        return self.images.image(row)


def a_checkpoint(**fields: object) -> Checkpoint:
    channels = int(fields.get("in_channels", 3))  # type: ignore[call-overload]
    torch.manual_seed(0)
    state = build_densenet("densenet_demo", 1, in_channels=channels).state_dict()
    plain = {"arch": "densenet_demo", "class_names": ("class0",), "positive": (), "exclusive": False, "input_px": 32,
             "mpp": None, "mean": (0.5,) * channels, "std": (0.25,) * channels, "state": state}  # fmt: skip
    return Checkpoint(**(plain | fields))  # type: ignore[arg-type]


def test_row_k_is_image_k_whatever_the_batch() -> None:
    images, checkpoint = bright_images(10), a_checkpoint()
    whole, by_three = (predict_logits(checkpoint, images, batch=size) for size in (10, 3))
    np.testing.assert_allclose(whole, by_three, atol=1e-5)
    one = build_model(checkpoint)(to_input(images.image(7)[None], checkpoint, torch.device("cpu")))
    assert whole[7, 0] == pytest.approx(one.item(), abs=1e-5) and whole.shape == (10, 1)


def test_input_is_the_pixels_in_0_to_1_minus_mean_over_std() -> None:
    pixels = np.full((1, 32, 32, 3), 255, np.uint8)
    found = to_input(pixels, a_checkpoint(mean=(0.5, 0.2, 0), std=(0.5, 0.4, 1.0)), torch.device("cpu"))
    assert found[0, :, 0, 0].tolist() == pytest.approx([1, 2, 1])


def test_a_grey_model_gets_the_mean_of_the_channels() -> None:
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    pixels[..., 0] = 255
    found = to_input(pixels, a_checkpoint(in_channels=1, mean=(0.0,), std=(1.0,)), torch.device("cpu"))
    assert found.shape == (1, 1, 32, 32) and found[0, 0, 0, 0].item() == pytest.approx(1 / 3)


def test_probabilities_have_the_prior_undone_and_the_temperature() -> None:
    images, checkpoint = bright_images(4), a_checkpoint(prior=(0.1,), temperature=2.0)
    z = predict_logits(checkpoint, images)
    expected = 1 / (1 + np.exp(-(z + np.log(0.1 / 0.9)) / 2))
    np.testing.assert_allclose(predict(checkpoint, images), expected, atol=1e-6)


def test_an_unreadable_image_is_named_with_what_to_do() -> None:
    images = bright_images(8)
    with pytest.raises(SlideError, match=r"image003: image003.png: truncated; .*--skip-unreadable"):
        predict_logits(a_checkpoint(), replace(images, read=Torn(images)), batch=2)


def test_an_unreadable_image_may_be_left_as_nan_and_the_others_keep_their_rows() -> None:
    images, checkpoint = bright_images(8), a_checkpoint()
    found = predict_logits(checkpoint, replace(images, read=Torn(images)), batch=3, leave_unreadable=True)
    whole = predict_logits(checkpoint, images, batch=3)
    assert np.isnan(found[3, 0]) and not np.isnan(np.delete(found, 3)).any()
    np.testing.assert_allclose(np.delete(found, 3), np.delete(whole, 3), atol=1e-5)


def test_progress_adds_up_to_the_images_and_no_images_give_no_rows() -> None:
    done: list[int] = []
    predict_logits(a_checkpoint(), bright_images(7), batch=3, progress=done.append)
    assert done == [3, 3, 1]
    assert predict_logits(a_checkpoint(), bright_images(8).subset(np.array([], int))).shape == (0, 1)


def test_output_that_is_not_finite_and_a_batch_of_none_are_refused() -> None:
    state = {name: array.copy() for name, array in a_checkpoint().state.items()}
    state["classifier.bias"][:] = 3e38
    state["features.norm5.bias"][:] = 1e38
    with pytest.raises(ModelError, match="not finite, the first is image000"):
        predict_logits(a_checkpoint(state=state), bright_images(4))
    with pytest.raises(ConfigError, match="batch: got 0"):
        predict_logits(a_checkpoint(), bright_images(4), batch=0)
