"""Tiles of slides -> the ranges of a network's layers on them, and with them a checkpoint that scores in int8."""

import hashlib
import statistics
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import thread_time

import numpy as np

from wsi_pipeline.errors import ConfigError, ModelError
from wsi_pipeline.learn.model.checkpoint import Checkpoint
from wsi_pipeline.learn.model.probabilities import probabilities
from wsi_pipeline.scores.cores import cores
from wsi_pipeline.scores.fit import check_fit, slide_mpp
from wsi_pipeline.scores.graph import densenet_graph
from wsi_pipeline.scores.nodes import Nodes
from wsi_pipeline.scores.onnx_engine import OnnxEngine, onnx_session
from wsi_pipeline.tiles.store import TileStore, open_store

IMAGES = 256
_DIGITS = 4  # kept of a range, so that it is the same on processors whose floats differ in the last bit
_TIMED, _ROUNDS = 6, 3  # tiles a run, runs

Ranges = dict[str, tuple[float, float]]  # least and most value of each layer, by its name


@dataclass(frozen=True, eq=False)
class Sample:
    """Tiles (n, px, px, 3) uint8 RGB, of how many slides they are, and a digest of which ones."""

    tiles: np.ndarray = field(repr=False)
    slides: int
    digest: str


def to_int8(checkpoint: Checkpoint, sample: Sample) -> Checkpoint:
    """The checkpoint with the ranges of its layers on the tiles of a sample, see `take_tiles`.

    `about` tells of how many tiles and slides they are (no names), and how far those tiles' probabilities moved;
    others may move further. Raises ModelError where it is int8 already.
    """
    if checkpoint.ranges is not None:
        raise ModelError(f"model {checkpoint.id} is int8 already; give the float32 one that it was made from")
    ranges, before = find_ranges(checkpoint, sample.tiles)
    count, note = len(sample.tiles), checkpoint.note
    made = replace(checkpoint, ranges=ranges, note=f"{note}{'; ' if note else ''}int8, ranges of {count} tiles")
    session = onnx_session(densenet_graph(made, tiles=True), threads=cores())
    after = np.concatenate([session.run(["logits"], {"pixels": tile[None]})[0] for tile in sample.tiles])
    moved = np.abs(_probabilities(checkpoint, after) - _probabilities(checkpoint, before))
    told = {"of": checkpoint.id, "tiles": count, "slides": sample.slides, "digest": sample.digest}
    told |= {"moved_mean": float(f"{moved.mean():.2g}"), "moved_most": float(f"{moved.max():.2g}")}
    return replace(made, about=checkpoint.about | {"int8": told})


def find_ranges(checkpoint: Checkpoint, tiles: np.ndarray) -> tuple[Ranges, np.ndarray]:
    """The ranges of the layers that int8 rounds, over tiles (n, px, px, 3) uint8, and the logits (n, C) in float32.

    Least and most of all: with the mean over tiles of each, single probabilities moved by 0.17 instead of 0.013.
    """
    nodes = _Watched(checkpoint.state)
    session = onnx_session(densenet_graph(checkpoint, tiles=True, nodes=nodes), threads=cores())
    logits, found = [], []
    for tile in tiles:
        said, *ends = session.run(nodes.outputs, {"pixels": tile[None]})
        logits.append(said)
        found.append(ends)
    ends = np.array(found, np.float64).reshape(len(tiles), -1, 2)
    pairs = zip(ends[..., 0].min(axis=0), ends[..., 1].max(axis=0), strict=True)
    return {n: (_short(a), _short(b)) for n, (a, b) in zip(nodes.layers, pairs, strict=True)}, np.concatenate(logits)


