"""`explain`: pictures of where in an image a checkpoint sees a class, and whether it points into given boxes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import numpy as np

    from wsi_pipeline.learn.model.checkpoint import Checkpoint

_BOXES_PX = 1024  # side of the originals that the boxes of ChestX-ray14 are drawn on


@click.command("explain")
@click.argument("images", nargs=-1, required=True, type=click.Path())
@click.option("--checkpoint", required=True, help="A training folder, a checkpoint, or a model in the box.")
@click.option("--out", required=True, type=click.Path(), help="Folder of the pictures.")
@click.option("--class", "class_name", help="The class to look for (default: the likeliest, or those with boxes).")
@click.option("--boxes", type=click.Path(), help="CSV of boxes (BBox_List of ChestX-ray14): drawn, and pointed at.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
def command(
    images: tuple[str, ...], checkpoint: str, out: str, class_name: str | None, boxes: str | None, device: str
) -> int:
    """Write a PNG for each of IMAGES: the image beside its Grad-CAM, with class and calibrated probability.

    The map shows what the answer was made of, not where the disease is. With --boxes the share of maps whose
    highest point lies in a box of the class is printed (pointing game). Research use only.
    """
    from pathlib import Path

    from wsi_pipeline.cli.places import make_folder
    from wsi_pipeline.errors import SlideError
    from wsi_pipeline.learn.evaluation.explain import read_boxes
    from wsi_pipeline.learn.model.checkpoint import load_checkpoint
    from wsi_pipeline.learn.model.densenet import build_model
    from wsi_pipeline.scores.engines import pick_device

    _check_out(images, out)
    loaded = load_checkpoint(checkpoint)
    _check(loaded, images, class_name, boxes)
    # By the name without its ending: smaller copies of the originals are JPEG.
    marked = {Path(name).stem: places for name, places in (read_boxes(boxes) if boxes else {}).items()}
    make_folder(out)
    model = build_model(loaded).to(pick_device(device))
    hits: list[tuple[str, bool, float]] = []
    failed = 0
    for image in images:
        try:
            hits += _explain(image, loaded, model, Path(out), class_name=class_name, boxes=marked)
        except SlideError as error:
            click.echo(f"{image}: {error}", err=True)
            failed += 1
    if boxes:
        _tell_hits(hits)
    click.echo(f"{len(images) - failed} of {len(images)} images explained in {out}. Research use only.")
    return (1 if failed == len(images) else 3) if failed else 0


def _check_out(images: tuple[str, ...], out: str) -> None:
    """ConfigError where --out is no folder, or holds one of the images: pictures have their names."""
    import os
    from pathlib import Path

    from wsi_pipeline.cli.places import one_place, refuse_file
    from wsi_pipeline.errors import ConfigError

    refuse_file(out)
    for image in images:
        if any(one_place(path.parent, out) for path in (Path(image), Path(os.path.realpath(image)))):
            raise ConfigError(f"--out {out}: holds {image}, which a picture could replace; name another folder")


def _check(loaded: "Checkpoint", images: tuple[str, ...], class_name: str | None, boxes: str | None) -> None:
    from pathlib import Path

    from wsi_pipeline.errors import ConfigError

    if class_name is not None and class_name not in loaded.class_names:
        raise ConfigError(f"no class {class_name!r}; the model has {', '.join(loaded.class_names)}")
    if boxes and loaded.fit == "circle":
        raise ConfigError("--boxes: the model crops images to a circle, which boxes are not moved with; leave them out")
    stems = [Path(image).stem for image in images]
    if double := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ConfigError(f"{double[0]}: two images have this name and would get one picture; explain them apart")


def _explain(
    image: str, loaded: "Checkpoint", model: Any, out: Any, *, class_name: str | None, boxes: dict[str, Any]
) -> list[tuple[str, bool, float]]:
    """Draw the pictures of one image; (class, hit, share of the image in boxes) for each class that has boxes."""
    from pathlib import Path

    from wsi_pipeline.errors import ConfigError
    from wsi_pipeline.learn.data.images import fit_square, read_image
    from wsi_pipeline.learn.evaluation.explain import draw_explanation, grad_cam, pointing_hit
    from wsi_pipeline.learn.evaluation.predict import calibrated, forward, to_input

    pixels = read_image(image)
    mine = boxes.get(Path(image).stem, {})
    if mine and pixels.shape[0] != pixels.shape[1]:
        raise ConfigError(f"{image}: {pixels.shape[1]} x {pixels.shape[0]} px; boxes are for the square originals")
    square = fit_square(pixels, loaded.input_px, loaded.fit)
    planes = to_input(square[None], loaded, next(model.parameters()).device)
    probability = calibrated(loaded, forward(model, planes))[0]
    boxed = [name for name in loaded.class_names if name in mine]
    names = [class_name] if class_name else boxed or [top_class(loaded, probability)]
    hits = []
    for name in names:
        k = loaded.class_names.index(name)
        heat = grad_cam(model, planes, k)
        scale = loaded.input_px / _BOXES_PX
        places = [(x * scale, y * scale, w * scale, h * scale) for x, y, w, h in mine.get(name, ())]
        stem = Path(image).stem if len(names) == 1 else f"{Path(image).stem}.{name.replace('/', '_')}"
        nothing = "" if heat.any() else "  (nothing in the image speaks for it)"
        title = f"{Path(image).stem}: {name}, probability {probability[k]:.3f}{nothing}"
        draw_explanation(square, heat, out / f"{stem}.png", title=title, boxes=places)
        click.echo(f"{image}: {name} {probability[k]:.3f}{nothing}")
        if places:
            hits.append((name, pointing_hit(heat, places), _covered(places, loaded.input_px)))
    return hits


def top_class(loaded: "Checkpoint", probability: "np.ndarray") -> str:
    """The likeliest class; of grades, which contain each other, the highest that is reached."""
    if not loaded.ordinal:
        return loaded.class_names[int(probability.argmax())]
    reached = int((probability >= loaded.class_thresholds).sum())
    return loaded.class_names[max(reached - 1, 0)]


def _covered(places: Sequence[tuple[float, float, float, float]], px: int) -> float:
    """Share of the image inside the boxes: what a point set at random would hit."""
    import numpy as np

    inside = np.zeros((px, px), bool)
    for x, y, width, height in places:
        inside[round(y) : round(y + height), round(x) : round(x + width)] = True
    return float(inside.mean())


def _tell_hits(hits: list[tuple[str, bool, float]]) -> None:
    from wsi_pipeline.learn.evaluation.intervals import wilson

    if not hits:
        click.echo("pointing game: none of the images has a box of a class of the model")
        return
    for name in [*sorted({name for name, _, _ in hits}), "pointing game"]:
        mine = [(hit, chance) for other, hit, chance in hits if name in (other, "pointing game")]
        n, k = len(mine), sum(hit for hit, _ in mine)
        low, high = wilson(k, n, 0.95)
        chance = sum(share for _, share in mine) / n
        click.echo(
            f"{name}: {k} of {n} hit ({100 * k / n:.1f} %, 95 % interval {100 * low:.1f} to {100 * high:.1f} %); "
            f"a point at random would in {100 * chance:.1f} %"
        )
