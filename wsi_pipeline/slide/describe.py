"""What a file says of itself (Facts) and what the user says of it -> Slide, a plain value for all that follows."""

from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.errors import ScaleError, SlideError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.slide.files import hash_ends, shown
from wsi_pipeline.slide.scale import contradicts_objective, resolve_mpp

Pair = tuple[float, float]

SAME_SCALE = 0.02  # scales that differ by less are one: pixels are taken as they are, not resampled
MAX_SIDE_PX = 2**22  # a metre of glass at 0.25 um/px
_GIANT_PX = 10**8


@dataclass(frozen=True)
class Slide:
    """What a slide file is, without an open handle.

    Attributes:
        path: absolute; links keep their own name; a URL stays one, wherever its copy lies.
        size_l0: (width, height) of level 0.
        mpp_l0: um/px of level 0, x and y apart, with its source.
        level_sizes: (width, height) of each level, finest first.
        level_downsamples: level-0 pixels per pixel of each level.
        bounds_l0: (x, y, width, height) of the scanned part, where the file tells it.
        fingerprint: quickhash-1 of OpenSlide, or a hash of the file's ends, with its size in bytes.
        backend: "openslide" or "tifffile".
    """

    id: str
    path: str
    size_l0: tuple[int, int]
    mpp_l0: Mpp
    level_sizes: tuple[tuple[int, int], ...]
    level_downsamples: tuple[float, ...]
    bounds_l0: tuple[int, int, int, int] | None
    fingerprint: str
    vendor: str
    backend: str
    codec: str
    objective_power: float | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What a file says of itself; the fields as in Slide.

    Attributes:
        stated_mpp: (x, y) um/px in the vendor's own words; `resolution_mpp`: by TIFF resolution tags.
        quickhash: of OpenSlide, where it gives one.
    """

    vendor: str
    backend: str
    codec: str
    level_sizes: tuple[tuple[int, int], ...]
    level_downsamples: tuple[float, ...]
    stated_mpp: Pair | None = None
    resolution_mpp: Pair | None = None
    objective_power: float | None = None
    bounds_l0: tuple[int, int, int, int] | None = None
    quickhash: str | None = None
    warnings: tuple[str, ...] = ()


def describe(path: Path, facts: Facts, *, slide_id: str | None, mpp: Pair | None, mpp_default: float | None) -> Slide:
    """A Slide of these facts; `mpp` is the manifest's (x, y).

    Raises ScaleError where no scale can be trusted, SlideError for a size that no slide has.
    """
    if max(facts.level_sizes[0]) > MAX_SIDE_PX:
        width, height = facts.level_sizes[0]
        raise SlideError(f"{shown(path)}: {width:,} x {height:,} px cannot be; the file is damaged, get a fresh copy")
    scale = resolve_mpp(
        manifest=mpp,
        vendor=facts.stated_mpp,
        tiff=facts.resolution_mpp,
        default=mpp_default,
        objective_power=facts.objective_power,
        name=shown(path),
    )
    return Slide(
        id=slide_id or path.stem,
        path=str(path),
        size_l0=facts.level_sizes[0],
        mpp_l0=scale,
        level_sizes=facts.level_sizes,
        level_downsamples=facts.level_downsamples,
        bounds_l0=facts.bounds_l0,
        fingerprint=f"{facts.quickhash or hash_ends(path)}-{path.stat().st_size}",
        vendor=facts.vendor,
        backend=facts.backend,
        codec=facts.codec,
        objective_power=facts.objective_power,
        warnings=_warnings(facts, scale),
    )


def working_mpp(slide: Slide, mpp: float, *, tolerance: float = SAME_SCALE, reductions: tuple[int, ...] = (1,)) -> Mpp:
    """The scale that tiles are really cut at: a level's own within `tolerance` of `mpp`, else `mpp` itself.

    What the decoder makes of a level, reduced by one of `reductions`, is as good as a level: its pixels are taken as
    they are, too. Raises ScaleError where the slide has nothing as fine as `mpp`: pixels are never invented.
    """
    own = [Mpp(slide.mpp_l0.x * by, slide.mpp_l0.y * by, "level") for by in slide.level_downsamples]
    finer = [scale for scale in own if max(scale.x, scale.y) <= mpp * (1 + tolerance)]
    if finer:  # of its coarsest, as `read_box` takes that one
        own += [Mpp(by * finer[-1].x, by * finer[-1].y, "reduced") for by in reductions if by > 1]
    off = [max(abs(scale.x / mpp - 1), abs(scale.y / mpp - 1)) for scale in own]
    near = [scale for scale, by in zip(own, off, strict=True) if by <= tolerance + 1e-9]  # 1.071 for 1.05 is 2 % too
    if near:
        return min(near, key=lambda scale: (scale.source != "level", abs(scale.mean / mpp - 1)))
    finest = max(own[0].x, own[0].y)
    if finest > mpp * (1 + tolerance):
        raise ScaleError(
            f"{shown(Path(slide.path))}: {mpp:g} um/px asked for, its finest is {finest:.4g}; "
            f"use --set tiles.mpp={finest:.4g} or coarser"
        )
    return Mpp(mpp, mpp, "resampled")


def _warnings(facts: Facts, mpp: Mpp) -> tuple[str, ...]:
    found = list(facts.warnings)
    if mpp.source == "default":
        found.append(f"no mpp in the file: the default of {mpp.x:g} um/px was taken")
    if mpp.source in ("manifest", "default") and contradicts_objective(mpp, facts.objective_power):
        whose = f"mpp {mpp.mean:.4g} of the {mpp.source}"
        found.append(f"{whose} does not fit the objective of {facts.objective_power:g}x")
    width, height = facts.level_sizes[0]
    if len(facts.level_sizes) == 1 and width * height > _GIANT_PX:
        found.append("a single level: overviews are slow to read")
    return tuple(found)
