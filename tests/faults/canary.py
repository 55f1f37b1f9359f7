"""Where in a folder of outputs a word stands: file names, raw bytes, and all that is packed or compressed in them."""

import base64
import gzip
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import tifffile
import zarr
from PIL import Image


def found_in(folder: Path, *words: str) -> list[str]:
    """`file: word` for every file below the folder that holds one of the words, in whatever case or encoding."""
    hits = []
    for name, data in texts(folder):
        low = data.lower()
        hits += [
            f"{name}: {word}"
            for word in words
            if any(word.lower().encode(code) in low for code in ("utf-8", "utf-16-le", "utf-16-be"))
        ]
    return sorted(set(hits))


def texts(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(file, bytes) of each file: its name, what lies on the disk, and what it says once it is unpacked."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        yield name, name.encode()
        if path.is_symlink():
            yield name, str(path.readlink()).encode()
        elif path.is_file():
            yield from ((name, data) for data in (path.read_bytes(), *unpacked(path)))
        elif path.suffix == ".zarr":
            yield from ((f"{name}/{array}", data) for array, data in arrays(path))


def unpacked(path: Path) -> Iterator[bytes]:
    """What a file says once it is decompressed or parsed."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        yield gzip.decompress(data)
    elif path.suffix == ".parquet":
        table = pq.read_table(path)
        yield repr((table.schema.metadata, table.to_pydict())).encode()
    elif path.suffix == ".png":
        with Image.open(path) as image:
            yield repr(image.info).encode() + image.tobytes()
    elif path.suffix == ".tif":
        with tifffile.TiffFile(path) as tiff:
            yield repr([[tag.value for tag in page.tags] for page in tiff.pages]).encode()
    elif path.suffix == ".gpkg":
        with sqlite3.connect(path) as database:
            yield "\n".join(database.iterdump()).encode()
    elif path.suffix == ".html":
        for packed in re.findall(rb"base64,([A-Za-z0-9+/=]+)", data):
            yield base64.b64decode(packed)


def arrays(store: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes of all its values) of every array of numbers in a Zarr group."""
    for folder in sorted(path.parent for path in store.rglob("zarr.json")):
        if '"node_type": "array"' in (folder / "zarr.json").read_text() and folder.name != "jpegs":
            values = zarr.open_array(folder, mode="r")[...]
            yield folder.name, np.ascontiguousarray(values).tobytes()
