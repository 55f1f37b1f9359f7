"""Damaged copies of small inputs -> what each does to the functions that the command line calls with it.

As a program: `mutations.py FOLDER KIND:FIRST:COUNT ...` works on mutations FIRST to FIRST + COUNT of each kind,
each drawn from its own number, and prints `kind number outcome` lines; "begun" comes first, so that whoever reads
them knows which one took the process along. One that takes more than SECONDS ends the process by SIGALRM.
"""

import faulthandler
import random
import resource
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile

from wsi_pipeline.config import load_config
from wsi_pipeline.errors import WsiError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.learn.datasets.table import read_table
from wsi_pipeline.learn.model.checkpoint import load_checkpoint, shipped_models
from wsi_pipeline.learn.model.densenet import build_model
from wsi_pipeline.learn.training.settings import load_settings
from wsi_pipeline.slide.cohort import find_slides
from wsi_pipeline.slide.handles import drop_reader
from wsi_pipeline.slide.reader import Reading, SlideReader, open_slide, working_mpp
from wsi_pipeline.slide.region_files import read_regions
from wsi_pipeline.slide.regions import share_in_boxes
from wsi_pipeline.slide.synthetic import draw_slide
from wsi_pipeline.slide.tissue import TissueSettings, find_tissue
from wsi_pipeline.tiles.grid import lay_grid
from wsi_pipeline.tiles.making import create_store, mark_complete, write_shard
from wsi_pipeline.tiles.pixels import read_jpegs, read_tiles
from wsi_pipeline.tiles.store import open_store

