"""Whole files or none: bytes go to a temporary name beside the target and are renamed onto it."""

import os
from pathlib import Path
from uuid import uuid4

from wsi_pipeline.disk import writing


def replace_file(path: str | Path, data: bytes) -> Path:
    """Write `data` to `path` whole: no reader sees half of it; on failure raises StoreError and leaves nothing.

    The temporary name is short and hidden: a slide's own name may be as long as the disk allows.
    """
    path = Path(path)
    partial = path.with_name(f".{uuid4().hex}.partial")
    with writing(path, len(data)):
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return path
