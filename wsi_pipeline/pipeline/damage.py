"""A damaged file that was replaced by a whole one: what was made of it before is done again.

Its fingerprint may be the same, so no key tells. Cutting reads shards with unreadable tiles once more in each run; here
is what scores alone know: the damage of JPEGs that were copied unseen, and that of a store of coordinates.
"""

from typing import Any

import numpy as np
import zarr

from wsi_pipeline.cluster import Cluster
from wsi_pipeline.errors import StoreError
from wsi_pipeline.scores.store import ATTRIBUTES, GROUP, read_scores
from wsi_pipeline.tiles.codecs import encode_flags
from wsi_pipeline.tiles.store import TileStore, open_store
from wsi_pipeline.tiles.tiler import any_readable


def missed_tiles(store: TileStore, model: str, key: str) -> np.ndarray:
    """The tiles that could not be read for the scores of a model and key; none where there are no such scores."""
    none = np.empty(0, np.intp)
    if store.status != "complete" or not model:
        return none
    try:
        scores = read_scores(store.path, model, key=key)
    except StoreError:
        return none
    if scores.missed is not None:
        return np.asarray(scores.missed, np.intp)
    missed = np.isnan(scores.probs).any(axis=1)  # older scores do not tell
    return np.flatnonzero(missed) if scores.windows is None else none


def flag_unreadable(store: TileStore, tiles: np.ndarray) -> None:
    """Write down that these tiles of a store of pixels could not be read, so that their shards are cut anew."""
    flags = store.flags(0, store.n_tiles).copy()
    shards = np.unique(tiles[flags[tiles]] // store.shard_tiles).tolist()
    flags[tiles] = False
    for shard in shards:
        start, stop = store.shards[shard]
        with store.place.writing():
            store.place.write(store.shard_files(shard)[1], [encode_flags(flags[start:stop], store.shard_tiles)])


def are_healed(store_path: str, tiles: np.ndarray, cluster: Cluster) -> bool:
    """Whether one of these tiles can be read by now: as the store tells, or, of coordinates, as the slide does."""
    store = open_store(store_path)
    if store.pixels:
        return bool(store.flags(0, store.n_tiles)[tiles].any())
    return bool(cluster.submit(any_readable, store_path, tiles.tolist()).result())


def take_back_scores(store: TileStore, model: str) -> None:
    """Mark the scores of a model incomplete: who asks for them next makes them again."""
    with store.place.writing():
        scores = zarr.open_array(store.place.zarr, path=f"{GROUP}/{model}", mode="r+", zarr_format=3)
        told: Any = scores.attrs[ATTRIBUTES]
        scores.attrs[ATTRIBUTES] = {**told, "complete": False}
