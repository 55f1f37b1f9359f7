"""Settings of a training: what is refused, and what may change on --resume."""

import pytest
from bright_images import quick

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.knobs import all_knobs, as_yaml
from wsi_pipeline.learn.training.settings import TrainSettings, as_json, changed_knobs, load_settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modle.arch=x", "did you mean 'model'"),
        ("optimiser.rat=1", "did you mean 'optimiser.rate'"),
        ("data.px=16", "data.px: Input should be greater than or equal to 32 \\(got 16\\)"),
        ("loss.name=hinge", "loss.name: Input should be 'weighted'"),
        ("loss.sampler=balanced", "makes up for rare classes twice"),
        ("split.shares=[0.5, 0.2, 0.2]", "that sum to 1"),
        ("split.how=file", "go together"),
        ("run.batch=1", "greater than or equal to 2"),
        ("loss.task_weights={a: -1}", "weights of 0 or more"),
    ],
    ids=lambda text: text.split("=")[0],
)
def test_a_wrong_knob_is_named(text, said):
    with pytest.raises(ConfigError, match=said):
        load_settings(None, ["data.dataset=skin", text])


def test_the_data_set_has_no_default():
    with pytest.raises(ConfigError, match="data: Field required"):
        load_settings()


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (["split.folds=5", "split.fold=5"], "got 5 of 5 folds"),
        (["split.fold=2"], "split.fold: got 2 and no split.folds"),
        (["split.folds=5", "split.how=file", "split.file=a.csv"], "split.folds with split.how=file"),
        (["split.folds=5", "split.how=official"], "split.folds with split.how=official"),
        (["loss.name=wang", "loss.task_weights={a: 2}"], "wang weighs all tasks together"),
        (["loss.name=pos_weight", "loss.sampler=balanced"], "twice"),
    ],
    ids=["fold", "no folds", "file", "official", "wang", "twice"],
)
def test_knobs_that_do_not_go_together_are_refused(pair, said):
    with pytest.raises(ConfigError, match=said):
        quick(*pair)


def test_a_balancing_sampler_goes_with_the_plain_loss():
    assert quick("loss.sampler=balanced", "loss.name=plain").loss.sampler == "balanced"


def test_an_option_of_the_data_set_can_be_set_alone():
    settings = quick("data.options.labels=a.csv", "data.options.images=b")
    assert settings.data.options == {"labels": "a.csv", "images": "b"}


def test_settings_written_as_yaml_are_read_back_the_same(tmp_path):
    settings = quick("model.thaw={3: denseblock4, 5: none}", "data.options={a: 1}", "optimiser.rate=1e-6")
    (tmp_path / "settings.yaml").write_text(as_yaml(settings))
    assert load_settings(tmp_path / "settings.yaml") == settings


def test_every_knob_tells_its_meaning():
    assert all(field.description for _, _, field in all_knobs(quick()))


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ("stop.epochs=9", []),
        ("run.workers=3", []),
        ("data.cache_gib=0", []),
        ("calibration.temperature=false", []),
        ("calibration.thresholds=f1", []),
        ("stop.epochs=1", ["stop.epochs: was 2, is 1; it may only grow"]),
        ("optimiser.rate=0.5", ["optimiser.rate: was 0.001, is 0.5"]),
        ("model.thaw={2: none}", ["model.thaw: was {}, is {'2': 'none'}"]),
    ],
    ids=lambda change: str(change).partition("=")[0],
)
def test_what_may_change_on_resume_is_how_long_on_what_machine_and_the_calibration(change, lines):
    assert changed_knobs(as_json(quick()), quick(change)) == lines


def test_unchanged_settings_have_no_differences():
    settings = quick("model.thaw={2: none}")
    assert changed_knobs(as_json(settings), TrainSettings.model_validate(as_json(settings))) == []


@pytest.mark.parametrize("name", ["\U00020bb7", "Ärzte 1", "a\u0085b", 'say "x": #1'])
def test_settings_are_read_as_they_were_written_whatever_the_letters(tmp_path, name):
    settings = TrainSettings(data={"dataset": "folder", "options": {"classes": [name, "b"]}})
    (tmp_path / "settings.yaml").write_text(as_yaml(settings), encoding="utf-8")
    assert load_settings(tmp_path / "settings.yaml") == settings
