"""What a training starts from: what could not work is refused at once; precision, and exact logits at the end."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bright_images import bright_images, parts_of, quick, with_labels

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.data.batches import Batches, in_order
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.model.checkpoint import Checkpoint
from wsi_pipeline.learn.training.fitting import calibrated
from wsi_pipeline.learn.training.settings import CalibrationKnobs
from wsi_pipeline.learn.training.start import Listen, Training, precision, start, validation_logits
from wsi_pipeline.learn.training.train import train


def started(
    *knobs: str, images: LabelledImages, parts: np.ndarray | None = None, listen: Listen = lambda name, facts: None
) -> Training:
    parts = parts_of(images) if parts is None else parts
    return start(images, parts, quick(*knobs), saved=None, device=torch.device("cpu"), listen=listen)


def grades() -> LabelledImages:
    """40 images of three grades."""
    images = replace(bright_images(classes=2), ordinal=True)
    return with_labels(images, np.column_stack([images.labels[:, 0], images.labels[:, 0] * images.labels[:, 1]]))


@pytest.mark.parametrize(
    ("knob", "said"),
    [
        ("calibration.thresholds=yuden", "thresholds: got 'yuden'; give"),
        ("calibration.thresholds=sensitivity", "thresholds: got 'sensitivity'; give"),
        ("model.thaw={2: denseblock9}", "freeze 'denseblock9': no such block; use one of none, head"),
        ("model.freeze=tail", "freeze 'tail': no such block; use one of none, head"),
    ],
    ids=["word", "no share", "thaw", "freeze"],
)
def test_what_is_used_only_later_is_refused_before_an_image_is_read(knob: str, said: str) -> None:
    heard: list[str] = []
    with pytest.raises(ConfigError, match=said):
        started(knob, images=bright_images(), listen=lambda name, facts: heard.append(name))
    assert not heard


def test_the_choice_of_thresholds_may_change_on_resume(tmp_path: Path) -> None:
    images = bright_images(16)
    for how in ("youden", "f1"):
        settings = quick("stop.epochs=1", f"calibration.thresholds={how}")
        checkpoint = train(images, parts_of(images), settings, tmp_path / "run", resume=True)
        assert checkpoint.about["calibration"]["thresholds"] == how


@pytest.mark.parametrize(
    ("metric", "images", "what"),
    [("accuracy", bright_images(exclusive=True), "classes"), ("kappa", grades(), "grades")],
    ids=["accuracy", "kappa"],
)
def test_what_images_are_called_cannot_stop_where_validation_has_one_class(
    metric: str, images: LabelledImages, what: str
) -> None:
    dark = np.where((np.arange(40) >= 30) & (images.labels[:, 0] == 0), "val", "train")
    with pytest.raises(ConfigError, match=f"stop.metric={metric}: needs two {what}, the 4 images of validation have 1"):
        started(f"stop.metric={metric}", images=images, parts=dark)
    assert started(f"stop.metric={metric}", images=images).settings.stop.metric == metric


@pytest.mark.parametrize(("native", "half"), [(True, torch.bfloat16), (False, torch.float16)], ids=["new", "old"])
def test_bfloat16_is_taken_only_where_the_gpu_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, native: bool, half: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    monkeypatch.setattr(
        "wsi_pipeline.learn.training.start.GradScaler", lambda kind, enabled: enabled
    )  # torch's needs a GPU
    amp, scaled = precision("auto", torch.device("cuda"))
    assert amp.args == ("cuda", half) and scaled == (half is torch.float16)


def test_exact_logits_are_those_of_a_training_in_full_precision() -> None:
    def logits(training: Training, *, exact: bool) -> np.ndarray:
        plan = in_order(training.material.rows["val"], batch=8)
        return validation_logits(training, Batches(training.material.squares).epoch(plan), exact=exact)

    images = bright_images(16)
    half, full = (started(f"run.precision={name}", images=images) for name in ("bfloat16", "float32"))
    expected = logits(full, exact=False)
    np.testing.assert_allclose(logits(half, exact=True), expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(logits(half, exact=False), expected, rtol=1e-5, atol=1e-6)


def test_a_training_in_half_precision_is_calibrated_on_exact_logits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fitted: list[torch.Tensor] = []

    def fit(checkpoint: Checkpoint, logits: np.ndarray, val: LabelledImages, knobs: CalibrationKnobs) -> Checkpoint:
        fitted.append(torch.from_numpy(logits))
        return calibrated(checkpoint, logits, val, knobs)

    monkeypatch.setattr("wsi_pipeline.learn.training.train.calibrated", fit)
    images = bright_images(16)
    train(images, parts_of(images), quick("stop.epochs=1", "run.precision=bfloat16"), tmp_path / "run")
    (logits,) = fitted
    assert not torch.equal(logits, logits.bfloat16().float())


def test_the_threshold_of_slides_counts_an_image_of_one_cancer_where_another_is_unknown(tmp_path):
    images = replace(bright_images(classes=2), positive=("class0", "class1"))
    checkpoint = train(images, parts_of(images), quick("stop.epochs=1"), tmp_path / "run")
    checkpoint = replace(checkpoint, prior=None, temperature=1.0)
    val = with_labels(images.subset(np.arange(5)), np.array([[1, np.nan], [1, 0], [0, 0], [0, 0], [0, np.nan]]))
    logits = np.array([[0.3], [0.8], [0.1], [0.2], [0.25]]) @ [[1.0, 0.0]] - [0.0, 9.0]
    knobs = CalibrationKnobs(temperature=False, thresholds="sensitivity=1")
    found = calibrated(checkpoint, logits.astype(np.float32), val, knobs)
    assert 1 / (1 + np.exp(-0.2)) < found.threshold < 1 / (1 + np.exp(-0.3))
