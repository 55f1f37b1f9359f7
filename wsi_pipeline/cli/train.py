"""`train`: labelled images in, a calibrated checkpoint out."""

import click


@click.command("train")
@click.option("--config", "config_file", metavar="YAML", help="Settings, such as configs/chest_xray.yaml.")
@click.option("--data", required=True, type=click.Path(), help="The folder of the data set.")
@click.option("--out", required=True, type=click.Path(), help="The training's folder.")
@click.option("--resume", is_flag=True, help="Go on after the last whole epoch; --config is then not needed.")
@click.option("--overwrite", is_flag=True, help="Remove what an earlier training left in the folder.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--set", "overrides", multiple=True, metavar="KNOB=VALUE", help="One knob, such as stop.epochs=5.")
def command(
    config_file: str | None, data: str, out: str, resume: bool, overwrite: bool, device: str, overrides: tuple[str, ...]
) -> int:
    """Train a network on the labelled images in a folder. Several GPUs: torchrun --nproc-per-node N -m
    wsi_pipeline train ... (the batch is divided among them)."""
    from pathlib import Path

    import torch

    from wsi_pipeline.cli.training import Watched, told
    from wsi_pipeline.learn.datasets import open_dataset
    from wsi_pipeline.learn.training.folder import SETTINGS, open_train_folder
    from wsi_pipeline.learn.training.parts import divide, thin
    from wsi_pipeline.learn.training.ranks import joined, rank, wait
    from wsi_pipeline.learn.training.settings import load_settings
    from wsi_pipeline.learn.training.train import train
    from wsi_pipeline.scores.engines import pick_device

    folder = Path(out)
    if resume and overwrite:
        raise click.UsageError("--resume goes on with what --overwrite removes; give one of the two")
    if config_file is None and not (resume and (folder / SETTINGS).exists()):
        raise click.UsageError("--config is missing; give one such as configs/chest_xray.yaml")
    settings = load_settings(config_file or folder / SETTINGS, overrides)
    if overwrite and Path(settings.model.weights).resolve().is_relative_to(folder.resolve()):
        raise click.UsageError(f"--overwrite would remove model.weights={settings.model.weights}; give another --out")
    if settings.data.dataset == "folder" and folder.resolve().is_relative_to(Path(data).resolve()):
        raise click.UsageError(f"--out {out} lies in --data, where its pictures would be a class; give another --out")
    with joined(torch.device(pick_device(device))) as device_here:
        images = thin(open_dataset(settings.data.dataset, Path(data), **settings.data.options), settings.data.limit)
        parts = divide(images, settings.split, px=settings.data.px, fit=settings.data.fit)
        if overwrite and rank() == 0:
            open_train_folder(folder, overwrite=True)
        wait()
        with Watched(show=rank() == 0) as watched:
            watched.told(images, parts)
            checkpoint = train(images, parts, settings, folder, resume=resume, device=device_here, listen=watched)
        if rank() == 0:
            click.echo(told(checkpoint, folder))
    return 0
