"""`demo`: draws slides with tumours of known area, runs everything, prints measured against true."""

import click
from click import IntRange


@click.command("demo")
@click.option("--out", default="runs/demo", show_default=True, type=click.Path(), help="The run folder.")
@click.option("--overwrite", is_flag=True, help="Remove what an earlier demo left in the folder.")
@click.option("--slides", "count", type=IntRange(1), default=4, show_default=True, help="Slides to draw.")
@click.option("--size", type=IntRange(1), default=6000, show_default=True, help="Side of a slide in px at 0.5 um/px.")
@click.option("--stride", default=128, show_default=True, help="Step from tile to tile in px.")
@click.option("--seed", type=IntRange(0), default=1, show_default=True)
def command(out: str, overwrite: bool, count: int, size: int, stride: int, seed: int) -> int:
    """Draw a small cohort of synthetic slides, run everything on it, print measured against true areas."""
    from pathlib import Path

    from wsi_pipeline.cli.job import work
    from wsi_pipeline.cli.model import load
    from wsi_pipeline.config import load_config
    from wsi_pipeline.pipeline.begin import open_run_folder
    from wsi_pipeline.slide.cohort import find_slides
    from wsi_pipeline.slide.synthetic import draw_cohort

    config = load_config(None, [f"tiles.stride_px={stride}"])
    folder = open_run_folder(out, overwrite=overwrite)
    slides = Path(out).absolute().with_name(Path(out).absolute().name + "-slides")
    slides.mkdir(parents=True, exist_ok=True)
    click.echo(f"drawing {count} slides of {size:,} x {size:,} px in {slides}", err=True)
    truths = draw_cohort(slides, slides=count, size_px=(size, size), mpp=0.5, seed=seed)
    classifier, about = load(config)
    entries = [entry for entry in find_slides(slides) if entry.path in {str(Path(t.path)) for t in truths}]
    code = work(entries, folder, config, classifier=classifier, model=about)
    click.echo("\nslide            true mm2   measured mm2 (95 % interval)   error")
    for truth in truths:
        _compare(folder.recorded(Path(truth.path).stem), truth.tumour_mm2, Path(truth.path).stem)
    return code


def _compare(found: tuple | None, true_mm2: float, name: str) -> None:
    if found is None:
        click.echo(f"{name:16} {true_mm2:8.3f}   not measured")
        return
    row = found[0]
    error = f"{100 * (row.cancer_mm2 / true_mm2 - 1):+.1f} %" if true_mm2 else f"{row.cancer_mm2:+.3f} mm2"
    span = f"({row.cancer_mm2_low:.3f} to {row.cancer_mm2_high:.3f})"
    click.echo(f"{name:16} {true_mm2:8.3f}   {row.cancer_mm2:8.3f} {span:20} {error:>10}")
