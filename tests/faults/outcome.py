"""What a run folder holds, as hashes that two runs of the same must share; times are left out."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import rasterio
import zarr

TIMES = ("seconds", "model_seconds")


def outcome(folder: Path) -> dict[str, str]:
    """A hash for each array of each store, each map file and the table of slides."""
    found: dict[str, str] = {}
    for store in sorted((folder / "tiles").glob("*.zarr")):
        group = zarr.open_group(store, mode="r")
        for name, array in group.members(max_depth=None):
            if isinstance(array, zarr.Array):
                found[f"{store.name}/{name}"] = _hash(np.ascontiguousarray(array[...]).tobytes())
    for path in sorted((folder / "maps").iterdir()):
        if path.suffix == ".tif":
            with rasterio.open(path) as heatmap:
                found[path.name] = _hash(heatmap.read().tobytes())
        else:
            found[path.name] = _hash(path.read_bytes())
    rows = list(csv.DictReader((folder / "slides.csv").read_text(encoding="utf-8").splitlines()))
    found["slides.csv"] = _hash(json.dumps([{k: v for k, v in row.items() if k not in TIMES} for row in rows]).encode())
    return found


def leftovers(folder: Path) -> list[str]:
    """Files that only an interrupted write leaves behind."""
    return [str(path) for path in folder.rglob("*") if path.name.endswith((".partial", ".tmp"))]


def shards(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every shard of tiles that is there: a shard done again has others."""
    paths = (path for path in folder.glob("tiles/*.zarr/tiles/c/**/*") if path.is_file())
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths if path.suffix != ".partial"}


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
