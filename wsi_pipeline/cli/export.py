"""`export`: a checkpoint as a file for other software, or as one that scores in int8."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from wsi_pipeline.learn.model.checkpoint import Checkpoint

_FORMATS = ["safetensors", "onnx", "torchscript", "qupath", "int8"]
_OUT = "The file (.safetensors, .onnx, .pt); for qupath and int8 a folder."


@click.command("export")
@click.option("--checkpoint", required=True, help="A training folder, a checkpoint, or a model in the box.")
@click.option("--format", "form", required=True, type=click.Choice(_FORMATS))
@click.option("--out", required=True, type=click.Path(), help=_OUT)
@click.option("--tiles", type=click.Path(), help="int8: run folder or tile store on which its ranges are found.")
@click.option("--images", type=click.IntRange(1, 4096), help="int8: tiles to take of these (256).")
def command(checkpoint: str, form: str, out: str, tiles: str | None, images: int | None) -> int:
    """Write a checkpoint for other software, compared with the original before it is kept.

    ONNX and TorchScript take RGB in 0-1 and give calibrated logits. For qupath, add the folder to QuPath's
    WSInfer extension as a model of your own.

    int8 writes a checkpoint of ours for scoring slides on a CPU: faster, and close to the original, not equal.
    """
    from wsi_pipeline.errors import ConfigError
    from wsi_pipeline.learn.model.checkpoint import load_checkpoint

    if (form == "int8") != (tiles is not None) or (images and not tiles):
        raise ConfigError("--tiles goes with --format int8, which needs it, and --images with --tiles")
    _refuse_own(checkpoint, form, out)
    loaded = load_checkpoint(checkpoint)
    if tiles is not None:
        return _int8(loaded, tiles, images, out)
    from wsi_pipeline.learn.model.export import FORMATS

    written = FORMATS[form](loaded, out)
    click.echo(f"model {loaded.id} written to {written}, answers as the original does. Research use only.")
    return 0


def _refuse_own(checkpoint: str, form: str, out: str) -> None:
    """ConfigError where what is written would replace the model that is exported, or the card that it is read by."""
    from wsi_pipeline.cli.places import one_place
    from wsi_pipeline.errors import ConfigError
    from wsi_pipeline.learn.model.checkpoint import find_weights

    source = find_weights(checkpoint)
    if one_place(source, out) or (form == "int8" and one_place(source.parent, out)):
        raise ConfigError(f"--out {out}: is where the exported model lies, which would be replaced; name another")


def _int8(loaded: "Checkpoint", tiles: str, images: int | None, out: str) -> int:
    from wsi_pipeline.cli.places import make_folder
    from wsi_pipeline.learn.model.checkpoint import save_checkpoint
    from wsi_pipeline.scores.ranges import IMAGES, speed_gain, take_tiles, to_int8

    make_folder(out)
    sample = take_tiles(loaded, tiles, images or IMAGES)
    made = save_checkpoint(to_int8(loaded, sample), out)
    told, gain = made.about["int8"], speed_gain(loaded, made, sample.tiles)
    click.echo(
        f"model {made.id} written to {out}, int8 of {loaded.id} by {told['tiles']} tiles of {told['slides']} slides; "
        f"their probabilities moved by {told['moved_mean']:.2g} on average, by {told['moved_most']:.2g} at most. "
        f"Research use only."
    )
    click.echo(f"speed on this processor: {gain:.2f} of the original{'' if gain > 1.1 else '; better keep that one'}")
    return 0