SECONDS = 60  # that one mutation may take, on a machine that is busy
MEMORY = 6 << 30  # bytes of address space
NUMBERS = (0, 1, 2, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
WORDS = (
    b"\0", b'"', b"'", b",", b";", b"\n", b"\r", b"\t", b"{", b"[", b"&x;", b"<!ENTITY", b"-1", b"1e999", b"NaN", 
    b"null", b"../../x", b"\xff\xfe", b"\xf0\x9f\x98\x80", b"!!python/object:os.system",
    b"*a", b"<<:", b"[" * 5000, b"9" * 5000,
)  # fmt: skip

ASAP = """<?xml version="1.0"?><ASAP_Annotations><Annotations><Annotation Name="a" Type="Polygon" PartOfGroup="Tumor">
<Coordinates><Coordinate Order="0" X="10" Y="10"/><Coordinate Order="1" X="90.5" Y="12"/><Coordinate Order="2" X="50"
Y="80"/></Coordinates></Annotation></Annotations><AnnotationGroups><Group Name="Tumor"/></AnnotationGroups>
</ASAP_Annotations>"""
GEOJSON = """{"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": {"type": "Polygon",
"coordinates": [[[10, 10], [90, 12], [50, 80], [10, 10]], [[40, 30], [50, 30], [45, 40], [40, 30]]]}, "properties":
{"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}}}, {"type": "Feature",
"geometry": {"type": "MultiPolygon", "coordinates": [[[[0, 0], [9, 0], [9, 9], [0, 0]]]]}, "properties": {}}]}"""
NCRF = '{"positive": [{"name": "a", "vertices": [[10, 10], [90, 12], [50, 80]]}], "negative": []}'
MANIFEST = """slide_id,path,mpp,label,patient_id,split
007,a.svs,0.5,tumour,p1,train
NA,b.tif,,normal,p2,test
é,c.svs,0.25,,,"""
TABLE = 'image,label,age,patient,fold\na.png,1,58,p1,train\nb.png,0,058Y,"p,2",val\nc.png,1,006M,p3,test\n'
CONFIG = "tiles:\n  mpp: 0.5\n  tile_px: 256\n  store: jpeg\nmaps:\n  threshold: 0.5\nrun:\n  scheduler: threads\n"
TRAINING = "data:\n  dataset: pcam\n  px: 96\nmodel:\n  arch: densenet_small\nstop:\n  epochs: 3\nloss:\n  gamma: 2\n"
TEXTS = {
    "manifest": ("a.csv", MANIFEST),
    "config": ("a.yaml", CONFIG),
    "training": ("b.yaml", TRAINING),
    "asap": ("a.xml", ASAP),
    "geojson": ("a.geojson", GEOJSON),
    "ncrf": ("a.json", NCRF),
    "table": ("t.csv", TABLE),
}


def write_samples(folder: Path) -> None:
    """The undamaged input of every kind, in a folder of its own."""
    for kind, (name, text) in TEXTS.items():
        (folder / kind).mkdir(parents=True)
        (folder / kind / name).write_text(text, encoding="utf-8")
    for kind in ("slide", "pixels", "store"):
        (folder / kind).mkdir()
    drawn = folder / "slide" / "drawn.tif"
    draw_slide(drawn, size_px=(400, 360), seed=2)
    rgb = tifffile.imread(drawn, series=0, level=0)
    scale = {"resolution": (20000, 20000), "resolutionunit": 3, "photometric": "rgb"}
    about = {"description": "Aperio Image Library\n|AppMag = 20|MPP = 0.5", "metadata": None}
    kinds = {
        "aperio.svs": about | {"tile": (128, 128), "compression": "jpeg", "photometric": "rgb"},
        "strips.tif": scale | {"rowsperstrip": 32, "compression": "lzw"},
        "deflate.tif": scale | {"tile": (128, 128), "compression": "deflate"},
        "a.ome.tif": scale | {"tile": (64, 64), "compression": "deflate", "bigtiff": True, "ome": True},
    }
    for name, how in kinds.items():
        tifffile.imwrite(folder / "slide" / name, rgb, **how)
    for path in (folder / "slide").iterdir():
        shutil.copy(path, folder / "pixels" / path.name)
    (folder / "mask").mkdir()
    mask = np.zeros((180, 200), np.uint8)
    mask[20:60, 30:90] = 1
    tifffile.imwrite(folder / "mask" / "a.tif", mask, tile=(64, 64), compression="deflate")
    slide = open_slide(drawn)
    with SlideReader(slide) as reader:
        tissue = find_tissue(reader, TissueSettings())
    grid = lay_grid(slide, tissue, tile_px=128, stride_px=128, mpp=slide.mpp_l0, min_tissue=0.05)
    store = create_store(folder / "store" / "a.zarr", grid, tissue, pixels=True, shard_tiles=64, key="k", settings={})
    write_shard(store, 0, *read_tiles(grid, 0, len(grid)))
    mark_complete(store)
    drop_reader(slide)
    shutil.copytree(shipped_models()["demo"], folder / "model")
    (folder / "model" / "README.md").unlink()


def use_slide(path: Path) -> None:
    """All that `tile` does with a slide, without a store; with its colour profile, and its own JPEGs."""
    slide = open_slide(path, mpp_default=0.5)
    reading = Reading(icc=True)
    try:
        with SlideReader(slide, reading) as reader:
            tissue = find_tissue(reader, TissueSettings())
        mpp: Mpp = working_mpp(slide, 0.5)
        grid = lay_grid(slide, tissue, tile_px=128, stride_px=128, mpp=mpp, min_tissue=0.05)
        read_tiles(grid, 0, min(len(grid), 16), reading)
        read_jpegs(grid, 0, min(len(grid), 16), quality=90)
    finally:
        drop_reader(slide)


def use_regions(path: Path) -> None:
    regions = read_regions(path, size_l0=(400, 360))
    share_in_boxes(regions, np.array([[0, 0, 100, 100]]))


def use_table(path: Path) -> None:
    table = read_table(path)
    table.optional(age="age", patient="patient")
    table.choices("label", {"0": 0, "1": 1})
    table.numbers("label")


def use_model(path: Path) -> None:
    build_model(load_checkpoint(path.parent))


def use_store(path: Path) -> None:
    """Whichever file of the store was damaged."""
    folder = next(parent for parent in path.parents if parent.name == "a.zarr")
    store = open_store(folder)
    store.mask()
    store.read(0, min(store.n_tiles, 64))


USES: dict[str, Callable[[Path], object]] = {
    "slide": use_slide,
    "pixels": use_slide,
    "manifest": find_slides,
    "config": load_config,
    "training": load_settings,
    "asap": use_regions,
    "geojson": use_regions,
    "ncrf": use_regions,
    "mask": use_regions,
    "table": use_table,
    "model": use_model,
    "store": use_store,
}


def mutated(data: bytes, chance: random.Random, places: list[range]) -> bytes:
    """One to three of: a bit, a byte, a number, a word, a part gone, twice, moved, or the end cut off."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3))):
        where = chance.choice(places)
        at = min(chance.choice(where) if len(where) else 0, max(len(out) - 1, 0))
        size = chance.choice((1, 2, 4, 8, 12, 64))
        what = chance.choice((0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8))
        if what == 0 and out:
            out[at] ^= 1 << chance.randrange(8)
        elif what == 1 and out:
            out[at] = chance.randrange(256)
        elif what in (2, 3):
            width = chance.choice((1, 2, 4, 8))
            number = chance.choice(NUMBERS) % 256**width
            out[at : at + width] = number.to_bytes(width, chance.choice(("little", "big")))
        elif what == 4:
            out[at:at] = chance.choice(WORDS)
        elif what == 5:
            del out[at : at + size]
        elif what == 6:
            out[at:at] = out[at : at + size]
        elif what == 7:
            other = chance.randrange(len(out) + 1)
            out[at : at + size] = out[other : other + size]
        elif chance.random() < 0.3:
            del out[at:]
    return bytes(out)


def hot_places(path: Path, kind: str) -> list[range]:
    """The bytes worth damaging: the tags of a slide, or its pixels; of weights the header half of the time."""
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        return [range(16), range(size), range(3000)]
    if kind not in ("slide", "pixels"):
        return [range(size)]
    with tifffile.TiffFile(path) as tiff:
        pixels = [
            range(start, start + count)
            for page in tiff.pages
            for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
    if kind == "pixels":
        return pixels
    marked = np.ones(size, bool)
    for part in pixels:
        marked[part.start : part.stop] = False
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marked.astype(np.int8), [0]])))
    return [range(a, b) for a, b in edges.reshape(-1, 2).tolist()]


def outcome(use: Callable[[Path], object], path: Path) -> str:
    """What came of it: "worked", "refused" with a message in one line, or the error that no one foresaw."""
    try:
        use(path)
    except WsiError as error:
        clear = bool(str(error).strip()) and "\n" not in str(error)
        return "refused" if clear else f"unclear {type(error).__name__} {error!r}"
    except Exception as error:
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        where = f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame else "?"
        return f"error {type(error).__name__} at {where}: {str(error)[:120]!r}"
    return "worked"


def damage(kind: str, folder: Path, first: int, count: int) -> None:
    """Work on mutations `first` to `first` + `count` of the files of one kind in `folder`, which end as they were."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    whole = {path: (path.read_bytes(), hot_places(path, kind)) for path in files}
    for number in range(first, first + count):
        chance = random.Random(f"{kind} {number}")
        path = chance.choice(files)
        data, places = whole[path]
        print(kind, number, "begun", path.name, flush=True)
        path.write_bytes(mutated(data, chance, places))
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        said = outcome(USES[kind], path)
        signal.setitimer(signal.ITIMER_REAL, 0)
        path.write_bytes(data)
        print(kind, number, said.replace("\n", " "), flush=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    warnings.simplefilter("ignore")
    for part in sys.argv[2:]:
        name, begin, number = part.split(":")
        damage(name, Path(sys.argv[1]) / name, int(begin), int(number))
