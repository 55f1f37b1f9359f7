"""What the experiments share: commands said aloud and timed, and a cross-validation whose test parts are pooled.

Not a script: `chest_xray.py`, `retina.py`, `skin.py` and `histology.py` are.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from wsi_pipeline.knobs import all_knobs
from wsi_pipeline.learn.datasets import open_dataset
from wsi_pipeline.learn.training.folder import SETTINGS
from wsi_pipeline.learn.training.settings import TrainSettings, load_settings

ROOT = Path(__file__).resolve().parents[1]


def options(description: str, *, data: str, folds: int, epochs: int, what: Sequence[str] = ()) -> argparse.Namespace:
    """--data, --out, --folds, --epochs, --device, --set of an experiment, and one of `what` where it has parts."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("WSI_PIPELINE_REAL_DATA", ROOT.parent / "shared" / "data")) / data
    if what:
        parser.add_argument("what", choices=what)
    parser.add_argument("--data", type=Path, default=default, help="folder of the data set")
    parser.add_argument("--out", type=Path, required=True, help="folder of all trainings and reports")
    parser.add_argument("--folds", type=int, default=folds)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", dest="knobs", action="append", default=[], metavar="KNOB=VALUE", help="for `train`")
    chosen = parser.parse_args()
    chosen.data, chosen.out = chosen.data.absolute(), chosen.out.absolute()  # `call` works in another folder
    return chosen


def call(*words: object) -> None:
    """`python -m wsi_pipeline WORDS`: said, run, timed; a failure ends the experiment."""
    command = [str(word) for word in words]
    print(f"\n$ python -m wsi_pipeline {' '.join(command)}", flush=True)
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "wsi_pipeline", *command], check=False, cwd=ROOT)
    print(f"({time.perf_counter() - began:.0f} s)", flush=True)
    if done.returncode:
        sys.exit(done.returncode)


def set_all(knobs: Sequence[str]) -> list[str]:
    """Knobs as `--set` options."""
    return [word for knob in knobs for word in ("--set", knob)]


def cross_validate(
    config: str, data: Path, out: Path, *, folds: int, knobs: Sequence[str], device: str, judge: Sequence[str] = ()
) -> Path:
    """Train `folds` networks, judge each on its own test part, then all test images together; the pooled report.

    Each image is judged once, by a network that saw neither it nor its patient. A fold that is there is kept; one
    that was trained with other knobs ends the experiment: its test part would be pooled with these.
    """
    parts = []
    for fold in range(folds):
        run, chosen = out / f"fold{fold}", [*knobs, f"split.folds={folds}", f"split.fold={fold}"]
        if (run / "test" / "evaluation.json").exists():
            refuse_other_knobs(run, load_settings(ROOT / config, chosen))
        else:
            call("train", "--config", config, "--data", data, "--out", run, "--resume", "--device", device,
                 *set_all(chosen))  # fmt: skip
            call("evaluate", "--checkpoint", run, "--data", data, "--split", "test", "--out", run / "test")
        parts.append(run / "test" / "predictions.csv")
    pooled = pd.concat([pd.read_csv(part, dtype=str, keep_default_na=False) for part in parts])
    pooled.to_csv(out / "predictions.csv", index=False)
    labels = write_labels(config, data, out / "labels.csv", knobs)
    call("evaluate", "--predictions", out / "predictions.csv", "--labels", labels, "--patient-column", "patient_id",
         "--only-common", "--out", out / "report", *judge)  # fmt: skip
    return out / "report"


def refuse_other_knobs(run: Path, settings: TrainSettings) -> None:
    """Ends the experiment where a fold was trained otherwise than it would be now; machines may differ."""
    pairs = zip(all_knobs(load_settings(run / SETTINGS)), all_knobs(settings), strict=True)
    other = [f"{name}: was {was!r}, is {now!r}" for (name, was, _), (_, now, _) in pairs if was != now]
    other = [line for line in other if not line.startswith(("data.cache_gib:", "run.workers:"))]
    if other:
        sys.exit(f"{run}: trained with other knobs ({'; '.join(other)}); set them back, or give another --out")


def write_labels(config: str, data: Path, path: Path, knobs: Sequence[str]) -> Path:
    """The true labels of a data set as a table: image, patient_id, a column a class, and the rest."""
    settings = load_settings(ROOT / config, knobs).data
    images = open_dataset(settings.dataset, data, **settings.options)
    table = pd.DataFrame({"image": images.ids, "patient_id": images.patients})
    for column, name in enumerate(images.class_names):
        table[name] = pd.array(np.nan_to_num(images.labels[:, column], nan=-1).astype(int)).astype("Int64")
    table = table.replace(-1, pd.NA)
    for name in images.columns:
        table[name] = images.columns[name].to_numpy()
    table.to_csv(path, index=False)
    return path
