"""Reading tiles of 256 px from a slide: the direct reader against openslide-python, in turns.

What one core does is told by the seconds of processor that it took; two cores by the clock on the wall.

`python -m benchmarks.read [--quick] [--slide FILE] [--json FOLDER]`
"""

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from benchmarks.slides import MPP, a_slide, tissue_block
from benchmarks.timing import Benchmark, Result, Way, arguments, finish, rounds, take_turns
from wsi_pipeline.slide.direct import DirectPixels
from wsi_pipeline.slide.jpeg import decode_into
from wsi_pipeline.slide.jpeg_levels import jpeg_levels
from wsi_pipeline.slide.reader import Reading, Slide, SlideReader, open_slide

TILE = 256
ALIGNED, MOVED = (0, 0), (100, 60)
FAST, OPENSLIDE = "direct", "openslide"

Places = list[tuple[int, int]]


def main(args: Sequence[str] | None = None) -> Benchmark:
    asked = arguments(__doc__ or "", args, slide={"help": "take the tissue from this slide, not a drawn one"})
    side = 4096 if asked.quick else 8192
    tiles = 200 if asked.quick else 600
    benchmark = Benchmark("read", asked.quick, {"tissue": Path(asked.slide or "drawn").name})
    benchmark.settings |= {"slide_px": side, "tiles": tiles, "tile_px": TILE, "jpeg_quality": 80}
    with tempfile.TemporaryDirectory() as folder:
        block = tissue_block(Path(folder), 2048, asked.slide)
        tiff = a_slide(Path(folder), "a.tif", block, side_px=side)
        svs = a_slide(Path(folder), "a.svs", block[:1920, :1920], side_px=side, tile_px=240, aperio=True)
        fine = a_slide(Path(folder), "b.svs", block, side_px=side, tile_px=256, aperio=True, mpp=MPP / 2)
        turns = rounds(asked.quick)
        benchmark.results = [
            one_core("TIFF, 256 px tiles, aligned", tiff, ALIGNED, tiles, turns, target=4.5),
            one_core("SVS, 240 px tiles, aligned at 240 px", svs, ALIGNED, tiles, turns, target=4.5, side=240),
            one_core("TIFF, 256 px tiles, not aligned", tiff, MOVED, tiles, turns, target=4.0),
            one_core("SVS, 240 px tiles, not aligned", svs, MOVED, tiles, turns, target=4.0),
            finer("40x read at 20x, no level between, reduced in JPEG", fine, tiles // 4, turns, target=8.0),
            finer("40x read at 20x, no level between, Lanczos", fine, tiles // 4, turns, target=None),
            *two_cores("TIFF, aligned, two processes against one", tiff, ALIGNED, turns),
            *two_cores("TIFF, not aligned, two processes against one", tiff, MOVED, turns),
        ]
    finish(benchmark, asked.json)
    return benchmark


def one_core(
    name: str, path: Path, origin: tuple[int, int], tiles: int, turns: int, *, target: float, side: int = TILE
) -> Result:
    """Tiles at the level's own scale, row by row; after a check that both give the same pixels."""
    slide = open_slide(path)
    places = walk(slide, origin, side, tiles)
    with SlideReader(slide) as reader, openslide.OpenSlide(path) as handle:
        for x, y in places[:: max(1, len(places) // 20)]:
            same = np.array_equal(reader.read(x, y, 0, (side, side)), by_openslide(handle, x, y, side))
            assert same, f"{name}: not the pixels of OpenSlide"
    own, reference = partial(read_directly, slide, places, side), partial(read_with_openslide, path, places, side)
    ways: dict[str, Way] = {FAST: own, OPENSLIDE: reference}
    return Result(name, "tile", FAST, OPENSLIDE, take_turns(ways, rounds=turns, clock=time.process_time), target)


def finer(name: str, path: Path, tiles: int, turns: int, *, target: float | None) -> Result:
    """Tiles of 512 px of level 0 brought to 256 px; with a target, by the decoder itself."""
    slide, reduced = open_slide(path), target is not None
    places = walk(slide, ALIGNED, 2 * TILE, tiles)

    def own() -> float:
        with SlideReader(slide, Reading(reduced=reduced)) as reader:
            for x, y in places:
                reader.read_box((x, y, 2 * TILE, 2 * TILE), (TILE, TILE))
        return len(places)

    def lanczos() -> float:
        with openslide.OpenSlide(path) as handle:
            for x, y in places:
                region = handle.read_region((x, y), 0, (2 * TILE, 2 * TILE)).convert("RGB")
                np.asarray(region.resize((TILE, TILE), Image.Resampling.LANCZOS))
        return len(places)

    notes = "other pixels than Lanczos: slide.reduced_decode, off by default" if reduced else ""
    rates = take_turns({FAST: own, OPENSLIDE: lanczos}, rounds=turns, clock=time.process_time)
    return Result(name, "tile", FAST, OPENSLIDE, rates, target, notes)


def two_cores(name: str, path: Path, origin: tuple[int, int], turns: int) -> list[Result]:
    """The same work by one process of a pool, and by both; and what two processes give that only decode its JPEGs.

    An even number of rows, the most there are, halved: not aligned, each half decodes the slide's own tiles at the
    border once more.
    """
    slide = open_slide(path)
    places = walk(slide, origin, TILE, 10**6)
    rows = sorted({y for _, y in places})
    half = len(rows) // 2
    halves = [[place for place in places if place[1] in part] for part in (rows[:half], rows[half : 2 * half])]
    places = [*halves[0], *halves[1]]
    jpegs = touched(places)
    parts = [slice(0, len(jpegs) // 2), slice(len(jpegs) // 2, None)]
    with ProcessPoolExecutor(2, initializer=load_jpegs, initargs=(slide, jpegs)) as pool:
        ways: dict[str, Way] = {
            "two": lambda: sum(pool.map(read_directly, [slide] * 2, halves, [TILE] * 2)),
            "one": lambda: pool.submit(read_directly, slide, places, TILE).result(),
            "two alone": lambda: sum(pool.map(decode_alone, parts)),
            "one alone": lambda: pool.submit(decode_alone, slice(None)).result(),
        }
        rates = take_turns(ways, rounds=turns)
    more = sum(len(touched(half)) for half in halves) / len(jpegs) - 1
    notes = f"needs two cores that nothing else uses; the two decode {more:.1%} more, at the border of their halves"
    ceiling = "the ceiling, in the same rounds: libjpeg-turbo alone, from memory into memory used before"
    return [
        Result(name, "tile", "two", "one", {way: rates[way] for way in ("two", "one")}, 1.9, notes),
        Result(
            f"{name}, decoding alone",
            "tile",
            "two",
            "one",
            {way: rates[f"{way} alone"] for way in ("two", "one")},
            None,
            ceiling,
        ),
    ]


_jpegs: list[bytes] = []  # of a process of the pool


def load_jpegs(slide: Slide, corners: Places) -> None:
    """Take the slide's own tiles at these corners into memory, as JPEGs."""
    with DirectPixels(slide.path, jpeg_levels(slide)) as pixels:
        found = [pixels.tile_bytes(x, y, 0, (TILE, TILE)) for x, y in corners]
    _jpegs[:] = [jpeg for jpeg in found if jpeg is not None]
    assert len(_jpegs) == len(corners), "a slide of whole tiles is needed"


def decode_alone(part: slice) -> float:
    room = np.empty((TILE, TILE, 3), np.uint8)
    for jpeg in _jpegs[part]:
        decode_into(jpeg, room)
    return len(_jpegs[part])


def touched(places: Places) -> Places:
    """The corners of the slide's own tiles, as large as those read, that these lie on."""
    moves = [(x, y) for x in (0, TILE - 1) for y in (0, TILE - 1)]
    return sorted({((x + dx) // TILE * TILE, (y + dy) // TILE * TILE) for x, y in places for dx, dy in moves})


def walk(slide: Slide, origin: tuple[int, int], side: int, count: int) -> Places:
    """The first `count` corners of whole tiles, row by row; fewer where the slide has fewer."""
    width, height = slide.size_l0
    rows, cols = range(origin[1], height - side + 1, side), range(origin[0], width - side + 1, side)
    return [(x, y) for y in rows for x in cols][:count]


def read_directly(slide: Slide, places: Places, side: int) -> float:
    with SlideReader(slide) as reader:
        for x, y in places:
            reader.read_box((x, y, side, side), (side, side))
    return len(places)


def read_with_openslide(path: Path, places: Places, side: int) -> float:
    with openslide.OpenSlide(path) as handle:
        for x, y in places:
            by_openslide(handle, x, y, side)
    return len(places)


def by_openslide(handle: openslide.OpenSlide, x: int, y: int, side: int) -> np.ndarray:
    """What everyone does: read_region, RGB, numpy."""
    return np.asarray(handle.read_region((x, y), 0, (side, side)).convert("RGB"))


if __name__ == "__main__":
    main()
