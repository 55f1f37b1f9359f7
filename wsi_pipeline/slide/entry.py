"""One slide of a cohort as it was named: its id, where it lies, what a manifest says of it."""

import re
import unicodedata
from dataclasses import dataclass

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069/\\:*?\"<>|]")  # controls also of direction
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)")  # what Windows takes no file of that name for
MAX_ID_BYTES = 120


@dataclass(frozen=True)
class SlideEntry:
    """One slide of a cohort: `path` is absolute or a URL, `mpp` (x, y) in um/px where the manifest gives it."""

    slide_id: str
    path: str
    mpp: tuple[float, float] | None = None
    label: str | None = None
    patient_id: str | None = None
    split: str | None = None


def name_key(slide_id: str) -> str:
    """Equal for ids that some file systems hold to be one name: by case, or by how an accent is written."""
    return unicodedata.normalize("NFC", slide_id).casefold()


def safe_id(name: str) -> str:
    """A name that stays one file name on every system."""
    encodable = name.encode("utf-8", "replace").decode()
    clean = _UNSAFE.sub("_", encodable).strip(" .")
    clean = f"_{clean}" if _DEVICES.match(clean) else clean
    return clean.encode()[:MAX_ID_BYTES].decode("utf-8", "ignore").strip(" .") or "slide"