def speed_gain(exact: Checkpoint, made: Checkpoint, tiles: np.ndarray) -> float:
    """How many tiles of `made` take the processor as long as one of `exact`: the median of runs in turns.

    1.4 to 1.5 of a DenseNet-121 on a processor without VNNI, 0.8 of the small model in the box: its layers are
    too narrow to make up for the rounding between them.
    """
    engines = [OnnxEngine(checkpoint) for checkpoint in (exact, made)]
    seconds = [[_seconds(engine, tiles[:_TIMED]) for engine in engines] for _ in range(_ROUNDS + 1)]
    return statistics.median(plain / integer for plain, integer in seconds[1:])  # the first built the graphs


def take_tiles(checkpoint: Checkpoint, where: str | Path, images: int = IMAGES) -> Sample:
    """Up to `images` readable tiles, spread evenly over the complete stores of a run folder, or over one store.

    Raises ConfigError where there are none, ModelError where they are not as the model wants them.
    """
    if images < 1:
        raise ConfigError(f"images: got {images}; give at least 1 tile")
    stores = _stores(Path(where), images)
    for store in stores:
        _refuse_unfit(store, checkpoint)
    first = np.cumsum([0, *(store.n_tiles for store in stores)])
    tiles, keys, digest = [], set(), hashlib.sha256()
    for place in _spread(int(first[-1]), images):
        number = int(np.searchsorted(first, place, "right")) - 1
        store, row = stores[number], int(place - first[number])
        read, readable = store.read(row, row + 1)
        if readable[0]:
            tiles.append(read[0])
            keys.add(store.key)
            digest.update(f"{store.key} {row}\n".encode())
    if not tiles:
        raise ConfigError(f"{where}: no readable tile in {len(stores)} complete stores; cut some with `tile` or `run`")
    return Sample(np.stack(tiles), len(keys), digest.hexdigest()[:12])


def _stores(where: Path, most: int) -> list[TileStore]:
    """The store that lies there, or those of a run folder; not more than tiles are wanted."""
    if not where.is_dir():
        raise ConfigError(f"{where}: no such folder; give a run folder, or one of the stores in its tiles/")
    if (where / "zarr.json").is_file():
        return [open_store(where)]
    paths = sorted((where / "tiles").glob("*.zarr"))
    found = [open_store(paths[place], complete=False) for place in _spread(len(paths), most)]
    return [store for store in found if store.status == "complete"]


def _refuse_unfit(store: TileStore, checkpoint: Checkpoint) -> None:
    """ModelError as of `check_fit`, which tells of knobs of a run, with how to come to tiles that fit."""
    mpp = slide_mpp(checkpoint)
    try:
        check_fit(store.grid, checkpoint)
    except ModelError as error:
        have = str(error).partition(";")[0]
        knobs = f"--set tiles.mpp={mpp:.4g} --set tiles.tile_px={checkpoint.input_px}"
        raise ModelError(f"{have}; make a run with {knobs} and give it as --tiles") from None


def _spread(length: int, most: int) -> np.ndarray:
    """Up to `most` of `length` places, evenly spread, ascending."""
    return (np.arange(count := min(most, length)) * length + length // 2) // max(1, count)


def _seconds(engine: OnnxEngine, tiles: np.ndarray) -> float:
    """Of this thread's processor, for the tiles one by one."""
    began = thread_time()
    for tile in tiles:
        engine.forward(tile[None], tiles.shape[1])
    return thread_time() - began


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _probabilities(checkpoint: Checkpoint, logits: np.ndarray) -> np.ndarray:
    exclusive, prior, temperature = checkpoint.exclusive, checkpoint.prior, checkpoint.temperature
    return probabilities(logits, exclusive=exclusive, prior=prior, temperature=temperature)


class _Watched(Nodes):
    """Float32, with the least and the most value of each layer as outputs, in this order."""

    def __init__(self, state: dict[str, np.ndarray]) -> None:
        super().__init__(state)
        self.layers: list[str] = []

    def kept(self, x: str, name: str) -> str:
        self.layers.append(name)
        self.outputs += [self.add("ReduceMin", x, keepdims=0), self.add("ReduceMax", x, keepdims=0)]
        return x
