"""What int8 costs the model in the box `lung-lc25000`: AUROC and probabilities on the test images it never saw.

    python workflows/int8_loss.py --data DIR

The ranges are found on training images. AUROC is compared pairwise, intervals resample groups of duplicates.
"""

import argparse
from pathlib import Path

import numpy as np
from lung_model import OPTIONS

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.data.images import fit_square
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.data.splits import split_by_patient, split_digest
from wsi_pipeline.learn.datasets import open_dataset
from wsi_pipeline.learn.evaluation.compare import compare
from wsi_pipeline.learn.evaluation.predict import calibrated
from wsi_pipeline.learn.model.checkpoint import Checkpoint, load_checkpoint
from wsi_pipeline.scores.infer import Scorer
from wsi_pipeline.scores.ranges import IMAGES, Sample, speed_gain, to_int8

MODEL = "lung-lc25000"


def squares(images: LabelledImages, checkpoint: Checkpoint, rows: np.ndarray) -> np.ndarray:
    """Images as the network takes them, (n, px, px, 3) uint8."""
    return np.stack([fit_square(images.image(row), checkpoint.input_px, checkpoint.fit) for row in rows])


def main() -> None:
    """Print AUROC of both on the test part, how far probabilities moved, and the gain in speed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of LC25000's lung images")
    parser.add_argument("--images", type=int, default=IMAGES, help="training images that the ranges are found on")
    chosen = parser.parse_args()
    exact = load_checkpoint(MODEL)
    images = open_dataset("folder", chosen.data, **OPTIONS)
    parts = split_by_patient(images.labels, images.patients, seed=0)
    if split_digest(images.ids, parts) != exact.about["data"]["split"]:
        raise ConfigError(f"{chosen.data}: not the images that {MODEL} was trained with; give those")
    train, test = (np.flatnonzero(parts == part) for part in ("train", "test"))
    train = train[np.linspace(0, len(train) - 1, chosen.images).astype(int)]
    made = to_int8(exact, Sample(squares(images, exact, train), slides=0, digest=""))
    tiles = squares(images, exact, test)
    p, q = (calibrated(model, Scorer(model, "cpu").logits(tiles, exact.input_px)) for model in (exact, made))
    truth, names, patients = images.labels[test], exact.class_names, images.patients[test]
    for row in compare(truth, q, p, class_names=names, patients=patients).labels:
        change = f"{row.auroc.value:+.4f} ({row.auroc.low:+.4f} to {row.auroc.high:+.4f})"
        print(f"AUROC of {row.name}: float32 {row.other_auroc:.4f}, int8 {row.this_auroc:.4f}, {change}")
    moved, other = np.abs(p - q), (p.argmax(axis=1) != q.argmax(axis=1)).sum()
    far = f"by {moved.mean():.4f} on average, {moved.max():.3f} at most"
    print(f"{len(test)} images: probabilities moved {far}; {other} called otherwise")
    print(f"speed: {speed_gain(exact, made, tiles):.2f} of float32")


if __name__ == "__main__":
    main()
