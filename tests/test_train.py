"""Training: learns, keeps the best, stops, resumes, refuses; on images that are bright or dark."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from socket import socket

import numpy as np
import pandas as pd
import pytest
import torch
from bright_images import PX, Bright, bright_images, parts_of, quick, with_labels
from PIL import Image
from safetensors.torch import load_file, save_file

from wsi_pipeline.cli.group import main
from wsi_pipeline.errors import ConfigError, ModelError, StoreError, WsiError
from wsi_pipeline.learn.datasets import open_dataset
from wsi_pipeline.learn.evaluation.metrics import auroc
from wsi_pipeline.learn.evaluation.predict import predict
from wsi_pipeline.learn.model.checkpoint import Checkpoint, load_checkpoint
from wsi_pipeline.learn.training.fitting import mean_ece
from wsi_pipeline.learn.training.train import train


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(out: Path, *knobs: str, images=None, **more) -> Checkpoint:
    images = bright_images() if images is None else images
    return train(images, parts_of(images), quick(*knobs), out, **more)


@pytest.fixture(scope="module")
def base(tmp_path_factory, one_thread) -> Path:
    """A finished training of two epochs with the settings of `quick`: to look at."""
    out = tmp_path_factory.mktemp("base") / "run"
    trained(out)
    return out


@pytest.fixture
def copy(base, tmp_path) -> Path:
    """The same, to write into."""
    return shutil.copytree(base, tmp_path / "copy")


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def last(out: Path) -> dict:
    return load_file(out / "last" / "model.safetensors")


@dataclass(frozen=True)
class Stop:
    """Raises in an epoch, as Ctrl-C or a full disk would."""

    epoch: int

    def __call__(self, name: str, facts: dict) -> None:
        if name == "epoch" and facts["epoch"] == self.epoch:
            raise KeyboardInterrupt


def test_bright_is_told_from_dark_and_everything_is_written(tmp_path):
    images, out = bright_images(80), tmp_path / "run"
    checkpoint = trained(out, "stop.epochs=4", "optimiser.rate=0.01", images=images)
    assert {path.name for path in out.iterdir()} == {
        "settings.yaml", "split.csv", "samples.png", "history.csv", "curves.png", "tensorboard", "model.safetensors",
        "card.json", "last", "train.json",
    }  # fmt: skip
    probs = predict(checkpoint, images)
    assert auroc(images.labels[:, 0], probs[:, 0]) == 1.0
    assert load_checkpoint(out).id == checkpoint.id
    account = json.loads((out / "train.json").read_text())
    assert account["status"] == "done" and account["data"]["images"] == {"train": 60, "val": 20, "test": 0}


def test_the_checkpoint_says_what_it_came_from_and_how_it_is_calibrated(base):
    checkpoint = load_checkpoint(base)
    assert checkpoint.prior == pytest.approx((14 / 30,)) and checkpoint.about["loss"]["w_n"] == list(checkpoint.prior)
    assert checkpoint.thresholds is not None and len(checkpoint.thresholds) == 1
    assert checkpoint.about["loss"]["split"] == checkpoint.about["data"]["split"]
    assert set(checkpoint.about["calibration"]) >= {"temperature", "ece_before", "ece_after", "thresholds"}
    assert checkpoint.about["training"]["model"]["arch"] == "densenet_demo"


def test_one_seed_repeats_a_training_and_another_does_not(base, tmp_path):
    one, again = load_checkpoint(base), trained(tmp_path / "b")
    assert one.id == again.id
    assert not same(one.state, trained(tmp_path / "c", "run.seed=1").state)


def test_an_interrupted_training_goes_on_bit_for_bit(tmp_path):
    knobs = ("stop.epochs=3", "model.ema=0.9", "model.freeze=denseblock4", "model.thaw={3: none}")
    whole = trained(tmp_path / "whole", *knobs)
    for epoch in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "cut", *knobs, resume=epoch > 2, listen=Stop(epoch))
    assert trained(tmp_path / "cut", *knobs, resume=True).id == whole.id
    assert same(last(tmp_path / "whole"), last(tmp_path / "cut"))
    epochs = pd.read_csv(tmp_path / "cut" / "history.csv")
    columns = ["epoch", "rate", "train_loss", "val_loss", "val_auroc"]
    pd.testing.assert_frame_equal(epochs[columns], pd.read_csv(tmp_path / "whole" / "history.csv")[columns])


def test_a_finished_training_can_be_made_longer(tmp_path):
    constant = ("schedule.name=constant", "schedule.warmup=0")
    trained(tmp_path / "run", "stop.epochs=1", *constant)
    longer = trained(tmp_path / "run", "stop.epochs=2", *constant, resume=True)
    whole = trained(tmp_path / "whole", "stop.epochs=2", *constant)
    assert same(longer.state, whole.state) and same(last(tmp_path / "run"), last(tmp_path / "whole"))


def test_resuming_what_is_finished_changes_nothing(base, copy):
    assert load_checkpoint(base).id == trained(copy, resume=True).id


@pytest.mark.parametrize(
    ("knob", "said"),
    [("optimiser.rate=0.5", "optimiser.rate: was 0.001, is 0.5"), ("stop.epochs=1", "it may only grow")],
    ids=["rate", "fewer epochs"],
)
def test_changed_settings_are_refused_on_resume(copy, knob, said):
    with pytest.raises(ConfigError, match=said):
        trained(copy, knob, resume=True)


def test_another_split_is_refused_on_resume(copy):
    with pytest.raises(ConfigError, match="images and their parts: were"):
        trained(copy, images=bright_images(44), resume=True)


def test_other_labels_are_refused_on_resume_where_the_state_knows_them(copy):
    images = bright_images(40)
    images = with_labels(images, np.where(np.arange(40)[:, None] == 4, 1 - images.labels, images.labels))
    with pytest.raises(
        ConfigError, match=r"--resume with other settings: labels of the images: were .*; set them back"
    ):
        trained(copy, images=images, resume=True)
    state = json.loads((copy / "last" / "state.json").read_text())
    del state["labels"]
    (copy / "last" / "state.json").write_text(json.dumps(state))
    trained(copy, images=images, resume=True)


def test_a_folder_with_a_training_is_not_written_over(copy):
    with pytest.raises(ConfigError, match="--resume to go on with it, --overwrite"):
        trained(copy)


def test_training_stops_when_validation_no_longer_gains(tmp_path):
    trained(tmp_path / "run", "stop.epochs=9", "stop.patience=2", "optimiser.rate=1e-9", "stop.metric=loss",
            "schedule.name=constant", "schedule.warmup=0")  # fmt: skip
    account = json.loads((tmp_path / "run" / "train.json").read_text())
    assert account["epochs"] < 9 and account["stopped"] == "no gain in 2 epochs"
    assert account["epochs"] == account["best_epoch"] + 2


def test_the_best_epoch_is_kept_and_not_the_last(tmp_path):
    """No epoch gains on an AUROC of 1; the best is kept apart while later ones go on in the same tensors."""
    seen: dict[int, dict] = {}

    def look(name: str, facts: dict) -> None:
        if name == "validated":
            seen[facts["epoch"]] = last(tmp_path / "run")

    checkpoint = trained(tmp_path / "run", "stop.epochs=4", "optimiser.rate=0.01", listen=look)
    best = checkpoint.about["validation"]["epoch"]
    assert best < 4 and same(checkpoint.state, seen[best]) and not same(checkpoint.state, seen[4])


def test_frozen_blocks_stay_as_they_were_and_the_head_moves(tmp_path):
    first = trained(tmp_path / "a", "model.freeze=head", "optimiser.rate=1e-9")
    other = trained(tmp_path / "b", "model.freeze=head", "optimiser.rate=0.1")
    moved = [name for name in first.state if not np.array_equal(first.state[name], other.state[name])]
    assert moved and all(name.startswith("classifier") for name in moved)


def test_a_training_starts_from_another_and_is_normalised_like_it(base, tmp_path):
    darker = replace(bright_images(), read=Bright((False,) * 40))
    first = load_checkpoint(base)
    tuned = trained(tmp_path / "tuned", f"model.weights={base}", "model.freeze=head", images=darker)
    assert tuned.mean == first.mean
    assert np.array_equal(tuned.state["features.conv0.weight"], first.state["features.conv0.weight"])


@pytest.mark.parametrize("ending", ["safetensors", "pth", "pt"])
def test_weights_are_normalised_by_their_card_whatever_their_ending(base, tmp_path, ending):
    first = load_checkpoint(base)
    state = {name: torch.tensor(array) for name, array in first.state.items()}
    weights = tmp_path / f"weights.{ending}"
    save_file(state, weights) if ending == "safetensors" else torch.save(state, weights)
    alone = trained(tmp_path / "alone", f"model.weights={weights}", "model.freeze=head", "stop.epochs=1")
    assert alone.mean == (0.485, 0.456, 0.406) and alone.std == (0.229, 0.224, 0.225)
    shutil.copy(base / "card.json", tmp_path / "weights.json")
    tuned = trained(tmp_path / "tuned", f"model.weights={weights}", "model.freeze=head", "stop.epochs=1")
    assert (tuned.mean, tuned.std) == (first.mean, first.std)


def test_weights_that_are_not_there_are_told_before_an_image_is_read(tmp_path):
    heard = []
    with pytest.raises(ModelError, match=r"none\.pth: no such model"):
        trained(tmp_path / "run", "model.weights=none.pth", listen=lambda name, facts: heard.append(name))
    assert "read" not in heard


def test_weights_of_another_architecture_are_refused(base, tmp_path):
    with pytest.raises(ModelError, match=r"densenet121|features"):
        trained(tmp_path / "run", f"model.weights={base}", "model.arch=densenet_small")


@pytest.mark.parametrize(
    "knobs",
    [
        ["loss.name=pos_weight"], ["loss.name=wang"], ["loss.name=focal"], ["loss.name=asymmetric"],
        ["loss.name=plain", "loss.sampler=balanced"], ["optimiser.name=sgd"], ["schedule.name=plateau"],
        ["model.channels=1"], ["data.augment=false"], ["data.cache_gib=0"], ["run.precision=bfloat16"],
    ],
    ids=lambda knobs: knobs[-1],
)  # fmt: skip
def test_every_choice_trains(tmp_path, knobs):
    checkpoint = trained(tmp_path / "run", "stop.epochs=1", *knobs)
    assert np.isfinite(predict(checkpoint, bright_images(4))).all()


def test_exclusive_classes_train_and_stop_by_balanced_accuracy(tmp_path):
    images = bright_images(80, exclusive=True)
    checkpoint = trained(tmp_path / "run", "stop.metric=accuracy", "optimiser.rate=0.01", images=images)
    assert checkpoint.exclusive and predict(checkpoint, images).sum(axis=1) == pytest.approx(np.ones(80), abs=1e-5)
    assert "val_accuracy" in pd.read_csv(tmp_path / "run" / "history.csv")


def test_grades_train_and_stop_by_kappa(tmp_path):
    images = replace(bright_images(classes=2), ordinal=True)
    labels = np.column_stack([images.labels[:, 0], images.labels[:, 0] * images.labels[:, 1]])
    checkpoint = trained(tmp_path / "run", "stop.metric=kappa", images=with_labels(images, labels))
    assert checkpoint.ordinal and "val_kappa" in pd.read_csv(tmp_path / "run" / "history.csv")


def test_a_task_that_cannot_be_trained_is_named(tmp_path):
    images, said = bright_images(classes=2), []
    labels = np.column_stack([images.labels[:, 0], np.zeros(40)])
    trained(tmp_path / "run", "stop.epochs=1", images=with_labels(images, labels),
            listen=lambda name, facts: said.append(facts["text"]) if name == "note" else None)  # fmt: skip
    assert any("class1" in text and "no positives" in text for text in said)


@pytest.mark.parametrize(
    ("metric", "said"),
    [("kappa", "has no grades"), ("accuracy", "has no classes that exclude each other")],
)
def test_a_metric_that_the_labels_cannot_give_is_refused(tmp_path, metric, said):
    with pytest.raises(ConfigError, match=said):
        trained(tmp_path / "run", f"stop.metric={metric}")


def test_validation_of_one_class_alone_cannot_stop_by_auroc(tmp_path):
    images = bright_images()
    parts = np.where((np.arange(40) >= 30) & (images.labels[:, 0] > 0), "val", "train")
    with pytest.raises(ConfigError, match=r"use stop.metric=loss"):
        train(images, parts, quick(), tmp_path / "run")


def test_validation_without_a_known_label_is_refused_before_an_epoch(tmp_path):
    images = bright_images()
    labels = np.where(parts_of(images)[:, None] == "val", np.nan, images.labels)
    heard: list[str] = []
    with pytest.raises(ConfigError, match="no image of validation has a known label"):
        trained(tmp_path / "run", "stop.metric=loss", images=with_labels(images, labels),
                listen=lambda name, facts: heard.append(name))  # fmt: skip
    assert "epoch" not in heard


@pytest.mark.parametrize(("fit", "size", "mpp"), [("pad", (64, 48), 1.0), ("crop", (64, 48), 0.75), ("pad", None, 0.5)])
def test_the_checkpoint_has_the_scale_of_the_squares_that_it_saw(tmp_path, fit, size, mpp):
    images = bright_images()
    read = images.read if size is None else lambda row: np.resize(images.read(row), (*size, 3))
    checkpoint = trained(
        tmp_path / "run", "stop.epochs=1", f"data.fit={fit}", images=replace(images, read=read, mpp=0.5)
    )
    assert checkpoint.mpp == mpp and checkpoint.input_px == PX


def test_images_of_one_scale_and_many_sizes_are_refused(tmp_path):
    images = bright_images()
    odd = replace(images, mpp=0.5, read=lambda row: np.resize(images.read(row), (32 + row, 32, 3)))
    with pytest.raises(ConfigError, match=r"images of 32 to 71 px at 0.5 um/px come to data.px=32 at as many scales"):
        trained(tmp_path / "run", images=odd)


def test_no_images_are_refused(tmp_path):
    images = bright_images().subset(np.array([], dtype=int))
    with pytest.raises(ConfigError, match="no images"):
        train(images, np.array([], dtype=str), quick(), tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_with_the_images_and_keeps_the_best(copy):
    kept, weights = load_checkpoint(copy).id, last(copy)
    save_file({name: weight * torch.inf for name, weight in weights.items()}, copy / "last" / "model.safetensors")
    with pytest.raises(ModelError, match=r"is not finite in epoch 3, step \d+, images image\d+.*lower optimiser"):
        trained(copy, "stop.epochs=4", resume=True)
    assert load_checkpoint(copy).id == kept


@pytest.fixture
def handlers():
    """Those of signals as they were: `main` sets its own."""
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


def folder_of(root: Path, n: int = 24) -> Path:
    images = bright_images(n)
    for row in range(n):
        place = root / ("bright" if images.labels[row, 0] else "dark")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.image(row)).save(place / f"p{row // 2:03d}_{row}.png")
    return root


def options(data: Path, out: Path, *knobs: str) -> list[str | Path]:
    config = data.parent / "config.yaml"
    config.write_text(f"data: {{dataset: folder, px: {PX}, options: {{patient_pattern: 'p([0-9]+)_'}}}}\n"
                      "model: {arch: densenet_demo}\nrun: {batch: 8}\nstop: {epochs: 1}\n")  # fmt: skip
    given = [part for knob in knobs for part in ("--set", knob)]
    return ["--config", config, "--data", data, "--out", out, *given]


@pytest.mark.usefixtures("handlers")
def test_the_command_trains_and_goes_on_with_the_settings_of_its_folder(tmp_path, monkeypatch, capsys):
    data, out = folder_of(tmp_path / "data"), tmp_path / "run"

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wsi_pipeline", "train", *map(str, arguments)])
        return main(), *capsys.readouterr()

    code, told, shown = call(*options(data, out))
    assert code == 0 and "expected calibration error" in told and "epoch 1/1" in shown and "images/s" in shown
    code, _, shown = call("--data", data, "--out", out, "--resume", "--set", "stop.epochs=2")
    assert code == 0 and "epoch 2/2" in shown
    code, _, shown = call(*options(data, out))
    assert code == 2 and "--overwrite" in shown and "Traceback" not in shown


@pytest.mark.usefixtures("handlers")
def test_weights_to_start_from_are_not_overwritten_by_their_own_training(tmp_path, copy, monkeypatch, capsys):
    weights = copy / "model.safetensors"
    given = [*options(folder_of(tmp_path / "data"), copy, f"model.weights={weights}"), "--overwrite"]
    monkeypatch.setattr(sys, "argv", ["wsi_pipeline", "train", *map(str, given)])
    kept = weights.read_bytes()
    assert main() == 2 and "--overwrite would remove model.weights=" in capsys.readouterr().err
    assert weights.read_bytes() == kept


@pytest.mark.usefixtures("handlers")
def test_a_training_is_no_class_folder_of_its_data(tmp_path, monkeypatch, capsys):
    data = folder_of(tmp_path / "data")
    monkeypatch.setattr(sys, "argv", ["wsi_pipeline", "train", *map(str, options(data, data / "run"))])
    assert main() == 2 and "lies in --data" in capsys.readouterr().err
    assert {path.name for path in data.iterdir()} == {"bright", "dark"}


def two_processes(*arguments: str | Path) -> tuple[list[int | None], str]:
    """(exit codes, all they said) of the two that torchrun would start; it takes as long as one to import torch."""
    command = [sys.executable, "-m", "wsi_pipeline", "train", *map(str, arguments)]
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | place | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
        )
        for rank in "01"
    ]  # fmt: skip
    told = "".join(process.communicate(timeout=300)[0] for process in ranks)
    return [process.returncode for process in ranks], told


@pytest.mark.slow
def test_two_processes_train_as_one_and_validate_every_row_once(tmp_path):
    data, out = folder_of(tmp_path / "data"), tmp_path / "run"
    knobs = options(data, out, "stop.epochs=2", "optimiser.rate=0.01")
    codes, told = two_processes(*knobs)
    assert codes == [0, 0], told
    account = json.loads((out / "train.json").read_text())
    assert account["processes"] == 2 and account["calibration"]["images"] == account["data"]["images"]["val"]
    assert told.count("expected calibration error") == 1
    assert len(pd.read_csv(out / "history.csv")) == 2
    images, split = open_dataset("folder", data), pd.read_csv(out / "split.csv").set_index("id")["part"]
    val = images.subset(split[images.ids].to_numpy() == "val")
    ece = mean_ece(val.labels, predict(load_checkpoint(out), val))  # of the weights that are kept, in both processes
    assert ece == pytest.approx(account["calibration"]["ece_after"], abs=1e-6)

    codes, told = two_processes(*knobs)  # the first refuses the folder, the second waits for it in vain
    assert codes == [2, 1] and "another ended" in told and "Traceback" not in told


@pytest.mark.real
@pytest.mark.slow
def test_real_lesions_train_for_an_epoch(real_data, tmp_path):
    from wsi_pipeline.learn.training.parts import divide, thin

    skin = open_dataset("skin", real_data / "skin", labels="ham10000_224_labels.csv", images="ham10000_224")
    images, settings = thin(skin, 300), quick("data.px=64", "stop.epochs=1", "stop.metric=accuracy")
    checkpoint = train(
        images, divide(images, settings.split, px=settings.data.px, fit=settings.data.fit), settings, tmp_path / "run"
    )
    assert len(checkpoint.class_names) == 7 and checkpoint.kind == "skin"


def test_errors_of_training_are_all_of_the_tree():
    assert all(issubclass(kind, WsiError) for kind in (ConfigError, ModelError, StoreError))
