"""The tissue mask of a thumbnail of 2,500 x 2,500 px: ours against scikit-image, in turns, by seconds of processor.

`python -m benchmarks.tissue [--quick] [--slide FILE] [--json FOLDER]`
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.color import rgb2hsv
from skimage.filters import threshold_otsu
from skimage.morphology import closing, disk, remove_small_objects

from benchmarks.slides import MPP
from benchmarks.timing import Benchmark, Result, arguments, finish, rounds, take_turns
from wsi_pipeline.slide.reader import SlideReader, open_slide
from wsi_pipeline.slide.synthetic import draw_slide
from wsi_pipeline.slide.tissue import TissueSettings, tissue_from_rgb

SIDE = 2500
CELL_UM = 8.0
LEAST_PX = 312  # 0.02 mm2 in cells of 8 um


def main(args: Sequence[str] | None = None) -> Benchmark:
    asked = arguments(__doc__ or "", args, slide={"help": "a slide whose overview to take, not a drawn one"})
    benchmark = Benchmark("tissue", asked.quick, {"thumbnail_px": SIDE})
    with tempfile.TemporaryDirectory() as folder:
        rgb = thumbnail(Path(folder), asked.slide)
    settings = TissueSettings()

    def own() -> float:
        tissue_from_rgb(rgb, settings, (CELL_UM, CELL_UM))
        return 1

    def own_without_pen() -> float:
        tissue_from_rgb(rgb, TissueSettings(remove_pen=False), (CELL_UM, CELL_UM))
        return 1

    def scikit_image() -> float:
        by_scikit_image(rgb)
        return 1

    both = np.mean(tissue_from_rgb(rgb, settings, (CELL_UM, CELL_UM))[0] == by_scikit_image(rgb))
    benchmark.settings |= {"cells_alike": round(float(both), 4)}
    ways = {"own": own, "own, no pen": own_without_pen, "scikit-image": scikit_image}
    rates = take_turns(ways, rounds=rounds(asked.quick), clock=time.process_time)
    benchmark.results = [
        Result("tissue mask, pens and all", "mask", "own", "scikit-image", rates),
        Result("tissue mask, what scikit-image is asked for", "mask", "own, no pen", "scikit-image", rates, 20.0),
    ]
    finish(benchmark, asked.json)
    return benchmark


def thumbnail(folder: Path, given: str | None) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8 overview of a slide."""
    path = Path(given) if given else folder / "a.tif"
    if given is None:
        draw_slide(path, size_px=(4096, 4096), mpp=MPP, seed=2, pieces=2)
    with SlideReader(open_slide(path, mpp_default=MPP)) as reader:
        width, height = (min(SIDE, side) for side in reader.slide.size_l0)
        whole = reader.read_thumbnail((width, height))
    return np.asarray(Image.fromarray(whole).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def by_scikit_image(rgb: np.ndarray) -> np.ndarray:
    """What is done everywhere: saturation in HSV, Otsu, closing, small objects removed."""
    saturation = rgb2hsv(rgb)[..., 1]
    mask = closing(saturation > threshold_otsu(saturation), disk(3))
    return remove_small_objects(mask, max_size=LEAST_PX)


if __name__ == "__main__":
    main()
