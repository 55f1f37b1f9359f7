"""`export`: a checkpoint as a file for other software."""

import click


@click.command("export")
@click.option("--checkpoint", required=True, help="A training folder, a checkpoint, or a model in the box.")
@click.option("--format", "form", required=True, type=click.Choice(["safetensors", "onnx", "torchscript", "qupath"]))
@click.option("--out", required=True, type=click.Path(), help="The file (.safetensors, .onnx, .pt); qupath: a folder.")
def command(checkpoint: str, form: str, out: str) -> int:
    """Write a checkpoint for other software, compared with the original before it is kept.

    ONNX and TorchScript take RGB in 0-1 and give calibrated logits. For qupath, add the folder to QuPath's
    WSInfer extension as a model of your own.
    """
    from wsi_pipeline.learn.checkpoint import load_checkpoint
    from wsi_pipeline.learn.export import FORMATS

    loaded = load_checkpoint(checkpoint)
    written = FORMATS[form](loaded, out)
    click.echo(f"model {loaded.id} written to {written}, answers as the original does. Research use only.")
    return 0
