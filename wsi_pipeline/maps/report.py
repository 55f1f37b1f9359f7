"""report.html: one offline page for a run, a row a slide, from SlideResults and the pictures beside them."""

import os
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO
from math import isnan, nan, sqrt
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined
from PIL import Image

from wsi_pipeline.maps.atomic import replace_file
from wsi_pipeline.maps.palette import PROBABILITIES, ramp_rgba
from wsi_pipeline.maps.result import SlideResult
from wsi_pipeline.maps.wording import DASH, PICTURE_KEY, say_area, say_length, say_share, say_span

THUMBNAIL_PX = 320
SMALLEST_PX = 120
FULL_SIZE_SLIDES = 150  # beyond, pictures shrink so that the page stays near 10 MB
JPEG_QUALITY = 74
UNSCORED_SHARE = 0.01  # of the tissue; ragged borders of less are told in slides.csv alone

STATUS_WORDS = {
    "ok": ("done", "good"),
    "partial": ("partial", "fair"),
    "no_tissue": ("no tissue", "plain"),
    "no_mpp": ("no scale", "bad"),
    "unreadable": ("unreadable", "bad"),
    "failed": ("failed", "bad"),
}
REMEDIES = {
    "partial": "Some tiles could not be read; the hatched areas count as tissue, not as tumour. Copy the file again.",
    "no_tissue": "Nothing was scored. If there is tissue, look at the tissue picture and its thresholds.",
    "no_mpp": "Give the micrometres per pixel in a manifest column mpp, or with --mpp-default.",
    "unreadable": "Open the file in a viewer; if that fails too, copy or export it again.",
    "failed": "See the slide's log in the folder logs; repair the cause and run again with --resume.",
}
SIZE_CLASSES = {"negative": "negative", "itc": "ITC", "micro": "micro", "macro": "macro"}
FACT_WORDS = {
    "model": "Model",
    "threshold": "Threshold",
    "config_hash": "Config hash",
    "version": "Version",
    "date": "Date",
}

COLUMNS = (  # heading, what it means
    ("Tumour", "Area whose probability is at or above the threshold; below it the 95 % interval"),
    ("Tissue", "Area of tissue found on the slide; below it what of that has no probability"),
    ("Share", "Tumour area / tissue area, with its 95 % interval"),
    ("Longest lesion", "Longest diameter of a connected tumour area; below it its class and their number"),
    ("P(slide)", "Highest probability in the map: how sure the model is of the surest place"),
)


@dataclass(frozen=True)
class Picture:
    """A small copy inside the page (data URI, pixels) and the way to the full file."""

    uri: str
    width: int
    height: int
    link: str


@dataclass(frozen=True)
class Cell:
    """One number of a row: as shown, a finer line below it, and what to sort by (empty sorts last)."""

    text: str
    below: str = ""
    order: str = ""


@dataclass(frozen=True)
class Row:
    """A slide as the page shows it."""

    slide_id: str
    facts: tuple[str, ...]
    status: str
    status_word: str
    tone: str
    thumbnail: Picture | None
    overlay: Picture | None
    cells: tuple[Cell, ...]
    message: str
    remedy: str
    warnings: tuple[str, ...]


def write_report(
    folder: str | Path,
    rows: Sequence[SlideResult],
    *,
    pictures: Mapping[str, Mapping[str, Path]],
    run: Mapping[str, object],
) -> Path:
    """Write `folder`/report.html, which needs no network and no other file but for the full-size links.

    Args:
        rows: the slides, in the order to be shown; may be empty.
        pictures: slide id -> paths of its PNGs: "thumbnail" (or else "tissue") and "overlay"; any may lack.
        run: facts of the run, shown as given: name, model, model_note (a warning), threshold, config_hash,
            version, date; any other key follows under its own name.

    Raises:
        OSError: the page cannot be written; a picture that cannot be read is only left out.
    """
    side = _picture_side(len(rows))
    with ThreadPoolExecutor() as pool:  # decoding PNGs takes nearly all of the time, and frees the GIL
        shown = [pictures.get(result.slide_id, {}) for result in rows]
        small = list(pool.map(lambda paths: _inline_all(paths, Path(folder), side), shown))
    template = files(__package__).joinpath("report.html.jinja").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = page.from_string(template).render(
        name=str(run.get("name") or ""),
        facts=_facts(run),
        model_note=str(run.get("model_note") or ""),
        counts=_counts(rows),
        totals=_totals(rows),
        rows=[_row(result, pair) for result, pair in zip(rows, small, strict=True)],
        columns=COLUMNS,
        dash=DASH,
        ramp=_ramp_css(),
    )
    return replace_file(Path(folder) / "report.html", html.encode("utf-8", "replace"))


def _ramp_css() -> str:
    """The colour ramp as the stops of a CSS gradient."""
    colours = ramp_rgba(PROBABILITIES)
    return ", ".join(f"rgba({r:.0f}, {g:.0f}, {b:.0f}, {opacity:.2f})" for r, g, b, opacity in colours)


def _picture_side(slides: int) -> int:
    """Longest side of a picture in the page, px: smaller in large cohorts."""
    return max(SMALLEST_PX, min(THUMBNAIL_PX, round(THUMBNAIL_PX * sqrt(FULL_SIZE_SLIDES / max(1, slides)))))


def _inline_all(paths: Mapping[str, Path], folder: Path, side: int) -> tuple[Picture | None, Picture | None]:
    """Thumbnail and overlay of one slide; the tissue picture stands in for a thumbnail."""
    small = paths.get("thumbnail") or paths.get("tissue")
    full = paths.get("overlay")
    return _inline(small, folder, side), _inline(full, folder, side)


