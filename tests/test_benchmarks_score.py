"""What the benchmarks of scoring count and compare; nothing is timed here."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import end_to_end, gpu, networks, others, score
from benchmarks.processes import watch
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.model.densenet import build_model
from wsi_pipeline.learn.model.fold import folded


def test_operations_of_densenet121_are_those_of_the_literature() -> None:
    model = build_model(networks.random_checkpoint("densenet121", 224))
    assert networks.operations(model, 224) == pytest.approx(5.67e9, rel=0.01)  # 2.83 G multiply-adds
    assert networks.operations(folded(model), 224) == pytest.approx(0.93 * 5.67e9, rel=0.02)  # pooled first


def test_a_layer_by_itself_moves_more_than_convolutions_alone() -> None:
    model = folded(build_model(networks.random_checkpoint("densenet_demo", 64)))
    unfused, fused, operations = gpu.traffic(model, 64)
    assert unfused > fused > 0 and operations == networks.operations(model, 64)


def test_the_ways_compared_give_the_same_scores() -> None:
    ways, eager, difference = score.ways_of("densenet_demo", 2)
    assert ways[eager]() == ways[score.OWN]() == ways[score.INT8]() == 2
    assert difference < 1e-5


def test_products_are_counted_to_the_whole_one() -> None:
    assert score.multiply(1.0, side=16) == 2 * 16**3 * score.cores()


def test_the_gpu_benchmark_runs_on_a_cpu_and_without_a_gpu_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert {gpu.main([]).settings[name] for name in ("gpu", "jpeg")} == {"not measured: no GPU here"}
    found = gpu.main(["--device", "cpu", "--quick", "--px", "32", "--batches", "1", "--json", str(tmp_path)])
    assert found.results[0].name == "densenet121, batch 1"
    assert found.settings["roofline"]["images_per_s_fused"] > 0
    assert (tmp_path / "gpu.json").exists()
    if "jpeg" in found.settings:
        assert "needs nvImageCodec" in found.settings["jpeg"]
    else:
        assert [result.name for result in found.results[1:]] == [
            "JPEGs of 32 px, batch 1",
            "the same and densenet121, batch 1",
        ]


def test_a_commands_memory_is_watched_and_its_failure_told(tmp_path: Path) -> None:
    ran = watch([sys.executable, "-c", "import time; a = b'x' * 50_000_000; time.sleep(1)"], tmp_path / "log")
    assert ran.peak_bytes > 50_000_000 and ran.seconds >= 1
    with pytest.raises(RuntimeError, match="ended with 3: out of luck"):
        watch([sys.executable, "-c", "print('out of luck'); raise SystemExit(3)"], tmp_path / "log")


def test_each_setting_of_a_tool_that_is_there_is_a_command(tmp_path: Path) -> None:
    (tmp_path / "wsinfer" / "bin").mkdir(parents=True)
    (python := tmp_path / "wsinfer" / "bin" / "python").touch()
    found = others.peer_commands(str(tmp_path), Path("a.tif"), Path("w.pt"))
    assert list(found) == ["wsinfer, batch 32", "wsinfer, --speedup, batch 4"]
    assert all(str(python) in command and "{out}" in command for command in found.values())
    assert found == others.peer_commands(f"wsinfer={python}", Path("a.tif"), Path("w.pt"))


@pytest.mark.parametrize("given", ["nowhere", "clam=python", "wsinfer=nowhere/python"])
def test_tools_that_are_not_there_are_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="give FOLDER with <tool>/bin/python"):
        others.pythons(given)


def test_what_a_tool_told_is_its_last_line_of_json(tmp_path: Path) -> None:
    (log := tmp_path / "log").write_text('done\n{"tiles": 3, "work_s": 1.5, "all_s": 4.0}\n')
    assert others.told(log) == others.Told(3, 1.5, 4.0)
    log.write_text("nothing")
    with pytest.raises(RuntimeError, match="no line of JSON; it ends 'nothing'"):
        others.told(log)


@pytest.mark.slow
def test_end_to_end_and_the_plain_way_agree_on_every_tile() -> None:
    found = end_to_end.main(["--quick", "--side", "800", "--arch", "densenet_demo"])
    assert min(found.settings["tiles"].values()) > 0 and found.settings["largest_difference"] < 1e-4
    assert np.isfinite(found.results[0].ratio)
