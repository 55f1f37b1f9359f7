"""A GPU that is asked for and absent, or whose memory is full."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from wsi_pipeline.cli.job import work
from wsi_pipeline.config import load_config
from wsi_pipeline.learn.model.checkpoint import load_checkpoint
from wsi_pipeline.pipeline.begin import open_run_folder
from wsi_pipeline.pipeline.score import Classifier
from wsi_pipeline.scores.store import read_scores
from wsi_pipeline.scores.torch_engine import TorchEngine
from wsi_pipeline.slide.entry import SlideEntry
from wsi_pipeline.slide.synthetic import draw_slide

WITHIN_S = 15  # of processor time: on a busy machine the clock tells of the others
HOLDS = 2  # tiles


class SmallGpu(TorchEngine):
    """Torch on a device whose memory holds no more than a few tiles."""

    def _pass(self, tiles: np.ndarray, px: int) -> np.ndarray:
        if len(tiles) > HOLDS:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return super()._pass(tiles, px)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_absent_is_told_in_seconds_before_any_slide_is_touched(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    os.mkfifo(tmp_path / "slides" / "a.svs")  # whoever opens it waits for ever
    command = [sys.executable, "-m", "wsi_pipeline", "run", str(tmp_path / "slides"), "--out", str(tmp_path / "out")]
    began, before = time.monotonic(), _children_s()
    done = subprocess.run([*command, "--device", "cuda"], check=False, capture_output=True, text=True, timeout=120)
    took, worked = time.monotonic() - began, _children_s() - before
    print(f"exit code {done.returncode} after {took:.1f} s, {worked:.1f} s of them work: {done.stderr.strip()}")
    assert done.returncode == 1 and worked < WITHIN_S
    assert done.stderr == "error: device 'cuda' is not here; this machine has cpu, or use auto\n"
    assert not (tmp_path / "out").exists()


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
def test_memory_that_is_full_halves_the_batch_and_the_user_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    draw_slide(tmp_path / "a.tif", size_px=(700, 600), seed=1)
    config = load_config(None, ["run.scheduler=threads", "run.workers=1", "model.engine=torch"])
    found = []
    for name in ("whole", "small"):
        classifier = Classifier("demo", device="cpu", batch=4, resample=False, engine="torch")
        if name == "small":
            classifier._scorer.engine = SmallGpu(load_checkpoint("demo"), "cpu")
            classifier._scorer.engine.piece = lambda px, of: of  # as on a GPU: a batch at once
        folder = open_run_folder(tmp_path / name)
        assert work([SlideEntry("a", str(tmp_path / "a.tif"))], folder, config, classifier=classifier) == 0
        found.append(read_scores(folder.store("a"), classifier.id).probs)
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    said = "cpu is out of memory with 4 tiles; going on with 2"
    assert f"warning: {said}" in capfd.readouterr().err
    events = [json.loads(line) for line in (tmp_path / "small" / "events.jsonl").read_text().splitlines()]
    assert [event["text"] for event in events if event["event"] == "warning"] == [said]