def _inline(path: Path | None, folder: Path, side: int) -> Picture | None:
    """A small JPEG of a picture file as a data URI; None where there is no file that can be read."""
    if path is None:
        return None
    try:
        with Image.open(path) as image:
            small = _cut_picture(image).convert("RGB")
    except (OSError, SyntaxError, ValueError):  # Pillow tells of a damaged PNG by any of them
        return None
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = BytesIO()
    small.save(stream, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    uri = f"data:image/jpeg;base64,{b64encode(stream.getvalue()).decode('ascii')}"
    link = quote(Path(os.path.relpath(path, folder)).as_posix(), errors="surrogateescape")
    return Picture(uri, small.width, small.height, link)


def _cut_picture(image: Image.Image) -> Image.Image:
    """The slide's own part of one of our PNGs, without the page around it; any other image as it is."""
    box = str(image.info.get(PICTURE_KEY, "")).split()
    if len(box) != 4:
        return image
    left, top, width, height = map(int, box)
    return image.crop((left, top, left + width, top + height))


def _row(result: SlideResult, pictures: tuple[Picture | None, Picture | None]) -> Row:
    word, tone = _status_words(result.status)
    return Row(
        slide_id=result.slide_id,
        facts=tuple(_slide_facts(result)),
        status=result.status,
        status_word=word,
        tone=tone,
        thumbnail=pictures[0],
        overlay=pictures[1],
        cells=_cells(result),
        message=result.message,
        remedy=_remedy(result),
        warnings=tuple(result.warnings),
    )


def _remedy(result: SlideResult) -> str:
    """What to do; a message of our own errors says it already, that of a failure may not."""
    told = result.message and result.status != "failed"
    return "" if told else REMEDIES.get(result.status, "")


def _slide_facts(result: SlideResult) -> list[str]:
    """The small lines below a slide's name."""
    named = {"patient": result.patient_id, "label": result.label, "split": result.split}
    facts = [f"{name} {value}" for name, value in named.items() if value]
    if not isnan(result.mpp_x):
        same = abs(result.mpp_x - result.mpp_y) < 5e-5
        scale = f"{result.mpp_x:.4g}" if same else f"{result.mpp_x:.4g} × {result.mpp_y:.4g}"
        facts.append(f"{scale} µm/px ({result.mpp_source})")
    if result.tiles:
        facts.append(f"{result.tiles:,} tiles")
    if result.unreadable_tiles:
        facts.append(f"{result.unreadable_tiles:,} tiles unreadable")
    return facts


def _cells(result: SlideResult) -> tuple[Cell, ...]:
    """The numbers of a row, in the order of COLUMNS."""
    unread = f"{say_area(result.unread_mm2)} not read" if result.unread_mm2 > 0 else ""
    much = result.unscored_mm2 >= UNSCORED_SHARE * result.tissue_mm2 > 0  # False for NaN
    unscored = f"{say_area(result.unscored_mm2)} under no tile" if much else ""
    scored = not isnan(result.probability)
    area_span = say_span(result.cancer_mm2_low, result.cancer_mm2_high, unit="mm²")
    share_span = say_span(100 * result.share_low, 100 * result.share_high, unit="%")
    return (
        _cell(result.cancer_mm2 if scored else nan, say_area, area_span),
        _cell(result.tissue_mm2, say_area, ", ".join(filter(None, (unread, unscored)))),
        _cell(result.share if scored else nan, say_share, share_span),
        _lesion_cell(result) if scored else Cell(DASH),
        _cell(result.probability, "{:.3f}".format),
    )


def _cell(value: float, say: Callable[[float], str], below: str = "") -> Cell:
    return Cell(DASH) if isnan(value) else Cell(say(value), below, repr(float(value)))


def _lesion_cell(result: SlideResult) -> Cell:
    """The longest lesion, its class by length, and how many there are."""
    name = SIZE_CLASSES.get(result.metastasis_class, result.metastasis_class)
    if not result.lesions:
        return Cell("none", name, "0")
    plural = "" if result.lesions == 1 else "s"
    below = f"{name}, {result.lesions:,} lesion{plural}".removeprefix(", ")
    return _cell(result.longest_um, say_length, below)


def _facts(run: Mapping[str, object]) -> list[tuple[str, str]]:
    """Facts of the run for the head: the known ones first, then any other under its own name."""
    others = [key for key in run if key not in FACT_WORDS and key not in ("name", "model_note")]
    words = FACT_WORDS | {key: key.replace("_", " ").capitalize() for key in others}
    return [(words[key], str(run[key])) for key in words if run.get(key) not in (None, "")]


def _counts(rows: Sequence[SlideResult]) -> list[tuple[str, str, str, int]]:
    """(status, word, tone, number) for every status there is, in the order of STATUS_WORDS."""
    counts = Counter(result.status for result in rows)
    known = [status for status in STATUS_WORDS if counts[status]]
    return [(status, *_status_words(status), counts[status]) for status in dict.fromkeys([*known, *counts])]


def _status_words(status: str) -> tuple[str, str]:
    """The word shown for a status, and its tone."""
    return STATUS_WORDS.get(status, (status.replace("_", " "), "plain"))


def _totals(rows: Sequence[SlideResult]) -> list[tuple[str, str]]:
    """What the cohort comes to: slides, tissue, tumour, slides with tumour."""
    with_tumour = sum(result.lesions > 0 for result in rows)
    return [
        ("slides", f"{len(rows):,}"),
        ("with tumour", f"{with_tumour:,}"),
        ("tissue", say_area(_total([result.tissue_mm2 for result in rows]))),
        ("tumour", say_area(_total([result.cancer_mm2 for result in rows if not isnan(result.probability)]))),
    ]


def _total(values: Sequence[float]) -> float:
    """Sum of the values that are known; NaN where none is."""
    known = [value for value in values if not isnan(value)]
    return sum(known) if known else nan
