"""Config: what a wrong knob says, and which knobs make a stage be done again."""

import pytest

from wsi_pipeline import keys
from wsi_pipeline.config import load_config
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.keys import config_hash, mapping_key, scoring_key, tiling_key
from wsi_pipeline.knobs import all_knobs, as_yaml


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tile.mpp=1", "unknown section 'tile'; did you mean 'tiles'"),
        ("tiles.mp=1", "unknown knob 'tiles.mp'; did you mean 'tiles.mpp'"),
        ("tiles.mpp=99", r"tiles.mpp: .* 20 \(got 99\)"),
        ("tiles.store=png", "tiles.store: .*pixels"),
        ("run.scheduler=moon", "run.scheduler: got 'moon'"),
        ("tiles", "use --set section.knob=value"),
    ],
)
def test_a_wrong_knob_is_named_with_what_to_do(text, said):
    with pytest.raises(ConfigError, match=said):
        load_config(None, [text])


def test_knobs_of_the_run_that_is_gone_on_with_are_told_as_such_and_how_to_take_them_back():
    own = load_config(None, ["tiles.stride_px=64", "model.adaptive=true", "model.adaptive_tolerance=0.2"]).model_dump()
    said = (
        "leave tiles.stride_px and model.adaptive; the run's own run.json has tiles.stride_px=64, model.adaptive=true, "
        "--set tiles.stride_px=null --set model.adaptive=false takes that back$"
    )
    with pytest.raises(ConfigError, match=said):
        load_config(None, ["model.dense=true"], under=own)
    with pytest.raises(ConfigError, match=r"leave tiles.stride_px and model.adaptive$"):  # all given now
        load_config(None, ["model.dense=true", "tiles.stride_px=32", "model.adaptive=false"], under=own)
    back = ["tiles.stride_px=null", "model.adaptive=false"]
    assert load_config(None, ["model.dense=true", *back], under=own).model.dense


@pytest.mark.parametrize("content", ["- a\n- b\n", "tiles: 3\n", "a: [\n"], ids=["a list", "no knobs", "no YAML"])
def test_a_file_that_is_no_configuration_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("slurm.walltime=12:00:00", "12:00:00"),
        ("slurm.account=0123", "0123"),
        ('slurm.account="0123"', "0123"),
        ("slurm.account=null", None),
        ("model.checkpoint= 2024", "2024"),
        ("model.checkpoint=2024-11-30", "2024-11-30"),
        ("run.cache_dir=[a]", "[a]"),
        ("slurm.prologue=[a, b]", ("a", "b")),
    ],
)
def test_a_knob_of_text_is_what_was_written(text, value):
    section, knob = text.partition("=")[0].split(".")
    assert getattr(getattr(load_config(None, [text]), section), knob) == value


@pytest.mark.parametrize("text", ["slurm:\n  walltime: 12:00:00", "slurm:\n  account: 0123", "run:\n  cache_dir: no"])
def test_a_number_for_a_knob_of_text_asks_for_quotes(text, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"valid string \(got (43200|83|False)\); put it in quotes$"):
        load_config(tmp_path / "a.yaml")


def test_a_missing_file_is_refused():
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config("nowhere.yaml")


def test_the_printed_yaml_reads_back_to_the_same(tmp_path):
    config = load_config(None, ["tiles.mpp=0.25", "model.resample=true"])
    (tmp_path / "a.yaml").write_text(as_yaml(config))
    assert load_config(tmp_path / "a.yaml") == config


def test_every_knob_tells_its_meaning():
    assert all(field.description for _, _, field in all_knobs(load_config()))


@pytest.mark.parametrize("same", ["run.workers=3", "model.batch=2", "outputs.overlay=false", "model.device=cpu"])
def test_machines_and_switched_off_outputs_change_no_key(same):
    one, other = load_config(), load_config(None, [same])
    assert config_hash(one) == config_hash(other)
    assert tiling_key(one, "f", (0.5, 0.5)) == tiling_key(other, "f", (0.5, 0.5))
    assert mapping_key(one, "s") == mapping_key(other, "s")


@pytest.mark.parametrize("changed", ["tiles.mpp=1", "tiles.stride_px=64", "tissue.remove_pen=false", "slide.icc=true"])
def test_what_changes_tiles_changes_their_key(changed):
    assert tiling_key(load_config(), "f", (0.5, 0.5)) != tiling_key(load_config(None, [changed]), "f", (0.5, 0.5))


def test_a_threshold_changes_the_maps_and_not_the_tiles():
    one, other = load_config(), load_config(None, ["maps.threshold=0.7"])
    assert tiling_key(one, "f", (0.5, 0.5)) == tiling_key(other, "f", (0.5, 0.5))
    assert mapping_key(one, "s") != mapping_key(other, "s")


def the_keys() -> dict[str, str]:
    """Of the defaults, each stage by itself."""
    config = load_config()
    tiles = tiling_key(config, "f", (0.5, 0.5))
    return {"tiles": tiles, "scores": scoring_key(config, "t", "m"), "maps": mapping_key(config, "s")}


def test_a_precision_that_was_asked_for_changes_the_key_of_the_scores_alone():
    auto, asked = load_config(None), load_config(None, ["model.precision=bfloat16"])
    assert tiling_key(auto, "f", (0.5, 0.5)) == tiling_key(asked, "f", (0.5, 0.5))
    assert scoring_key(auto, "t", "m") != scoring_key(asked, "t", "m")
    assert config_hash(auto) != config_hash(asked)


def test_the_keys_that_run_folders_have_stay():
    assert the_keys() == {"tiles": "ab227327475fc22e", "scores": "c1f86638280a7825", "maps": "7a528771d268cf5f"}


@pytest.mark.parametrize("stage", keys.RULES)
def test_other_rules_of_a_stage_change_its_key_and_no_other(stage, monkeypatch):
    before = the_keys()
    monkeypatch.setitem(keys.RULES, stage, keys.RULES[stage] + 1)
    after = the_keys()
    assert [name for name, key in after.items() if key != before[name]] == [stage]
