"""Every knob of a run, its unit and range beside it.

A stage never sees these models: the pipeline hands it plain values. What a knob changes decides
what a resumed run does again, see keys.py.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from wsi_pipeline.knobs import Section, knob, load_knobs

_BYTES = r"^\d+(\.\d+)? ?[KMGT]i?B$"  # 16 GB, 500MiB
_ONE_LINE = r"^[^\r\n]*$"


class SlideKnobs(Section):
    """How slides are opened."""

    mpp_default: float | None = knob(
        None, "scale of slides that state none; a file's own scale goes first", unit="um/px", ge=0.05, le=20
    )
    icc: bool = knob(False, "convert colours to sRGB with the slide's ICC profile, where it has one")
    reader: Literal["auto", "openslide"] = knob(
        "auto",
        "JPEG tiles of Aperio, Philips and generic TIFF are read directly, same pixels; or OpenSlide for all it opens",
    )
    reduced_decode: bool = knob(
        False,
        "reduce by 2, 4, 8 in the JPEG decoder where no level fits: 8 times as fast as by Lanczos, but other pixels; "
        "the demo model's probabilities moved by 0.0002 on average and 0.014 at most on drawn slides, by 0.008 and "
        "0.41 on real tissue, which it does not know: try it with your own model",
    )


class TissueKnobs(Section):
    """How tissue is told from glass, on a thumbnail."""

    mpp: float = knob(8.0, "scale of the thumbnail", unit="um/px", ge=1, le=64)
    min_piece_mm2: float = knob(
        0.02, "smaller pieces are dropped, none of 5 % of the slide; 0 keeps all", unit="mm2", ge=0
    )
    max_hole_mm2: float = knob(0.02, "smaller holes are filled; 0 fills none", unit="mm2", ge=0)
    remove_pen: bool = knob(True, "take pen marks (blue, green, red, black) out")


class TileKnobs(Section):
    """The grid of tiles and their store."""

    mpp: float = knob(0.5, "scale of the tiles; within 2 % of a level, its own pixels", unit="um/px", ge=0.05, le=20)
    tile_px: int = knob(256, "side of a tile", unit="px", ge=32, le=4096)
    stride_px: int | None = knob(
        None,
        "step from tile to tile; tile_px when not given; less overlaps, more leaves gaps",
        unit="px",
        ge=1,
        le=65536,
    )
    min_tissue: float = knob(0.05, "a tile is kept from this share of tissue on", unit="share", ge=0, le=1)
    edge: Literal["pad", "inside"] = knob("pad", "tiles over the slide's edge: padded with white, or left out")
    store: Literal["pixels", "jpeg", "coordinates"] = knob(
        "pixels",
        "keep the pixels without loss, or as JPEG (the slide's own bytes where a tile is one of its own), or only "
        "where they are (read from the slide again when scoring)",
    )
    jpeg_quality: int = knob(90, "of tiles that are encoded for tiles.store=jpeg", unit="1-100", ge=1, le=100)
    shard_tiles: int = knob(64, "tiles in one file of the store, and in one task", unit="tiles", ge=1, le=4096)
    max_unreadable: float = knob(0.05, "a slide fails above this share of unreadable tiles", unit="share", ge=0, le=1)


class ModelKnobs(Section):
    """Which classifier, and how it is run."""

    checkpoint: str = knob("demo", "a folder or file of ours, or the name of a model in the box")
    resample: bool = knob(False, "allow tiles of another size or scale to be reduced to the model's")
    batch: int | None = knob(
        None, "tiles scored at once; 16 on a CPU and 256 on a GPU when not given", unit="tiles", ge=1, le=4096
    )
    device: str = knob("auto", "auto, cpu, cuda or cuda:N")
    engine: Literal["auto", "torch", "onnx"] = knob(
        "auto", "what computes: ONNX Runtime on a CPU and torch on a GPU, or the one named; the same scores"
    )
    precision: Literal["auto", "float32", "bfloat16"] = knob(
        "auto",
        "what it computes in: float32 on a CPU, half precision on a GPU, or the one named; bfloat16 needs a CPU or GPU "
        "with instructions for it, and moves single probabilities by up to 0.01",
    )
    adaptive: bool = knob(
        False,
        "where tiles overlap, score a lattice without overlap, then only where the outcome is open, and fill in the "
        "rest; cancer narrower than a tile can be missed",
    )
    adaptive_tolerance: float = knob(
        0.1, "neighbours whose P(cancer) differ by more are refined", unit="probability", ge=0, le=1
    )
    dense: bool = knob(
        False,
        "from tiles side by side, a map at a stride of 32 px for one pass over them; near a tile's border the "
        "scores differ from those of windows scored by themselves",
    )
    compiled: bool = knob(False, "torch: compile the network; a minute at the start, faster from then on")
    decode: Literal["cpu", "gpu"] = knob(
        "cpu",
        "where the JPEGs of tiles.store=jpeg are decoded for scoring; on a gpu by nvImageCodec (pip install "
        "'wsi-pipeline[gpu]'), whose pixels differ by rounding, and which lets damage pass that the cpu's refuses",
    )


class MapKnobs(Section):
    """From scores to areas."""

    threshold: float | None = knob(None, "cancer from this probability on; the model's own when not given", ge=0, le=1)
    min_lesion_um2: float = knob(5000.0, "smaller specks are dropped; 0 keeps all", unit="um2", ge=0)
    max_hole_um2: float = knob(20000.0, "smaller holes are filled; 0 fills none", unit="um2", ge=0)


class OutputKnobs(Section):
    """Which files are written beside the tables; switched off, they are not missed by --resume."""

    heatmap: bool = knob(True, "likelihood map as a Cloud-Optimised GeoTIFF with a QGIS style")
    overlay: bool = knob(True, "overlay and tissue outline as PNG")
    geojson: bool = knob(True, "lesions and tissue outline for QuPath")
    asap: bool = knob(True, "lesions as ASAP XML, in the slide's full frame")
    tiles_geojson: bool = knob(True, "every scored tile for QuPath, gzipped")
    geopackage: bool = knob(True, "lesions and tissue for QGIS")
    parquet: bool = knob(True, "a table of all tiles")
    full_frame: bool = knob(False, "GeoJSON in the slide's full frame, for tools that do not crop to its bounds")


class RunKnobs(Section):
    """The machines; nothing here changes a result."""

    workers: int | None = knob(None, "reading processes; one a core when not given", ge=1, le=1024)
    scheduler: str = knob("local", "local (processes), threads, slurm, or tcp://host:port of a Dask scheduler")
    stall_s: float = knob(
        600.0,
        "a slide fails once a worker was at one piece of it for so long (a network path that stalls); its process is "
        "replaced, a thread of run.scheduler=threads is left behind",
        unit="s",
        ge=1,
        le=86400,
    )
    cache_dir: str | None = knob(
        None,
        "folder of this machine for copies of slides at URLs and for what is written to a run folder at a URL; "
        "$WSI_PIPELINE_CACHE_DIR, or a folder of the user's among the temporary files, when not given",
    )
    cache_gb: float | None = knob(
        None,
        "copies of slides kept there, those used longest ago removed first; never one in use; "
        "$WSI_PIPELINE_CACHE_GB or 100 when not given",
        unit="GB",
        ge=0,
    )
    limit: int | None = knob(None, "only the first so many slides", unit="slides", ge=1)


class SlurmKnobs(Section):
    """The jobs of run.scheduler=slurm; nothing here changes a result."""

    jobs: int = knob(4, "jobs that read", ge=1, le=1000)
    cores: int = knob(8, "of a job that reads: so many processes", ge=1, le=256)
    memory: str = knob("16 GB", "of a job that reads", pattern=_BYTES)
    gpu_jobs: int = knob(0, "jobs that score, each with one GPU; with 0 this process scores", ge=0, le=1000)
    gpu_cores: int = knob(4, "of a job that scores", ge=1, le=256)
    gpu_memory: str = knob("16 GB", "of a job that scores, its GPU's own aside", pattern=_BYTES)
    gpu_request: str = knob("--gres=gpu:1", "how sbatch is asked for one GPU", pattern=_ONE_LINE)
    queue: str | None = knob(None, "partition; the cluster's default when not given", pattern=_ONE_LINE)
    gpu_queue: str | None = knob(None, "partition of the jobs that score; queue when not given", pattern=_ONE_LINE)
    account: str | None = knob(None, "account to charge", pattern=_ONE_LINE)
    walltime: str = knob("12:00:00", "of a job; the run must end before", pattern=r"^(\d+-)?\d{1,2}:\d{2}:\d{2}$")
    interface: str | None = knob(None, "network between nodes, such as ib0", pattern=_ONE_LINE)
    prologue: tuple[str, ...] = knob((), "lines of shell before a worker starts, such as module load cuda")
    wait_min: float = knob(30.0, "until the first job must have started", unit="min", gt=0, le=10080)


class Config(Section):
    """All knobs of `run`."""

    slide: SlideKnobs = SlideKnobs()
    tissue: TissueKnobs = TissueKnobs()
    tiles: TileKnobs = TileKnobs()
    model: ModelKnobs = ModelKnobs()
    maps: MapKnobs = MapKnobs()
    outputs: OutputKnobs = OutputKnobs()
    run: RunKnobs = RunKnobs()
    slurm: SlurmKnobs = SlurmKnobs()

    @model_validator(mode="after")
    def _scheduler_known(self) -> "Config":
        scheduler = self.run.scheduler
        if scheduler not in ("local", "threads", "slurm") and "://" not in scheduler:
            raise ValueError(f"run.scheduler: got {scheduler!r}; use local, threads, slurm or tcp://host:port")
        return self

    @model_validator(mode="after")
    def _dense_alone(self) -> "Config":
        if self.model.dense and (self.model.adaptive or self.stride_px != self.tiles.tile_px):
            raise ValueError("model.dense: has a stride of 32 px of its own; leave tiles.stride_px and model.adaptive")
        return self

    @model_validator(mode="after")
    def _jpegs_to_decode(self) -> "Config":
        if self.model.decode == "gpu" and self.tiles.store != "jpeg":
            raise ValueError(
                f"model.decode=gpu: decodes JPEGs, tiles.store is {self.tiles.store}; set tiles.store=jpeg, or leave it"
            )
        return self

    @property
    def stride_px(self) -> int:
        """Step from tile to tile in pixels at the tiles' scale."""
        return self.tiles.stride_px or self.tiles.tile_px


def load_config(
    path: str | Path | None = None,
    overrides: Iterable[str] = (),
    *,
    under: Mapping[str, Mapping[str, Any]] | None = None,
) -> Config:
    """The resolved configuration: defaults, then those `under` all others, the YAML file, `section.knob=value` strings.

    Raises ConfigError as `load_knobs` does.
    """
    return load_knobs(Config, path, overrides, under=under, listing="`python -m wsi_pipeline config` lists all")
